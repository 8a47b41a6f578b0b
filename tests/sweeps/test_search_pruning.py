"""Pruning from within running trials: they stop early, for good, and count as finished."""

from __future__ import annotations

import json

import pytest

from tests.sweeps.conftest import eventually
from tests.sweeps.test_search_chain import search, table
from tests.sweeps.test_search_journal import Nobody, ours
from vexp.errors import ConfigError
from vexp.files import read_lines
from vexp.runs.claim import acquire
from vexp.runs.store import RunFolder
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.search import propose
from vexp.sweeps.search.journal import in_memory
from vexp.sweeps.search.pruning import Judge
from vexp.sweeps.search.trials import read_trials
from vexp.sweeps.worker import due

POINTS = (
    "[" + ", ".join(f"{{rl.learning_rate: {x}}}" for x in (1e-4, 2e-4, 1e-2, 1e-6, 1.5e-4)) + "]"
)
LISTED = """
base: [evaluator.dev=heldout, evaluator.dev.split=dev, 'stages=[rl]', rl.steps=9]
seeds: SEEDS
search:
  name: list
  objectives: [{metric: accuracy}]
  pruner: PRUNER
  points: POINTS
""".replace("POINTS", POINTS)
MEDIAN = "{name: median, metric: reward, every: 2, startup_trials: 2}"


def listed(pruner=MEDIAN, seeds="[1]"):
    return LISTED.replace("PRUNER", pruner).replace("SEEDS", seeds)


def steps(plan, run):
    attempt = RunFolder(plan.state.results_dir / "runs" / run).attempts()[-1]
    folder = plan.state.results_dir / "runs" / run / "attempts" / f"{attempt:04d}"
    return [row["step"] for row in read_lines(folder / "metrics.jsonl")[0]]


def test_trials_that_fall_behind_stop_early_and_for_good(trials, plan, local):
    text = listed()
    launcher = local(workers=1)
    launch(plan(text), launcher)
    eventually(lambda: plan(text).complete)
    after = plan(text)
    states = [now.state for now in after.search.outcomes]
    assert states == ["complete", "complete", "pruned", "pruned", "complete"]
    assert [run.state for run in after.runs] == ["done", "done", "pruned", "pruned", "done"]
    for run in after.runs:
        assert len(steps(after, run.name)) == (2 if run.state == "pruned" else 9)
    eventually(lambda: not launcher.alive(after.state.folder))
    found = ours(after.search.study)
    assert table(found) == table(in_memory(after.search.study, read_trials(after.search.study)))
    assert found.trials[2].intermediate_values.keys() == {2}
    assert found.trials[0].intermediate_values.keys() == {2, 4, 6, 8}

    assert launch(plan(text), launcher, retry_failed=True).pending == 0
    queue = {entry.run: entry for entry in propose.entries(after.state, after.state.queue())}
    assert after.runs[2].name not in queue


def test_another_sweep_that_wants_the_whole_run_goes_on_from_its_checkpoint(
    trials, plan, local, project
):
    text = listed()
    launch(plan(text), local(workers=1))
    eventually(lambda: plan(text).complete)
    pruned = plan(text).runs[2]
    assert pruned.state == "pruned"
    path = project / "whole.yaml"
    path.write_text(
        "base: [evaluator.dev=heldout, evaluator.dev.split=dev, 'stages=[rl]', rl.steps=9]\n"
        "rows: {x: {rl.learning_rate: 1e-2}}\nseeds: [1]\n"
    )
    other = make_plan(read_sweep(path))
    assert other.runs[0].name == pruned.name
    assert other.runs[0].state == "stopped"
    launch(other, local(workers=1))
    eventually(lambda: make_plan(read_sweep(path)).complete)
    assert steps(other, pruned.name)[-1] == 9
    assert plan(text).search.outcomes[2].state == "complete"


@pytest.mark.parametrize(
    "pruner",
    [
        "{name: successive_halving, metric: reward, every: 1, reduction_factor: 2}",
        "{name: hyperband, metric: reward, every: 1, reduction_factor: 2}",
    ],
)
def test_halving_and_hyperband_stop_some_and_keep_the_best(pruner, trials, plan, local):
    text = listed(pruner)
    launch(plan(text), local(workers=1))
    eventually(lambda: plan(text).complete)
    states = [now.state for now in plan(text).search.outcomes]
    assert states[0] == "complete"
    assert "pruned" in states
    assert states.count("pruned") + states.count("complete") == 5


def test_a_pruned_trial_takes_its_other_seeds_with_it(trials, plan, local):
    text = listed(seeds="[1, 2]")
    launch(plan(text), local(workers=1))
    eventually(lambda: plan(text).complete)
    after = plan(text)
    assert [now.state for now in after.search.outcomes][2] == "pruned"
    first, second = (run.run for run in after.search.trials[2].runs)
    states = {run.name: run.state for run in after.runs}
    assert (states[first], states[second]) == ("pruned", "pruned")
    assert steps(after, first)[-1] == 2
    assert not RunFolder(after.state.results_dir / "runs" / second).attempts()


@pytest.fixture
def judged(plan, fabricate):
    """A function: the judge of the last of three trials, of which two ended well."""

    def make(text):
        launch(plan(text), Nobody())
        for _ in range(3):
            propose.propose(plan(text).state)
        now = plan(text)
        for run, value in zip(now.runs[:2], (1.0, 0.9), strict=False):
            claim = acquire(fabricate.store.runs_dir / run.name)
            rows = [json.dumps({"step": n, "reward": value * n}) + "\n" for n in range(1, 9)]
            (claim.attempt_dir / "metrics.jsonl").write_text("".join(rows))
            from tests.sweeps.fabricate import publish, score

            publish(claim, run.training.run)
            score(fabricate.store, run.training.run, {"accuracy": value})
        study = now.search.study
        run = RunFolder(fabricate.store.runs_dir / now.runs[2].name)
        return Judge.of((study.trials_dir / "0002.json").resolve(), run), study

    return make


def test_a_running_trial_attaches_to_its_number_again_and_again(judged):
    judge, study = judged(listed())
    assert not judge(1, {"reward": 0.0})  # not a step to look at
    assert not judge(2, {"reward": 2.5})
    assert judge(4, {"reward": 2.6})
    assert judge(4, {"reward": 2.6})  # resumed after a kill: told already
    assert ours(study).trials[2].intermediate_values == {2: 2.5, 4: 2.6}
    assert ours(study).trials[2].state.name == "RUNNING"


def test_a_running_trial_survives_the_loss_of_the_journal(judged):
    judge, study = judged(listed())
    assert not judge(2, {"reward": 2.5})
    study.journal.unlink()
    assert judge(4, {"reward": 2.6})
    study.journal.write_bytes(study.journal.read_bytes()[:-7])
    assert judge(6, {"reward": 2.7})


def test_a_metric_that_runs_do_not_have_is_said_with_those_they_have(judged):
    judge, _ = judged(listed("{name: median, metric: rewards, every: 2}"))
    with pytest.raises(ConfigError, match="does not have") as caught:
        judge(2, {"reward": 1.0})
    assert "did you mean 'reward'?" in str(caught.value)


def test_pruned_runs_are_due_for_others_only(fabricate, plan):
    from vexp.runs.status import RunStatus
    from vexp.sweeps.state import Entry

    status = RunStatus(plan("rows: {a: []}").state.folder, "pruned", 1)
    assert due(status, Entry(run="x", label="x"))
    assert not due(status, Entry(run="x", label="x", trial=3))


def test_a_search_without_a_pruner_judges_nothing(judged, plan):
    text = search(3, "random")
    launch(plan(text), Nobody())
    propose.propose(plan(text).state)
    now = plan(text)
    record = now.search.study.trials_dir / "0000.json"
    run = RunFolder(now.state.results_dir / "runs" / now.runs[0].name)
    assert Judge.of(record.resolve(), run) is None
