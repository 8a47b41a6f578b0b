"""One run from start to end, with a stub for training: claim, resume, evaluate, publish."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.runs.conftest import Recorder
from vexp.errors import ClaimLost, Interrupted, RunError, VexpError
from vexp.runs.claim import Busy, acquire, live_file
from vexp.runs.execute import evaluate_checkpoint, evaluate_run, execute
from vexp.runs.failure import RunFailed
from vexp.runs.rows import rows
from vexp.spec.identity import training_id


def counts(path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """File to which the stub's components write what they do."""
    path = tmp_path / "counts"
    monkeypatch.setenv("STUB_COUNTS", str(path))
    return path


def test_a_run_is_trained_evaluated_and_published(stub_run, store, reporter):
    run = stub_run()
    outcome = execute(run, reporter=reporter, store=store)
    assert outcome.state == "finished"
    folder = outcome.run.folder
    assert folder == store.runs_dir / training_id(run).name
    attempt = folder / "attempts" / "0001"
    steps = [json.loads(line)["step"] for line in (attempt / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert json.loads((attempt / "config.json").read_text())["rl"]["steps"] == 7
    assert [s.state for s in store.statuses()] == ["done"]
    assert outcome.evaluations["heldout"]["metrics"]["accuracy"]["n"] == 6
    (final,) = (attempt / "checkpoints").iterdir()
    assert final.name == "step-000007"
    assert not (final / "optimizer.safetensors").exists()
    assert ("evaluate heldout", 6) in reporter.steps and ("rl", 7) in reporter.steps
    assert not list(store.root.rglob("*.tmp")) and not list(store.root.rglob(".*.work"))


def test_the_same_command_on_a_finished_run_does_nothing(stub_run, store, counted):
    first = execute(stub_run(), reporter=Recorder(), store=store)
    before = counts(counted)
    reporter = Recorder()
    again = execute(stub_run(), reporter=reporter, store=store)
    assert again.state == "already done" and again.evaluations == first.evaluations
    assert counts(counted) == before
    assert any("done already" in note for note in reporter.notes)


def test_a_benchmark_added_to_a_finished_run_trains_nothing(stub_run, store, counted):
    execute(stub_run(), reporter=Recorder(), store=store)
    counted.unlink()
    reporter = Recorder()
    more = stub_run("evaluator.other={name:stub,offset:1,size:4}")
    outcome = execute(more, reporter=reporter, store=store)
    assert outcome.state == "already done" and set(outcome.evaluations) == {"heldout", "other"}
    assert counts(counted) == ["loaded"] + ["scored"] * 4
    assert {stage for stage, _ in reporter.steps} == {"evaluate other"}
    assert {row.evaluation for row in rows(store)} == {"heldout", "other"}


def test_runs_share_the_warm_start(stub_run, store):
    recorders = [Recorder(), Recorder()]
    for seed, recorder in enumerate(recorders):
        execute(stub_run(f"seed={seed}"), reporter=recorder, store=store)
    assert ("warm_start", 2) in recorders[0].steps
    assert not any(stage == "warm_start" for stage, _ in recorders[1].steps)
    (stage,) = store.stages_dir.iterdir()
    assert (stage / "provenance.json").exists()


@pytest.mark.parametrize("stages", ["[]", "[warm_start]"])
def test_runs_without_reinforcement_learning(stub_run, store, reporter, stages):
    outcome = execute(stub_run(f"stages={stages}"), reporter=reporter, store=store)
    assert outcome.evaluations["heldout"]["metrics"]["accuracy"]["n"] == 6
    again = execute(
        stub_run(f"stages={stages}", "evaluator.b={name:stub,offset:1}"),
        reporter=reporter,
        store=store,
    )
    assert set(again.evaluations) == {"heldout", "b"}


def test_training_only(stub_run, store, reporter, counted):
    assert execute(stub_run(), reporter=reporter, store=store, evaluate=False).evaluations == {}
    assert counts(counted) == []
    assert [s.state for s in store.statuses()] == ["done"]
    assert set(execute(stub_run(), reporter=reporter, store=store).evaluations) == {"heldout"}


def test_a_failed_run_says_why_and_goes_on_from_its_checkpoint(
    stub_run, store, reporter, monkeypatch
):
    monkeypatch.setenv("STUB_FAILS_AT", "5")
    with pytest.raises(
        RunFailed, match="the run failed: ValueError: a bug in the trainer"
    ) as caught:
        execute(stub_run(), reporter=reporter, store=store)
    (status,) = store.statuses()
    assert status.state == "failed"
    assert status.failure.kind == "code"
    assert status.failure.signature.startswith("ValueError at stub_training.py:")
    log = status.folder / "attempts" / "0001" / "log.txt"
    assert str(log) in str(caught.value)
    assert "Traceback (most recent call last)" in log.read_text()
    assert "Traceback" not in str(caught.value)
    monkeypatch.delenv("STUB_FAILS_AT")
    resumed = Recorder()
    execute(stub_run(), reporter=resumed, store=store)
    assert [step for stage, step in resumed.steps if stage == "rl"] == [4, 5, 6, 7]
    rows_kept = (status.folder / "attempts" / "0002" / "metrics.jsonl").read_text()
    shutil.rmtree(store.root)
    execute(stub_run(), reporter=Recorder(), store=store)
    assert (status.folder / "attempts" / "0001" / "metrics.jsonl").read_text() == rows_kept


def test_a_failing_evaluation_keeps_training_and_scored_samples(stub_run, store, counted):
    broken = stub_run("evaluator.heldout.fails_at=4")
    with pytest.raises(RunFailed, match="the scorer is broken"):
        execute(broken, reporter=Recorder(), store=store)
    counted.unlink()
    reporter = Recorder()
    outcome = execute(stub_run(), reporter=reporter, store=store)
    assert counts(counted) == ["loaded", "scored", "scored"]
    assert outcome.evaluations["heldout"]["samples"] == 6
    assert not any(stage == "rl" for stage, _ in reporter.steps)
    samples = store.runs()[0].evaluations_dir.glob("*/samples.jsonl")
    ids = [json.loads(line)["id"] for line in next(samples).open()]
    assert ids == [f"q/{index}" for index in range(6)]


def test_the_final_checkpoint_of_a_former_attempt_is_taken_over(stub_run, store, monkeypatch):
    with pytest.raises(RunFailed):
        execute(stub_run("evaluator.heldout.fails_at=0"), reporter=Recorder(), store=store)
    outcome = execute(stub_run(), reporter=Recorder(), store=store)
    shutil.rmtree(outcome.run.folder / "attempts" / "0001")
    more = stub_run("evaluator.other={name:stub,offset:1}")
    assert set(execute(more, reporter=Recorder(), store=store).evaluations) == {"heldout", "other"}


def test_a_run_that_another_process_works_on_is_left_alone(stub_run, store, reporter, timing):
    run = stub_run()
    folder = store.open(run, training_id(run))
    claim = acquire(folder.folder, timing=timing)
    with pytest.raises(Busy, match="another process is working on this: pid"):
        execute(run, reporter=reporter, store=store, timing=timing)
    assert store.statuses()[0].state == "running"
    claim.release("stopped")
    assert store.statuses()[0].state == "stopped"
    assert execute(run, reporter=reporter, store=store, timing=timing).state == "finished"


def test_an_owner_that_lost_its_claim_writes_nothing_more(stub_run, store):
    class TakenOver(Recorder):
        def progress(self, stage, step, total, metrics):
            super().progress(stage, step, total, metrics)
            if (stage, step) == ("rl", 3):
                live_file(folder.folder, 1).rename(folder.folder / "claim-0001.expired")

    run = stub_run()
    folder = store.open(run, training_id(run))
    with pytest.raises(ClaimLost):
        execute(run, reporter=TakenOver(), store=store)
    first = folder.folder / "attempts" / "0001"
    assert [json.loads(row)["step"] for row in (first / "metrics.jsonl").open()] == [1, 2, 3]
    assert not (first / "failure.json").exists()
    assert not (folder.folder / "done.json").exists()
    assert execute(run, reporter=Recorder(), store=store).state == "finished"


def test_a_folder_of_another_config_is_refused_by_key(stub_run, store, reporter):
    run = stub_run()
    folder = store.open(run, training_id(run))
    record = json.loads((folder.folder / "run.json").read_text())
    record["science"]["rl"]["learning_rate"] = 0.5
    (folder.folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError) as caught:
        execute(run, reporter=reporter, store=store)
    text = str(caught.value)
    assert "written by another config" in text
    assert f"rl.learning_rate: 0.5 there, {run.rl.learning_rate} here" in text
    assert not (folder.folder / "attempts").exists()


def test_an_explicit_folder_has_to_fit(stub_run, store, reporter):
    run, other = stub_run(), stub_run("seed=5")
    folder = store.open(run, training_id(run))
    with pytest.raises(RunError, match="another config"):
        execute(other, reporter=reporter, store=store, folder=folder)


def test_any_checkpoint_can_be_evaluated_by_its_path(stub_run, store, reporter, counted, tmp_path):
    outcome = execute(stub_run(), reporter=reporter, store=store)
    final = next(outcome.run.folder.glob("attempts/*/checkpoints/step-*"))
    copied = tmp_path / "elsewhere"
    shutil.copytree(final / "model", copied)
    counted.unlink()
    found = evaluate_checkpoint(stub_run(), copied, reporter=reporter, store=store)
    assert found["heldout"]["metrics"] == outcome.evaluations["heldout"]["metrics"]
    assert found["heldout"]["key"] == outcome.evaluations["heldout"]["key"]  # content, not path
    evaluate_checkpoint(stub_run(), final, reporter=reporter, store=store)
    assert counts(counted).count("loaded") == 1
    (copied / "weights.json").write_text('{"value": 1}')
    changed = evaluate_checkpoint(stub_run(), copied, reporter=reporter, store=store)
    assert changed["heldout"]["key"] != found["heldout"]["key"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_path_without_a_model_is_refused(stub_run, store, reporter, tmp_path, exists):
    path = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(VexpError, match="no model here" if exists else "no such folder"):
        evaluate_checkpoint(stub_run(), path, reporter=reporter, store=store)


def test_evaluating_an_unfinished_run_is_refused(stub_run, store, reporter):
    run = stub_run()
    folder = store.open(run, training_id(run))
    with pytest.raises(RunError, match="no finished training"):
        evaluate_run(run, folder, reporter=reporter)


def test_a_missing_checkpoint_is_named(stub_run, store, reporter):
    outcome = execute(stub_run(), reporter=reporter, store=store)
    shutil.rmtree(outcome.run.folder / "attempts" / "0001" / "checkpoints")
    assert execute(stub_run(), reporter=reporter, store=store).state == "already done"
    with pytest.raises(RunError, match="'more' is missing, and so is the checkpoint"):
        execute(stub_run("evaluator.more={name:stub,size:3}"), reporter=reporter, store=store)


def test_stopping_between_two_samples_keeps_what_is_scored(stub_run, store, counted, monkeypatch):
    import os
    import signal

    class Stops(Recorder):
        def progress(self, stage, step, total, metrics):
            if (stage, step) == ("evaluate heldout", 2):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        execute(stub_run(), reporter=Stops(), store=store)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert store.statuses()[0].state == "stopped"
    counted.unlink()
    assert execute(stub_run(), reporter=Recorder(), store=store).state == "finished"
    assert counts(counted) == ["loaded"] + ["scored"] * 4
