"""Optuna's copy of a study: mended or written anew from the run folders, whatever befell it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.sweeps.conftest import Nobody
from tests.sweeps.fabricate import publish, score
from tests.sweeps.test_search_chain import search, table
from vexp.errors import RunError
from vexp.files import append_line, write_json
from vexp.runs.claim import acquire
from vexp.runs.engine_switch import Switch, effective, write_record
from vexp.runs.evaluations import units
from vexp.spec.identity import training_id
from vexp.sweeps.launch import launch
from vexp.sweeps.search import journal, propose
from vexp.sweeps.search.journal import in_memory, reconciled
from vexp.sweeps.search.outcome import outcome
from vexp.sweeps.search.trials import locked, read_trials

PRUNER = "pruner: {name: median, metric: reward, every: 1, startup_trials: 2}"


def ours(study):
    """The study as anybody with Optuna alone would open it."""
    storage = JournalStorage(JournalFileBackend(str(study.journal)))
    return optuna.load_study(study_name=study.name, storage=storage)


@pytest.fixture
def worked(plan, fabricate):
    """A function: a search with so many trials proposed and most of them ended; its study."""

    def make(count=6, text=None):
        text = text or search(count, more=PRUNER)
        launch(plan(text), Nobody())
        state = plan(text).state
        for _ in range(count):
            assert propose.propose(state)
            end(plan(text), fabricate)
        return plan(text).search.study

    def end(now, fabricate):
        trial, run = now.search.trials[-1], now.runs[-1].training.run
        value = -abs(math.log10(trial.params["rl.learning_rate"]) + 4)
        claim = acquire(fabricate.store.runs_dir / trial.runs[0].run)
        for step in range(1, 3 if trial.number % 5 == 2 else 5):
            row = {"step": step, "reward": value - 1 / step}
            append_line(claim.attempt_dir / "metrics.jsonl", row)
        if trial.number % 5 in (2, 3, 4):
            claim.release(("pruned", "failed", "stopped")[trial.number % 5 - 2])
        else:
            publish(claim, run)
            score(fabricate.store, run, {"accuracy": value})

    return make


def test_optuna_alone_opens_our_journal(worked):
    study = worked()
    found = ours(study)
    assert [t.state.name for t in found.trials] == [
        "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING",
    ]  # fmt: skip
    mended = reconciled(study, read_trials(study))
    assert [t.state.name for t in mended.trials][5] == "COMPLETE"
    assert table(ours(study)) == table(in_memory(study, read_trials(study)))
    assert found.metric_names == ["dev accuracy"]
    assert ours(study).best_trial.number in (0, 1, 5)


def test_a_deleted_journal_is_written_again_with_the_same_best_and_table(worked):
    study = worked()
    reconciled(study, read_trials(study))
    before, best = table(ours(study)), ours(study).best_trial.number
    study.journal.unlink()
    reconciled(study, read_trials(study))
    assert table(ours(study)) == before
    assert ours(study).best_trial.number == best


def test_everything_but_the_run_folders_can_be_lost(worked, plan):
    import shutil

    study = worked()
    reconciled(study, read_trials(study))
    before = table(ours(study))
    trials = read_trials(study)
    shutil.rmtree(study.state.folder)
    text = search(6, more=PRUNER)
    assert plan(text).search.trials == tuple(trials)
    launch(plan(text), Nobody())
    assert read_trials(study) == trials
    assert table(ours(study)) == before
    assert not propose.propose(study.state)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
@given(data=st.data())
def test_a_journal_cut_anywhere_is_mended_before_anyone_appends(data, cut):
    study, content, expected = cut
    size = data.draw(st.integers(0, len(content)))
    tail = data.draw(st.sampled_from([b"", b"\x00\x00", b'{"op_code": 4, "wor', b"garbage\n"]))
    study.journal.write_bytes(content[:size] + tail)
    reconciled(study, read_trials(study))
    assert table(ours(study)) == expected
    for line in study.journal.read_bytes().splitlines():
        json.loads(line)


@pytest.fixture
def cut(worked):
    study = worked()
    reconciled(study, read_trials(study))
    return study, study.journal.read_bytes(), table(ours(study))


def test_a_torn_last_line_is_cut_off_and_the_rest_stays(cut):
    study, content, expected = cut
    study.journal.write_bytes(content + b'{"op_code": 4, "wor')
    reconciled(study, read_trials(study))
    assert study.journal.read_bytes() == content
    assert table(ours(study)) == expected


def test_a_trial_that_was_asked_for_but_never_owned_is_dropped(cut):
    study, _, expected = cut
    ours(study).ask()
    reconciled(study, read_trials(study))
    assert table(ours(study)) == expected


def test_a_trial_that_was_given_up_and_succeeds_later_counts(cut, plan, fabricate):
    study, _, _ = cut
    assert ours(study).trials[3].state.name == "FAIL"
    now = plan(search(6, more=PRUNER))
    fabricate.done(now.runs[3].training.run, {"accuracy": 1.0})
    reconciled(study, read_trials(study), quick=True)
    assert ours(study).best_trial.number == 3


def test_a_trial_that_was_given_up_runs_again_while_it_is_retried(cut):
    study, _, _ = cut
    (folder,) = (study.state.results_dir / "runs" / r.run for r in read_trials(study)[3].runs)
    claim = acquire(folder)
    reconciled(study, read_trials(study), quick=True)
    assert ours(study).trials[3].state.name == "RUNNING"
    claim.release("failed")
    reconciled(study, read_trials(study), quick=True)
    assert ours(study).trials[3].state.name == "FAIL"


def test_a_trial_that_went_on_with_another_engine_has_its_score(worked, plan, fabricate):
    text = search(6, more=PRUNER)
    study = worked(6, text)
    trial = read_trials(study)[1]
    declared = plan(text).runs[1].training.run
    folder = fabricate.store.find(training_id(declared))
    assert outcome(study, trial).state == "complete"
    write_record(folder.folder, [Switch(2, {"name": "hf"}, {"name": "vllm"}, "now")])
    assert outcome(study, trial).state == "live"  # it has to be evaluated with the engine it has
    found = units(effective(declared, folder), folder.result().checkpoint_hash)
    for unit in found:
        results = {"format": 1, "name": unit.label, "key": unit.key}
        results |= {"metrics": {"accuracy": {"value": 0.25}}}
        write_json(folder.evaluations_dir / unit.folder_name / "results.json", results)
    assert outcome(study, trial).values == (0.25,)


def test_a_lost_record_is_not_proposed_again(worked, plan):
    study = worked()
    (study.trials_dir / "0002.json").unlink()
    for mark in study.state.results_dir.glob("runs/*/trials/*-0002.json"):
        mark.unlink()
    trials = read_trials(study)
    assert [trial.problem for trial in trials] == ["", "", "its record was lost", "", "", ""]
    reconciled(study, trials)
    assert ours(study).trials[2].state.name == "FAIL"


def test_a_proposer_killed_between_record_and_folders_is_finished_by_the_next(worked, plan):
    study = worked(1)
    text = search(2, more=PRUNER)
    launch(plan(text), Nobody())
    (mark,) = study.state.results_dir.glob("runs/*/trials/*-0000.json")
    mark.unlink()
    before = read_trials(study)
    assert propose.propose(study.state)
    assert mark.exists()
    assert read_trials(study) == before


def test_a_frozen_holder_of_the_lock_delays_but_does_not_stop_the_chain(worked, plan, monkeypatch):
    study = worked(2)
    monkeypatch.setattr(propose, "_PATIENCE_S", 0.1)
    text = search(4, more=PRUNER)
    launch(plan(text), Nobody())
    with locked(study, 1.0) as held:
        assert held
        assert propose.propose(study.state)
    assert len(read_trials(study)) == 3


def test_the_number_of_a_trial_is_owned_by_one_even_without_the_lock(worked, plan, monkeypatch):
    """Four processes propose as if there were no lock, and each something else."""
    study = worked(1)
    launch(plan(search(5, "random")), Nobody())
    state = plan(search(5, "random")).state
    code = (
        "import sys\n"
        "from vexp.sweeps.search import propose\n"
        "from vexp.sweeps.state import SweepState\n"
        "import contextlib\n"
        "from pathlib import Path\n"
        "import os\n"
        "from vexp.search.random import Random\n"
        "Random.draw_seed = lambda self, number: int.from_bytes(os.urandom(4), 'big')\n"
        "propose.locked = lambda study, s: contextlib.nullcontext(True)\n"
        "while propose.propose(SweepState(Path(sys.argv[1]))): pass\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(state.folder)]
    for process in [subprocess.Popen(command, env=env) for _ in range(4)]:
        process.wait()
    trials = plan(search(5, "random")).search.trials
    assert [trial.number for trial in trials] == list(range(5))
    assert len(list(study.trials_dir.glob("*.json"))) == 5
    assert {
        path.parent.parent.name for path in study.state.results_dir.glob("runs/*/trials/*")
    } == {run.run for trial in trials for run in trial.runs}


def test_a_database_by_url_serves_as_well(worked, plan, project):
    text = search(3, more=f"storage: sqlite:///{project}/study.db\n  {PRUNER}")
    study = worked(3, text)
    found = reconciled(study, read_trials(study))
    assert table(found) == table(in_memory(study, read_trials(study)))
    assert not study.journal.exists()
    (project / "study.db").unlink()
    assert table(reconciled(study, read_trials(study))) == table(found)


def test_a_database_that_cannot_be_reached_is_one_message(worked, plan, project):
    text = search(1, more=f"storage: sqlite:///{project}/no/folder/study.db\n")
    with pytest.raises(RunError, match="cannot be used") as caught:
        launch(plan(text), Nobody())
    assert "VEXP_STORAGE_PASSWORD" in str(caught.value)


def test_the_password_is_taken_from_the_environment(monkeypatch):
    seen = []
    monkeypatch.setattr("optuna.storages.RDBStorage", seen.append)
    monkeypatch.setenv(journal.PASSWORD, "s3cret/@")
    journal._database("postgresql+psycopg://me@host/db")
    assert seen == ["postgresql+psycopg://me:s3cret%2F%40@host/db"]


@pytest.mark.slow
def test_optunas_dashboard_opens_our_journal(worked):
    from wsgiref.util import setup_testing_defaults

    import optuna_dashboard

    study = worked()
    reconciled(study, read_trials(study))
    app = optuna_dashboard.wsgi(JournalStorage(JournalFileBackend(str(study.journal))))

    def get(path):
        environ, answers = {"PATH_INFO": path}, []
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda status, headers, error=None: answers.append(status)))
        assert answers == ["200 OK"], body
        return json.loads(body)

    (listed,) = get("/api/studies")["study_summaries"]
    assert listed["study_name"] == study.name
    shown = get(f"/api/studies/{listed['study_id']}")
    states = [trial["state"] for trial in shown["trials"]]
    assert states == ["Complete", "Complete", "Pruned", "Fail", "Running", "Complete"]


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://me@h/d?password=hunter2", True),
        ("mysql://h/d?user=me&passwd=hunter2", True),
        ("postgresql://h/d?PASSWORD=hunter2", True),
        ("postgresql://h/d?sslpassword=hunter2", True),
        ("postgresql://h/d?access_token=hunter2", True),
        ("postgresql://me@h/d?sslmode=require&passfile=/home/me/.pgpass", False),
        ("postgresql://me@h/d", False),
        ("", False),
    ],
)
def test_a_password_is_nowhere_in_a_storages_url(url, secret):
    problem = journal.storage_problem(url)
    assert (problem is not None) == secret
    assert "hunter2" not in str(problem)


def test_trials_with_the_noise_of_former_days_are_still_those_of_the_study(plan, fabricate):
    head, _, _ = search(6, "grid").partition("    rl.learning_rate")
    text = f"{head}    rollout.temperature: {{type: float, low: 0.1, high: 0.6, step: 0.1}}\n"
    launch(plan(text), Nobody())
    study = plan(text).search.study
    for _ in range(3):
        propose.propose(study.state)
    path = study.trials_dir / "0002.json"
    assert read_trials(study)[2].params == {"rollout.temperature": 0.3}
    record = json.loads(path.read_text())
    record["params"] = {"rollout.temperature": 0.30000000000000004}
    path.write_text(json.dumps(record))
    assert read_trials(study)[2].params == {"rollout.temperature": 0.30000000000000004}
    before = study.journal.stat().st_ino
    reconciled(study, read_trials(study))
    assert study.journal.stat().st_ino == before  # the same study, not one written anew
    assert propose.propose(study.state)
    assert read_trials(study)[3].params == {"rollout.temperature": 0.4}
