"""Searches with real workers: exactly as many trials as asked for, whoever dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.sweeps.conftest import eventually
from vexp.files import read_json, read_lines
from vexp.sweeps.launch import launch
from vexp.sweeps.search.journal import in_memory
from vexp.sweeps.search.trials import read_trials
from vexp.sweeps.worker_slots import held_slots

SEARCH = """
base: [evaluator.dev=heldout, evaluator.dev.split=dev, 'stages=[rl]', rl.steps=4]
seeds: [1]
search:
  name: {name}
  trials: {trials}
  seed: 3
  objectives: [{{metric: accuracy}}]
  {more}
  space:
    rl.learning_rate: {{type: float, low: 1e-6, high: 1e-2, log: true}}
    rollout.group_size: {{type: int, low: 2, high: 8, step: 2}}
"""


def search(trials=6, name="optuna", more=""):
    return SEARCH.format(name=name, trials=trials, more=more)


def started(plan):
    return [row["run"] for row in read_lines(plan.state.results_dir / "started.jsonl")[0]]


def numbers(plan):
    return [trial.number for trial in plan.search.trials]


def table(study):
    return [
        (t.number, t.state.name, t.values, t.params, t.intermediate_values) for t in study.trials
    ]


def test_a_launch_returns_at_once_and_workers_propose_until_there_are_enough(trials, plan, local):
    text = search(6)
    launcher = local(workers=2)
    before = plan(text)
    assert not before.complete
    assert before.search.counts()["open"] == 6
    done = launch(before, launcher)
    assert (done.created, done.pending, len(done.started)) == ((), 6, 2)
    eventually(lambda: plan(text).complete)
    after = plan(text)
    assert numbers(after) == list(range(6))
    assert after.search.counts() == {"complete": 6, "pruned": 0, "failed": 0, "live": 0, "open": 0}
    assert sorted(started(after)) == sorted(run.name for run in after.runs)
    eventually(lambda: not launcher.alive(after.state.folder))
    assert launch(plan(text), launcher).started == ()
    assert len(started(after)) == 6


def test_a_larger_total_tops_up_and_a_smaller_one_keeps_what_there_is(trials, plan, local):
    launch(plan(search(2, "random")), local(workers=1))
    eventually(lambda: plan(search(2, "random")).complete)
    first = plan(search(2, "random")).search.trials
    launch(plan(search(4, "random")), local(workers=1))
    eventually(lambda: plan(search(4, "random")).complete)
    assert plan(search(4, "random")).search.trials[:2] == first
    assert plan(search(1, "random")).complete
    assert len(plan(search(1, "random")).search.trials) == 4


def test_every_seed_of_a_trial_runs_and_their_mean_counts(trials, plan, local):
    text = search(2, "random").replace("seeds: [1]", "seeds: [1, 2]")
    launch(plan(text), local(workers=2))
    eventually(lambda: plan(text).complete)
    after = plan(text)
    assert len(after.runs) == 4
    for trial, now in zip(after.search.trials, after.search.outcomes, strict=True):
        values = []
        for run in trial.runs:
            (found,) = (after.state.results_dir / "runs" / run.run).glob("evaluations/dev-*")
            values.append(read_json(found / "results.json")["metrics"]["accuracy"]["value"])
        assert len(set(values)) == 2
        assert now.values == pytest.approx([sum(values) / 2])


@pytest.mark.parametrize("name", ["random", "grid"])
def test_proposals_do_not_depend_on_the_number_of_workers(name, trials, plan, local, project):
    text = search(5, name).replace("high: 1e-2, log: true", "high: 0.002, step: 1e-3")
    text = text if name == "grid" else search(5, name)
    found = []
    for workers in (1, 3):
        here = text.replace("seeds:", f"name: n{workers}\nseeds:")
        launch(plan(here), local(workers=workers))
        eventually(lambda here=here: plan(here).complete)
        found.append([trial.params for trial in plan(here).search.trials])
    assert found[0] == found[1]


def settled(search):
    return search.open == 0 and search.counts()["live"] == 0


def test_failed_trials_count_and_are_tried_again_when_told(trials, plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "1e-3")
    text = search(5, "random")
    launch(plan(text), local(workers=2))
    eventually(lambda: settled(plan(text).search))
    counts = plan(text).search.counts()
    assert counts["failed"] > 0
    assert counts["complete"] > 0
    assert counts["failed"] + counts["complete"] == 5
    eventually(lambda: not local(workers=2).alive(plan(text).state.folder))
    launch(plan(text), local(workers=2))
    assert plan(text).search.counts() == counts
    monkeypatch.delenv("FAKE_FAILS")
    launch(plan(text), local(workers=2), retry_failed=True)
    eventually(lambda: plan(text).complete)
    assert numbers(plan(text)) == list(range(5))


LAUNCH = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from tests.sweeps.conftest import FakeLocal
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
launch(make_plan(read_sweep(Path("small.yaml"))), FakeLocal(workers={workers}))
"""


def launcher_process(workers):
    code = LAUNCH.format(here=str(Path(__file__).parents[2]), workers=workers)
    return subprocess.Popen([sys.executable, "-c", code])


def survive(plan, local, monkeypatch, text, total, *, workers, kills, launches=1):
    """Launch, kill a random process of the sweep again and again, launch again; the last plan."""
    chance = random.Random(total)
    monkeypatch.setenv("FAKE_STEP_S", "0.05")
    slow = Path("slow").resolve()
    slow.touch()
    monkeypatch.setenv("FAKE_SLOW", str(slow))
    launcher = local(workers=workers)
    plan(text)
    killed = Counter()
    while not (now := plan(text)).complete:
        if not launcher.alive(now.state.folder):
            for process in [launcher_process(workers) for _ in range(launches)]:
                process.wait()
        time.sleep(chance.uniform(0.1, 1.0))
        if sum(killed.values()) < kills:
            victims = [("worker", h.owner.pid) for h in held_slots(now.state.workers) if h.owner]
            victims += [("run", run.status.owner.pid) for run in now.runs if run.state == "running"]
            if victims:
                kind, pid = chance.choice(victims)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed[kind] += 1
        else:
            slow.unlink(missing_ok=True)
    assert sum(killed.values()) == kills, killed
    return now


@pytest.mark.timeout(600)
def test_exactly_so_many_trials_whoever_is_killed(trials, plan, local, monkeypatch):
    text = search(8)
    after = survive(plan, local, monkeypatch, text, 8, workers=3, kills=6, launches=2)
    assert numbers(after) == list(range(8))
    assert len(list(after.state.folder.glob("search/*/trials/*.json"))) == 8
    assert after.search.counts()["complete"] == 8


@pytest.mark.survival
@pytest.mark.timeout(1800)
def test_sixty_trials_with_pruning_whoever_is_killed(trials, plan, local, monkeypatch):
    more = "pruner: {name: median, metric: reward, every: 1, startup_trials: 5}"
    text = search(60, more=more)
    after = survive(plan, local, monkeypatch, text, 60, workers=4, kills=30, launches=2)
    assert numbers(after) == list(range(60))
    counts = after.search.counts()
    assert counts["complete"] + counts["pruned"] == 60
    assert counts["pruned"] > 5
    study, trials_ = after.search.study, read_trials(after.search.study)
    before = table(in_memory(study, trials_))
    study.journal.unlink()
    launch(plan(text), local(workers=1))
    assert table(in_memory(study, read_trials(study))) == before
