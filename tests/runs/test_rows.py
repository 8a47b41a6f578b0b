"""Tidy rows from run folders."""

from __future__ import annotations

import json

import pytest

from tests.runs.conftest import Recorder
from vexp.errors import RunError
from vexp.runs.execute import evaluate_checkpoint, execute
from vexp.runs.rows import rows


def test_a_row_says_what_it_is_and_where_it_comes_from(stub_run, store):
    run = stub_run("seed=7")
    outcome = execute(run, reporter=Recorder(), store=store)
    (row,) = rows(store)
    results = outcome.evaluations["heldout"]
    assert (row.run, row.slug, row.hash) == (
        outcome.run.name, outcome.run.slug, outcome.run.hash,
    )  # fmt: skip
    assert (row.seed, row.evaluation, row.metric) == (7, "heldout", "accuracy")
    assert (row.value, row.stderr, row.n) == tuple(
        results["metrics"]["accuracy"][key] for key in ("value", "stderr", "n")
    )
    assert row.config["rl.steps"] == 7 and row.config["backbone.name"] == "stub"
    assert row.science["rl.steps"] == 7 and not any("tracker" in key for key in row.science)
    assert row.evaluation_key == results["key"] and row.checkpoint == results["checkpoint"]
    assert json.loads(row.provenance.read_text())["seeds"]["seed"] == 7
    assert (row.folder / "samples.jsonl").is_file()


def test_unfinished_runs_have_no_rows_and_names_choose(stub_run, store, monkeypatch):
    names = [
        execute(stub_run(f"seed={seed}"), reporter=Recorder(), store=store).run.name
        for seed in (1, 2)
    ]
    monkeypatch.setenv("STUB_FAILS_AT", "5")
    with pytest.raises(Exception, match="a bug"):
        execute(stub_run("seed=3"), reporter=Recorder(), store=store)
    assert [row.run for row in rows(store)] == sorted(names)
    assert [row.run for row in rows(store, names[:1])] == names[:1]


def test_scores_of_other_checkpoints_are_not_the_runs(stub_run, store):
    outcome = execute(stub_run(), reporter=Recorder(), store=store)
    (stage,) = store.stages_dir.iterdir()
    evaluate_checkpoint(stub_run(), stage, reporter=Recorder(), store=store)
    assert len(list(rows(store))) == 1
    elsewhere = next(store.evaluations_dir.iterdir())
    elsewhere.rename(outcome.run.evaluations_dir / elsewhere.name)
    assert len(list(rows(store))) == 1


def test_damage_is_an_error_not_a_missing_cell(stub_run, store):
    outcome = execute(stub_run(), reporter=Recorder(), store=store)
    (folder,) = outcome.run.evaluations_dir.iterdir()
    (folder / "results.json").write_text('{"format": 1')
    with pytest.raises(RunError, match="damaged") as caught:
        list(rows(store))
    assert str(folder) in str(caught.value)
    (folder / "results.json").write_text(
        json.dumps({"format": 2, "name": "", "key": "", "metrics": {}})
    )
    with pytest.raises(RunError, match="newer vexp"):
        list(rows(store))
