"""Results out and in again: the same rows, and nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile

import pytest

from tests.runs.conftest import Recorder
from vexp.errors import RunError
from vexp.runs.evaluations import read_samples
from vexp.runs.exchange import export
from vexp.runs.execute import execute
from vexp.runs.imports.exported import import_
from vexp.runs.rows import ResultRow, rows
from vexp.runs.store import RunStore


def plain(store, names=None) -> list[tuple]:
    """Rows without the places where they lie."""
    places = ("folder", "provenance")
    fields = [f.name for f in dataclasses.fields(ResultRow) if f.name not in places]
    return [tuple(getattr(row, name) for name in fields) for row in rows(store, names)]


def verdicts(store) -> dict[str, list[tuple]]:
    keys = ("id", "dataset", "tag", "correct", "status", "length")
    return {
        f"{row.run}/{row.folder.name}": [
            tuple(sample[key] for key in keys) for sample in read_samples(row.folder)
        ]
        for row in rows(store)
    }


@pytest.fixture
def filled(stub_run, store):
    for overrides in (["seed=1"], ["seed=2"], ["stages=[]"]):
        run = stub_run(*overrides, "evaluator.other={name:stub,offset:1}")
        execute(run, reporter=Recorder(), store=store)
    return store


@pytest.mark.parametrize("name", ["results.zip", "folder"])
def test_the_round_trip_gives_the_same_rows_and_verdicts(filled, tmp_path, name):
    target = tmp_path / "out" / name
    assert sorted(export(filled, target).runs) == [run.name for run in filled.runs()]
    other = RunStore(tmp_path / "other")
    report = import_(other, target)
    assert len(report.runs) == 3 and report.evaluations == 6 and not report.skipped
    assert plain(other) == plain(filled)
    assert verdicts(other) == verdicts(filled)
    assert {run.imported for run in other.runs()} == {True}
    assert {status.state for status in other.statuses()} == {"done"}
    assert all(row.provenance.is_file() for row in rows(other))
    again = import_(other, target)
    assert again.runs == [] and again.evaluations == 0


def test_what_was_measured_of_a_sample_travels(filled, tmp_path):
    row = next(rows(filled))
    path = row.folder / "samples.jsonl"
    samples = read_samples(row.folder)
    values = [{"evidence_mass": 0.1 + 0.2, "attention/image": 1e-12}, {}, {"pointing": 0.0}]
    for number, sample in enumerate(samples):
        if values[number % 3]:
            sample["values"] = values[number % 3]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    export(filled, tmp_path / "x.zip")
    other = RunStore(tmp_path / "other")
    import_(other, tmp_path / "x.zip")
    found = {r.evaluation_key: r.folder for r in rows(other)}[row.evaluation_key]
    expected = [sample.get("values") for sample in samples]
    assert [sample.get("values") for sample in read_samples(found)] == expected
    assert any(expected)


def test_an_export_is_the_same_bytes_each_time_and_small(filled, tmp_path):
    export(filled, tmp_path / "a.zip")
    export(filled, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a.zip").stat().st_size < 60_000


def test_rows_for_people(filled, tmp_path):
    export(filled, tmp_path / "folder")
    lines = (tmp_path / "folder" / "rows.csv").read_text().splitlines()
    assert lines[0] == "run,seed,evaluation,metric,value,stderr,n,checkpoint"
    first = next(rows(filled))
    assert lines[1].split(",")[:5] == [
        first.run, str(first.seed), first.evaluation, first.metric, repr(first.value),
    ]  # fmt: skip


def test_some_runs_only_and_an_earlier_export_is_replaced(filled, tmp_path):
    first, second, _ = (run.name for run in filled.runs())
    export(filled, tmp_path / "folder")
    assert export(filled, tmp_path / "folder", [first]).runs == [first]
    index = json.loads((tmp_path / "folder" / "export.json").read_text())
    assert index["runs"] == [first]
    assert not (tmp_path / "folder" / "runs" / f"{second}.json").exists()
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_folder_with_something_else_is_not_replaced(filled, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds something else"):
        export(filled, folder)
    assert (folder / "chapter.tex").read_text() == "years of work"


def test_results_that_are_here_already_are_kept(filled, stub_run, tmp_path):
    export(filled, tmp_path / "x.zip")
    here = RunStore(tmp_path / "here")
    execute(stub_run("seed=1"), reporter=Recorder(), store=here)
    unfinished = stub_run("seed=2")
    from vexp.spec.identity import training_id

    here.open(unfinished, training_id(unfinished))
    before = {p: p.read_bytes() for p in here.root.rglob("*") if p.is_file()}
    report = import_(here, tmp_path / "x.zip")
    assert len(report.runs) == 1 and report.evaluations == 3  # one of seed 1, two of the third run
    assert list(report.skipped.values()) == [
        "it is here already and not finished; the export adds nothing to it"
    ]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert execute(stub_run("seed=2"), reporter=Recorder(), store=here).state == "finished"


def test_other_weights_under_the_same_id_are_said(filled, tmp_path):
    export(filled, tmp_path / "x.zip")
    name = filled.runs()[0].name
    result = next((filled.runs_dir / name / "attempts").glob("*/result.json"))
    result.write_text(json.dumps(json.loads(result.read_text()) | {"checkpoint_hash": "other"}))
    report = import_(filled, tmp_path / "x.zip")
    assert "trained here to other weights" in report.skipped[name]


def test_an_imported_run_is_evaluated_no_further(filled, stub_run, tmp_path):
    export(filled, tmp_path / "x.zip")
    other = RunStore(tmp_path / "other")
    import_(other, tmp_path / "x.zip")
    done = execute(stub_run("seed=1"), reporter=Recorder(), store=other)
    assert done.state == "already done" and done.evaluations["heldout"]["samples"] == 6
    with pytest.raises(RunError, match="it has results only"):
        execute(
            stub_run("seed=1", "evaluator.third={name:stub,size:2}"),
            reporter=Recorder(),
            store=other,
        )


def test_nothing_finished_nothing_to_export(store, tmp_path):
    with pytest.raises(RunError, match="nothing to export"):
        export(store, tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "export.json").unlink(), r"export\.json of this export is missing"),
        (lambda f: (f / "export.json").write_text("{"), r"export\.json of this export is damaged"),
        (lambda f: (f / "export.json").write_text('{"format": 9, "runs": []}'), "newer vexp"),
        (
            lambda f: (f / "export.json").write_text('{"format": 1, "runs": ["../../x"]}'),
            "not taken as the name of a run or evaluation",
        ),
        (lambda f: shutil.rmtree(f / "verdicts"), "verdicts/.* is missing"),
    ],
)
def test_exports_that_cannot_be_used(filled, tmp_path, damage, message):
    folder = tmp_path / "folder"
    export(filled, folder)
    damage(folder)
    with pytest.raises(RunError, match=message) as caught:
        import_(RunStore(tmp_path / "other"), folder)
    assert str(folder) in str(caught.value)


def test_a_zip_cannot_reach_outside(filled, tmp_path):
    export(filled, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("../../outside.txt", "x")
    with pytest.raises(RunError, match="is a path out of it"):
        import_(RunStore(tmp_path / "a" / "b" / "c"), tmp_path / "x.zip")
    assert not list(tmp_path.rglob("outside.txt")) and not (tmp_path / "a").exists()


def test_a_file_that_is_no_export(store, tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(RunError, match="neither a folder nor a zip"):
        import_(store, tmp_path / "x.zip")
