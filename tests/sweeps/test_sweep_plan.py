"""Declared runs against run folders: states, evaluations, orphans."""

from __future__ import annotations

import pytest

from tests.sweeps.conftest import SMALL, Nobody
from tests.sweeps.test_search_chain import search
from vexp.cli.main import main
from vexp.sweeps.launch import in_order, launch
from vexp.sweeps.plan import make_plan, refreshed
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.show import counts_line, evaluations_line
from vexp.sweeps.worker_slots import Slot

SIX = """
rows: {a: [], b: [algorithm=dapo], c: [algorithm=gspo]}
seeds: [1, 2]
"""


@pytest.fixture
def mixed(plan, fabricate):
    """A plan of six runs in all states."""
    runs = [run.training.run for run in plan(SIX).runs]
    fabricate.done(runs[0])
    fabricate.done(runs[1], evaluate=False)
    fabricate.failed(runs[2], RuntimeError("no"))
    fabricate.stopped(runs[3])
    fabricate.running(runs[4], step=3)
    return plan(SIX)


def test_states_come_from_the_run_folders(mixed):
    assert [run.state for run in mixed.runs] == [
        "done", "done", "failed", "stopped", "running", "new",
    ]  # fmt: skip
    assert mixed.counts() == {"done": 2, "running": 1, "failed": 1, "stopped": 1, "new": 1}
    assert counts_line(mixed) == ("6 declared: 2 done, 1 running, 1 failed, 1 stopped, 1 new")


def test_evaluations_are_units_of_their_own(mixed):
    assert [run.evaluations["heldout"] for run in mixed.runs] == [True, *[False] * 5]
    assert evaluations_line(mixed) == "6 declared: 1 done, 5 new"


def test_an_evaluator_added_to_the_sweep_asks_for_evaluations_not_for_trainings(plan, fabricate):
    text = "rows: {a: []}"
    fabricate.done(plan(text).runs[0].training.run)
    assert plan(text).complete
    more = plan(f"base: [evaluator.dev=heldout, evaluator.dev.split=dev]\n{text}")
    assert more.counts()["done"] == 1
    assert more.runs[0].evaluations == {"heldout": True, "dev": False}
    assert not more.complete


def test_an_evaluation_of_another_protocol_does_not_count(plan, fabricate):
    fabricate.done(plan("rows: {a: []}").runs[0].training.run)
    assert plan("rows: {a: []}").complete
    assert not plan("base: [evaluator.heldout.split=dev]\nrows: {a: []}").complete


def test_runs_launched_before_and_no_longer_declared_are_orphans(plan, fabricate):
    before = plan(SIX)
    launch(before, Nobody())
    fabricate.done(before.runs[4].training.run)
    after = plan("rows: {a: [], b: [algorithm=dapo]}\nseeds: [1, 2]")
    names = [run.name for run in before.runs]
    assert after.orphans == ((names[4], "done"), (names[5], "new"))
    assert after.counts()["new"] == 4
    launch(after, Nobody())
    assert plan(SIX).orphans == ()  # declared again
    assert plan(SIX).counts()["done"] == 1  # and never deleted


def test_a_torn_notebook_forgets_at_most_its_torn_line(plan):
    launch(plan(SIX), Nobody())
    notebook = plan(SIX).state.folder / "submitted.jsonl"
    notebook.write_bytes(notebook.read_bytes()[:-20])
    assert len(plan("rows: {a: []}\nseeds: [1]").orphans) == 4
    launch(plan(SIX), Nobody())
    launch(plan(SIX), Nobody())
    assert len(plan("rows: {a: []}\nseeds: [1]").orphans) == 5


def test_planning_reads_the_present_state_again_without_composing(plan, fabricate, monkeypatch):
    first = plan(SIX)
    monkeypatch.setattr("vexp.sweeps.points.Composer", None)
    fabricate.done(first.runs[0].training.run)
    assert refreshed(first).counts()["done"] == 1


def test_the_first_run_of_each_shared_stage_comes_first(plan):
    text = """
base: ['warm_start.seed=${seed}']
rows: {a: [], b: [algorithm=dapo], rl: {stages: [rl]}}
seeds: [1, 2]
"""
    order = [run.training.label for run in in_order(plan(text).runs)]
    assert order == ["a seed=1", "a seed=2", "b seed=1", "b seed=2", "rl seed=1", "rl seed=2"]
    text = text.replace("${seed}", "5").replace("b: [algorithm=dapo]", "b: [warm_start.steps=3]")
    order = [run.training.label for run in in_order(plan(text).runs)]
    assert order == ["a seed=1", "b seed=1", "a seed=2", "b seed=2", "rl seed=1", "rl seed=2"]


def test_results_of_the_same_run_from_another_sweep_are_used(sweep, plan, fabricate):
    fabricate.done(plan("rows: {mine: []}").runs[0].training.run)
    other = make_plan(read_sweep(sweep("rows: {theirs: [seed=1]}", "other")))
    assert other.complete


def test_a_slot_is_held_by_one_process_at_a_time(tmp_path):
    slot = Slot(tmp_path, 1)
    assert slot.holder() is None
    with slot.held() as hold:
        hold.at("a-run")
        assert slot.holder().run == "a-run"
        with slot.held() as second:
            assert second is None
    assert slot.holder() is None
    with slot.held() as hold:
        assert hold is not None


def test_a_range_that_misses_its_end_is_said(project, capsys):
    text = search(3).replace("high: 8, step: 2", "high: 8, step: 4")
    (project / "small.yaml").write_text(text)
    for command in (["plan"], ["launch", "--dry-run"]):
        with pytest.raises(SystemExit):
            main([*command, "small.yaml"])
        out = capsys.readouterr().out
        assert "note: rollout.group_size: steps of 4 from 2 end at 6; high (8) is never" in out


def test_two_files_of_one_name_are_said(project, sweep, plan):
    now = plan(SMALL)
    now.state.write_queue([], sweep(SMALL, "small").resolve())
    assert now.notes() == ()
    (project / "other").mkdir()
    other = project / "other" / "small.yaml"
    other.write_text(SMALL)
    (note,) = make_plan(read_sweep(other)).notes()
    assert note.startswith("small.yaml was launched under the name small, too")
    (project / "small.yaml").unlink()
    assert make_plan(read_sweep(other)).notes() == ()  # it was moved


def test_variants_with_text_of_their_own_have_folders_of_their_own(sweep):
    folders = {
        make_plan(read_sweep(sweep(SMALL), extra=[f"prompt.instruction={text}"])).state.folder
        for text in (
            "'Think? Then answer.'",
            "'Think! Then answer.'",
            "想一想",
            "請回答",
            "x" * 300,
        )
    }
    assert len(folders) == 5
