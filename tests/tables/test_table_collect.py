"""What counts as a result of a run, and what is refused or said not to count."""

from __future__ import annotations

import json
import shutil

import pytest

from vexp.errors import RunError
from vexp.files import append_line, write_json
from vexp.runs.claim import acquire
from vexp.runs.engine_switch import Switch, effective, write_record
from vexp.runs.evaluations import units
from vexp.runs.status import RESULT
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.sweeps.plan import make_plan, refreshed
from vexp.sweeps.reader import read_sweep
from vexp.tables.collect import collect
from vexp.tables.frame import build_frame
from vexp.tables.render import FORMATS
from vexp.tables.render_text import sheet_of
from vexp.tables.stats import Summary

SWEEP = """
name: demo
rows: {grpo: {label: GRPO}, dapo: {label: DAPO, algorithm: dapo}}
seeds: [1, 2]
table:
  baseline: grpo
  columns:
    - {metric: accuracy, scale: percent}
    - {id: pope, benchmark: pope, scale: percent}
    - {cost: total_s, digits: 1}
"""


@pytest.fixture
def finished(project):
    """A plan of four finished runs with accuracy, step times and an imported benchmark."""
    (project / "demo.yaml").write_text(SWEEP)
    plan = make_plan(read_sweep(project / "demo.yaml"))
    store = RunStore(project / "results")
    for number, planned in enumerate(plan.runs):
        run = planned.training.run
        claim = acquire(store.open(run, training_id(run)).folder)
        content = {"format": 1, "checkpoint": None, "checkpoint_hash": f"c{number}", "step": 1}
        write_json(claim.attempt_dir / RESULT, content)
        for step in (1, 2):
            append_line(claim.attempt_dir / "timings.jsonl", {"step": step, "total_s": 2.0 * step})
        claim.publish()
        home = store.find(training_id(run)).evaluations_dir
        (unit,) = units(run, f"c{number}")
        metrics = {"accuracy": {"value": 0.5 + number / 100, "stderr": 0.01, "n": 100}}
        results = {"format": 1, "name": "heldout", "key": unit.key, "scorer": 1}
        results |= {"checkpoint": f"c{number}", "metrics": metrics}
        write_json(home / unit.folder_name / "results.json", results)
        imported = results | {"name": "pope", "key": "k1", "benchmark": "pope", "version": "1"}
        imported |= {"main_metric": "accuracy"}
        write_json(home / "pope-k1" / "results.json", imported)
    return plan, store


def markdown(plan, store):
    results = collect(refreshed(plan).runs, costs=True)
    return FORMATS["md"](sheet_of(build_frame(plan.sweep, plan.points, results)))


def evaluation(plan, store, index=0, name="heldout"):
    home = store.find(plan.runs[index].training.identity).evaluations_dir
    return next(path for path in home.iterdir() if path.name.startswith(name))


def change(folder, **values):
    found = json.loads((folder / "results.json").read_text())
    write_json(folder / "results.json", found | values)


def test_metrics_benchmarks_and_costs_come_together(finished):
    text = markdown(*finished)
    assert "| GRPO | 50.5 ± 0.7 (n=2) | 50.5 ± 0.7 (n=2) | 3.0 ± 0.0 (n=2) |" in text


def test_sampled_runs_belong_to_the_main_metric(finished):
    plan, store = finished
    pairs = {"score": 0.4, "accuracy": 0.3}
    found = {name: {"value": value, "stderr": None, "n": 80} for name, value in pairs.items()}
    spread = {"run_std": {"value": 0.02, "stderr": None, "n": 8}}
    change(evaluation(plan, store, name="pope"), metrics=found | spread, main_metric="score")
    accuracy = {"accuracy": found["accuracy"], "format": found["score"]}
    change(evaluation(plan, store), metrics=accuracy | spread)
    measured = collect(refreshed(plan).runs)[plan.runs[0].training.identity.hash]
    assert measured.benchmarks["pope"].over_runs == Summary(8, 0.4, 0.02)
    assert measured.metrics["heldout"]["accuracy"].over_runs == Summary(8, 0.3, 0.02)
    assert measured.metrics["heldout"]["format"].over_runs is None


def test_a_half_written_evaluation_does_not_count(finished):
    plan, store = finished
    folder = evaluation(plan, store)
    folder.rename(folder.with_name(f".{folder.name}.work"))
    assert "| GRPO | 51.0 (1/2) |" in markdown(plan, store)


def test_a_damaged_results_file_is_named_and_all_others_count(finished):
    plan, store = finished
    path = evaluation(plan, store) / "results.json"
    path.write_text(path.read_text()[:-30])
    text = markdown(plan, store)
    assert "| GRPO | 51.0 (1/2) | 50.5 ± 0.7 (n=2) |" in text
    assert "damaged: evaluation heldout" in text and "results.json is damaged" in text


def test_results_of_another_protocol_or_scorer_do_not_count_and_are_named(finished):
    plan, store = finished
    folder = evaluation(plan, store)
    change(folder, key="0" * 16)
    folder.rename(folder.with_name("heldout-" + "0" * 16))
    text = markdown(plan, store)
    assert "| GRPO | 51.0 (1/2) |" in text
    name = store.find(plan.runs[0].training.identity).name.replace("_", "\\_")
    assert f"not counted: evaluation 'heldout' of run {name} has another protocol" in text


def test_results_of_an_earlier_checkpoint_do_not_count(finished):
    plan, store = finished
    change(evaluation(plan, store, name="pope"), checkpoint="former")
    assert "| 51.0 (1/2) |" in markdown(plan, store)


def test_a_run_that_went_on_with_another_engine_counts_by_what_it_was_evaluated_with(finished):
    plan, store = finished
    declared = plan.runs[0].training.run
    folder = store.find(plan.runs[0].training.identity)
    write_record(folder.folder, [Switch(2, {"name": "hf"}, {"name": "vllm"}, "now")])
    assert "| GRPO (mixed) | 51.0 (1/2) |" in markdown(plan, store)
    (unit,) = units(effective(declared, folder), folder.result().checkpoint_hash)
    evaluated = evaluation(plan, store)
    change(evaluated, key=unit.key)
    evaluated.rename(evaluated.with_name(unit.folder_name))
    text = markdown(plan, store)
    assert "| GRPO (mixed) | 50.5 ± 0.7 (n=2)" in text


def test_of_two_results_of_one_benchmark_none_counts(finished):
    plan, store = finished
    folder = evaluation(plan, store, name="pope")
    shutil.copytree(folder, folder.with_name("pope-k2"))
    text = markdown(plan, store)
    assert "this run has two results of the benchmark 'pope': none is shown" in text
    assert "| GRPO | 50.5 ± 0.7 (n=2) | 51.0 (1/2) |" in text


def test_results_of_two_benchmark_versions_are_refused(finished):
    plan, store = finished
    change(evaluation(plan, store, name="pope"), version="2")
    with pytest.raises(RunError, match="'pope' was measured with two versions"):
        markdown(plan, store)


def test_a_table_depends_on_nothing_but_the_results(finished, project):
    plan, store = finished
    before = markdown(plan, store)
    for name in ("sweeps", "stages", "tables", "evaluations"):
        shutil.rmtree(project / "results" / name, ignore_errors=True)
    for path in project.rglob("heartbeat"):
        path.unlink()
    fresh = make_plan(read_sweep(project / "demo.yaml"))
    assert markdown(fresh, RunStore(project / "results")) == before
    for planned in plan.runs:  # what remains are run.json, done, result.json and results.json
        folder = store.find(planned.training.identity).folder
        known = ("run.json", "result.json", "results.json", "timings.jsonl")
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in known and "done" not in path.name:
                path.unlink()
    assert markdown(plan, store) == before
