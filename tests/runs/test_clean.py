"""Nothing is deleted unasked, and nothing that a result or a resume needs is offered."""

from __future__ import annotations

import os
import time

import pytest

from tests.runs.conftest import Recorder
from vexp.runs.claim import acquire
from vexp.runs.clean import clean, removable, size_of
from vexp.runs.execute import execute
from vexp.runs.rows import rows
from vexp.spec.identity import training_id


def listing(store) -> dict[str, str]:
    return {str(item.path.relative_to(store.root)): item.why for item in removable(store).items}


def everything(store) -> set[str]:
    return {str(path) for path in store.root.rglob("*")}


@pytest.fixture
def finished(stub_run, store):
    return execute(stub_run(), reporter=Recorder(), store=store).run


def test_a_finished_run_leaves_nothing_to_clean(finished, store):
    assert listing(store) == {}


def test_what_can_go_is_listed_with_sizes_and_deleted_only_on_request(stub_run, store, monkeypatch):
    run = stub_run("checkpoint.keep.latest=5")
    monkeypatch.setenv("STUB_FAILS_AT", "5")
    with pytest.raises(Exception, match="a bug"):
        execute(run, reporter=Recorder(), store=store)
    monkeypatch.delenv("STUB_FAILS_AT")
    folder = execute(run, reporter=Recorder(), store=store).run
    second = folder.folder / "attempts" / "0002" / "checkpoints"
    (second / "step-000007" / "optimizer.safetensors").write_bytes(b"x" * 1000)
    orphan = store.runs_dir / ".grpo-x-0000.12345678.tmp"
    orphan.mkdir()
    (orphan / "part").write_bytes(b"x" * 10)
    os.utime(orphan, (time.time() - 7200,) * 2)
    unused = store.stages_dir / "warm_start-unused"
    unused.mkdir()
    before = everything(store)
    found = listing(store)
    at = f"runs/{folder.name}/attempts"
    assert found == {
        f"{at}/0001/checkpoints": "checkpoints of a superseded attempt",
        f"{at}/0002/checkpoints/step-000006": "not the final checkpoint of a finished run",
        f"{at}/0002/checkpoints/step-000007/optimizer.safetensors":
            "optimiser state of a finished run",
        "runs/.grpo-x-0000.12345678.tmp": "left over by a process that died",
        "stages/warm_start-unused": "a shared stage that no run refers to",
    }  # fmt: skip
    sizes = {item.path.name: item.size for item in removable(store).items}
    assert sizes["optimizer.safetensors"] == 1000 and sizes[orphan.name] == 10
    assert clean(store) == removable(store)
    assert everything(store) == before
    results = list(rows(store))
    clean(store, yes=True)
    assert listing(store) == {}
    assert list(rows(store)) == results
    more = stub_run("checkpoint.keep.latest=5", "evaluator.other={name:stub,offset:1}")
    assert execute(more, reporter=Recorder(), store=store).evaluations["other"]


def test_what_is_young_running_or_resumable_stays(stub_run, store, monkeypatch, timing):
    monkeypatch.setenv("STUB_FAILS_AT", "5")
    with pytest.raises(Exception, match="a bug"):
        execute(stub_run(), reporter=Recorder(), store=store)
    (store.runs_dir / ".being-built.12345678.tmp").mkdir()
    assert listing(store) == {}
    monkeypatch.delenv("STUB_FAILS_AT")
    resumed = Recorder()
    clean(store, yes=True)
    execute(stub_run(), reporter=resumed, store=store)
    assert ("rl", 3) not in resumed.steps and ("rl", 4) in resumed.steps


def test_a_run_that_is_being_worked_on_is_not_touched(stub_run, store, timing):
    run = stub_run()
    folder = store.open(run, training_id(run)).folder
    claim = acquire(folder, timing=timing)
    old = folder / ".left.12345678.tmp"
    old.mkdir()
    os.utime(old, (0, 0))
    assert listing(store) == {}
    claim.release("stopped")
    assert list(listing(store)) == [f"runs/{folder.name}/.left.12345678.tmp"]


def test_stages_of_runs_that_never_started_are_needed(store):
    from vexp.spec.identity import stage_key
    from vexp.spec.resolve import resolve

    run = resolve([])
    store.open(run, training_id(run))
    needed = store.stages_dir / f"warm_start-{stage_key(run, 'warm_start')}"
    needed.mkdir(parents=True)
    assert listing(store) == {}


def test_with_a_run_that_cannot_be_read_no_stage_is_offered(stub_run, store, finished):
    (store.stages_dir / "warm_start-unused").mkdir()
    assert len(listing(store)) == 1
    new = store.open(stub_run("seed=9"), training_id(stub_run("seed=9")))
    (new.folder / "run.json").write_text("{")
    assert listing(store) == {}


def test_sizes(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"1" * 7)
    (tmp_path / "a" / "b" / "y").write_bytes(b"1" * 5)
    assert size_of(tmp_path / "a") == 12
    assert size_of(tmp_path / "a" / "x") == 7
    assert size_of(tmp_path / "missing") == 0
