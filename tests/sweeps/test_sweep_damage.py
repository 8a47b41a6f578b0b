"""Launching beside folders that cannot be used: all others go on, and those are named."""

from __future__ import annotations

import json

import pytest

from tests.sweeps.conftest import Nobody
from vexp.sweeps.circuit_breaker import held
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import look_up_evaluations
from vexp.sweeps.status import foremost
from vexp.sweeps.watch import settled
from vexp.sweeps.worker import next_entry

FOUR = "base: {stages: [rl]}\nrows: {a: [], b: [algorithm=dapo]}\nseeds: [1, 2]"


def record_of(plan, store, index=1):
    return store.open(plan.runs[index].training.run, plan.runs[index].training.identity).folder


def test_a_folder_of_another_config_is_named_and_all_others_are_queued(plan, store):
    path = record_of(plan(FOUR), store) / "run.json"
    content = json.loads(path.read_text())
    content["science"]["rl"]["steps"] = 12345
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    for dry_run in (True, False):
        done = launch(plan(FOUR), Nobody(), dry_run=dry_run)
        (name,) = done.refused
        assert name == path.parent.name
        assert "written by another config" in done.refused[name].what
        assert done.pending == 3 and name not in done.created
    queued = [entry.run for entry in plan(FOUR).state.queue()]
    assert len(queued) == 3 and path.parent.name not in queued
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no record", "zeros", "half a folder"])
def test_a_damaged_folder_is_not_begun_over(plan, store, damage):
    folder = record_of(plan(FOUR), store)
    if damage == "no record":
        (folder / "run.json").unlink()
    elif damage == "zeros":
        (folder / "run.json").write_bytes(bytes(80))
    else:
        (folder / "attempts" / "0001").mkdir(parents=True)
    found = plan(FOUR)
    assert [run.state for run in found.runs] == ["new", "damaged", "new", "new"]
    assert found.counts() == {
        "done": 0, "running": 0, "failed": 0, "damaged": 1, "stopped": 0, "new": 3,
    }  # fmt: skip
    assert foremost(found.runs, 1) == [found.runs[1]]
    done = launch(found, Nobody())
    assert list(done.refused) == [folder.name] and done.pending == 3
    assert list(found.damage()) == [f"run {folder.name}"]


def test_a_run_that_only_has_to_be_ended_again_is_queued_and_begun(plan, store, fabricate):
    for run in plan(FOUR).runs:
        fabricate.done(run.training.run)
    broken = plan(FOUR).runs[2].status.folder
    (broken / "done.json").write_text("")
    (broken / "attempts/0001/checkpoints/step-000005").mkdir(parents=True)
    found = look_up_evaluations(plan(FOUR))
    assert found.runs[2].status.mends and not found.complete and not settled(found)
    done = launch(found, Nobody())
    assert not done.refused and done.pending == 1
    assert next_entry(found.state).run == broken.name
    assert held(found.state, found.state.queue()) is None


def test_a_damaged_evaluation_is_named_and_done_again_once_it_is_deleted(plan, store, fabricate):
    for run in plan(FOUR).runs:
        fabricate.done(run.training.run)
    home = store.find(plan(FOUR).runs[0].training.identity).evaluations_dir
    (path,) = home.glob("*/results.json")
    path.write_text("{}")
    found = plan(FOUR)
    assert found.runs[0].state == "done" and not found.complete and settled(found)
    (problem,) = found.damage().values()
    assert "results.json is damaged" in problem.what and "delete this evaluation" in problem.remedy
    assert launch(found, Nobody()).pending == 0
    path.unlink()
    path.parent.rmdir()  # as it says
    assert launch(plan(FOUR), Nobody()).pending == 1


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 1, "runs": [{"run": 3}]}', "\0" * 30])
def test_a_damaged_queue_is_written_anew(plan, content):
    launch(plan(FOUR), Nobody())
    path = plan(FOUR).state.folder / "queue.json"
    good = [entry.run for entry in plan(FOUR).state.queue()]
    path.write_text(content)
    (path.parent / "policy.json").write_text(content)
    with (path.parent / "submitted.jsonl").open("a") as file:
        file.write(content + '\n{"run": ["x"], "label": 3}\n')
    (path.parent / "events.jsonl").write_text('{"event": "ended", "run": []}\n' + content)
    launch(plan(FOUR), Nobody())
    assert [entry.run for entry in plan(FOUR).state.queue()] == good
    assert plan(FOUR).state.ends() == {}
