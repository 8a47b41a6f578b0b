"""Finished runs whose files were damaged later: what goes on, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.runs.conftest import Recorder
from vexp.errors import CheckpointError, Damaged, RunError
from vexp.runs.evaluations import read_samples
from vexp.runs.exchange import export
from vexp.runs.execute import evaluate_checkpoint, evaluate_run, execute
from vexp.runs.imports.exported import import_
from vexp.runs.rows import rows
from vexp.runs.store import RunStore

MORE = "evaluator.other={name:stub,offset:1,size:4}"


@pytest.fixture
def finished(stub_run, store):
    return execute(stub_run(), reporter=Recorder(), store=store).run


def weights(run):
    return run.model(run.result()) / "weights.json"


def values(store):
    return [(row.run, row.evaluation, row.metric, row.value) for row in rows(store)]


@pytest.mark.parametrize("name", ["done.json", "attempts/0001/result.json"])
@pytest.mark.parametrize("content", ["", "\0\0\0", "[]", '{"attempt": 9}', None])
def test_a_finished_run_that_does_not_say_what_it_ended_in_is_ended_again(
    finished, stub_run, store, name, content
):
    before, model = values(store), weights(finished).read_bytes()
    metrics = (finished.folder / "attempts/0001/metrics.jsonl").read_bytes()
    path = finished.folder / name
    if content is None and name == "done.json":
        path.unlink()
        path.symlink_to("nowhere")
    elif content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert finished.status().state == "damaged" and finished.status().mends
    reporter = Recorder()
    outcome = execute(stub_run(), reporter=reporter, store=store)
    assert outcome.state == "finished"
    assert not any(stage == "rl" for stage, _ in reporter.steps)  # nothing is trained again
    assert any("ended again" in note for note in reporter.notes)
    assert finished.status().state == "done" and finished.published() == 2
    assert values(store) == before and weights(finished).read_bytes() == model
    assert (finished.folder / "attempts/0002/metrics.jsonl").read_bytes() == metrics
    assert execute(stub_run(), reporter=Recorder(), store=store).state == "already done"


def test_without_a_checkpoint_nothing_is_trained_over_it(finished, stub_run, store):
    shutil.rmtree(finished.folder / "attempts/0001/checkpoints")
    (finished.folder / "done.json").write_text("")
    before = sorted(path for path in finished.folder.rglob("*"))
    with pytest.raises(Damaged, match=r"done.json is damaged: it is empty") as caught:
        execute(stub_run(), reporter=Recorder(), store=store)
    assert "move the folder away" in str(caught.value)
    assert sorted(path for path in finished.folder.rglob("*")) == before
    finished.folder.rename(store.root / "away")  # as it says
    assert execute(stub_run(), reporter=Recorder(), store=store).state == "finished"


def test_an_imported_run_is_not_trained_for_its_damage(finished, stub_run, store, tmp_path):
    export(store, tmp_path / "x.zip")
    other = RunStore(tmp_path / "other")
    import_(other, tmp_path / "x.zip")
    (run,) = other.runs()
    (run.folder / "done.json").write_text("")
    with pytest.raises(Damaged, match="empty") as caught:
        execute(stub_run(), reporter=Recorder(), store=other)
    assert "vexp import" in str(caught.value)
    run.folder.rename(tmp_path / "away")
    assert import_(other, tmp_path / "x.zip").runs == [run.name]


def test_a_folder_that_was_copied_in_part_is_not_taken_for_a_new_run(finished, stub_run, store):
    (finished.folder / "done.json").unlink()
    assert finished.status().state == "damaged"
    with pytest.raises(Damaged, match="copied in part"):
        execute(stub_run(), reporter=Recorder(), store=store)


@pytest.mark.parametrize("change", ["zeroed", "one bit", "gone", "one file more"])
def test_weights_that_changed_are_not_evaluated(finished, stub_run, change):
    path = weights(finished)
    content = bytearray(path.read_bytes())
    if change == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif change == "one bit":
        content[-3] ^= 1
        path.write_bytes(content)
    elif change == "gone":
        path.unlink()
    else:
        (path.parent / "adapter.safetensors").write_bytes(b"x")
    before = sorted(finished.evaluations_dir.iterdir())
    with pytest.raises(CheckpointError, match="not those that were published") as caught:
        evaluate_run(stub_run(MORE), finished, reporter=Recorder())
    named = "adapter.safetensors" if change == "one file more" else "weights.json"
    assert named in str(caught.value)
    there = [p for p in finished.evaluations_dir.iterdir() if p.name[0] != "."]
    assert sorted(there) == before  # nothing is filed under the old hash
    with pytest.raises(CheckpointError, match=named):
        evaluate_checkpoint(stub_run(MORE), path.parent, reporter=Recorder())


def test_a_manifest_made_for_other_weights_does_not_count(finished, stub_run):
    from vexp.train.manifest import write_manifest

    path = weights(finished)
    path.write_text('{"value": 1}')
    (path.parents[1] / "manifest.json").unlink()
    write_manifest(path.parents[1])
    with pytest.raises(CheckpointError, match="lists other weights"):
        evaluate_run(stub_run(MORE), finished, reporter=Recorder())


def test_what_was_evaluated_before_needs_no_weights(finished, stub_run):
    weights(finished).unlink()
    assert evaluate_run(stub_run(), finished, reporter=Recorder())["heldout"]["samples"] == 6


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (None, "it has 5 samples, results.json says 6"),
        (b"[1]", "line 6: expected `object`, got `array`"),
        (b'{"id": "x"}', "line 6: object missing required field `correct`"),
        (b'{"id": "x", "correct": NaN}', "line 6: JSON is malformed"),
        (b"\0" * 80, "line 6: it holds zeros only"),
    ],
)
def test_samples_are_checked_line_by_line_and_counted(finished, line, what):
    (folder,) = finished.evaluations_dir.iterdir()
    path = folder / "samples.jsonl"
    lines = path.read_bytes().splitlines()[:-1] + ([line] if line else [])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(Damaged, match=r"samples\.jsonl is damaged") as caught:
        read_samples(folder)
    assert what in str(caught.value)


def test_an_export_without_all_of_it_says_what_is_missing(finished, stub_run, store, tmp_path):
    other = execute(stub_run("seed=2"), reporter=Recorder(), store=store).run
    (folder,) = other.evaluations_dir.iterdir()
    (folder / "samples.jsonl").write_bytes(b"")
    report = export(store, tmp_path / "out")
    assert sorted(report.runs) == sorted([finished.name, other.name])
    assert list(report.missing) == [f"evaluation {folder.name} of run {other.name}"]
    assert not (tmp_path / "out" / "verdicts" / other.name).exists()
    index = json.loads((tmp_path / "out" / "runs" / f"{other.name}.json").read_text())
    assert index["evaluations"] == {}
    assert other.name not in (tmp_path / "out" / "rows.csv").read_text()
    for run in (finished, other):
        (run.folder / "done.json").write_text("7")
    with pytest.raises(RunError, match="nothing to export") as caught:
        export(store, tmp_path / "out")
    assert finished.name in str(caught.value)
