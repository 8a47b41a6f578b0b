"""A full or read-only disk ends a run in one message, and nothing already written is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runs.conftest import Recorder
from tests.runs.processes import wait_for
from vexp.errors import StorageError
from vexp.runs.build_once import work_area
from vexp.runs.claim import acquire
from vexp.runs.evaluations import units
from vexp.runs.execute import execute
from vexp.runs.heartbeat import Heartbeat, read_beat
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MiB; skipped where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder) -> None:
    handle = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(handle, b"\0" * 4096)
    except OSError:
        os.close(handle)


class FullAt(Recorder):
    """Lets the disk run full when training reaches a step."""

    def __init__(self, folder, stage: str, step: int) -> None:
        super().__init__()
        self.folder, self.at = folder, (stage, step)

    def progress(self, stage, step, total, metrics) -> None:
        super().progress(stage, step, total, metrics)
        if (stage, step) == self.at:
            fill(self.folder)


@pytest.mark.parametrize(
    "at", [("warm_start", 1), ("rl", 4), ("rl", 7), ("evaluate heldout", 3)], ids=str
)
def test_a_full_disk(stub_run, small_disk, at, tmp_path):
    store = RunStore(small_disk / "results")
    with pytest.raises(StorageError) as caught:
        execute(stub_run(), reporter=FullAt(small_disk, *at), store=store)
    text = str(caught.value)
    assert "the disk is full" in text and "nothing already written was lost" in text
    assert "vexp clean" in text and "Traceback" not in text
    assert store.statuses()[0].state in ("failed", "stopped")
    (small_disk / "filler").unlink()
    resumed = Recorder()
    outcome = execute(stub_run(), reporter=resumed, store=store)
    steps = [step for stage, step in resumed.steps if stage == "rl"]
    first = {("warm_start", 1): 1, ("rl", 4): 4, ("rl", 7): 7}.get(at, 8)
    assert steps == list(range(first, 8))
    calm = execute(stub_run(), reporter=Recorder(), store=RunStore(tmp_path / "calm"))
    assert calm.evaluations == outcome.evaluations


def test_a_disk_that_is_full_from_the_start(stub_run, small_disk, reporter):
    fill(small_disk)
    with pytest.raises(StorageError, match="the disk is full"):
        execute(stub_run(), reporter=reporter, store=RunStore(small_disk / "results"))


def test_a_full_disk_lets_no_claim_expire(small_disk):
    path = small_disk / "heartbeat"
    heart = Heartbeat(path, 0.02)
    fill(small_disk)
    first = read_beat(path)
    wait_for(lambda: read_beat(path) > first)  # fails after a while: the heart goes on beating
    heart.stop()


@pytest.fixture
def read_only(stub_run, store, tmp_path):
    """The results folder of a finished run, on a read-only mount."""
    execute(stub_run(), reporter=Recorder(), store=store)
    folder = tmp_path / "frozen"
    folder.mkdir()
    done = subprocess.run(["mount", "--bind", str(store.root), str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    yield RunStore(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_folder(stub_run, read_only, reporter):
    assert execute(stub_run(), reporter=reporter, store=read_only).state == "already done"
    for overrides in (["seed=2"], ["evaluator.other={name:stub,offset:1}"]):
        with pytest.raises(StorageError) as caught:
            execute(stub_run(*overrides), reporter=reporter, store=read_only)
        text = str(caught.value)
        assert "the file system is read-only" in text and "another results_dir" in text
        assert str(read_only.root) in text


def test_a_refused_write_at_the_lowest_level(stub_run, store, monkeypatch):
    """ENOSPC from fsync, as file systems that reserve space late give it."""
    real, left = os.fsync, [60]

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, os.strerror(28))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="the disk is full"):
        execute(stub_run(), reporter=Recorder(), store=store)
    monkeypatch.setattr(os, "fsync", real)
    assert execute(stub_run(), reporter=Recorder(), store=store).state == "finished"


def test_a_corrupt_checkpoint_is_skipped_and_said(stub_run, store, monkeypatch):
    monkeypatch.setenv("STUB_FAILS_AT", "7")
    keep = ("checkpoint.keep.latest=2",)
    with pytest.raises(Exception, match="a bug in the trainer"):
        execute(stub_run(*keep), reporter=Recorder(), store=store)
    monkeypatch.delenv("STUB_FAILS_AT")
    home = store.statuses()[0].folder / "attempts" / "0001" / "checkpoints"
    assert sorted(p.name for p in home.iterdir()) == ["step-000003", "step-000006"]
    weights = home / "step-000006" / "model" / "weights.json"
    weights.write_bytes(weights.read_bytes()[:-3] + b"9}\n")
    reporter = Recorder()
    outcome = execute(stub_run(*keep), reporter=reporter, store=store)
    assert [step for stage, step in reporter.steps if stage == "rl"] == [4, 5, 6, 7]
    assert any(
        "step-000006 cannot be used" in note and "weights.json" in note and "step-000003" in note
        for note in reporter.notes
    )
    shutil.rmtree(store.root)
    calm = execute(stub_run(*keep), reporter=Recorder(), store=store)
    assert calm.evaluations == outcome.evaluations


def test_a_corrupt_line_of_samples_is_scored_again(stub_run, store, reporter):
    run = stub_run()
    execute(run, reporter=reporter, store=store, evaluate=False)
    (folder,) = store.runs()
    (unit,) = units(run, folder.result().checkpoint_hash)
    claim = acquire(work_area(folder.evaluations_dir / unit.folder_name))
    work = claim.attempt_dir / "work"
    work.mkdir()
    whole = execute(run, reporter=Recorder(), store=RunStore(store.root.parent / "calm"))
    lines = next(whole.run.evaluations_dir.glob("*/samples.jsonl")).read_text().splitlines(True)
    (work / "samples.jsonl").write_text("".join(lines[:2]) + lines[2][:-9] + "\n" + lines[3])
    claim.release("stopped")
    found = execute(run, reporter=reporter, store=store)
    assert found.evaluations == whole.evaluations
    assert any("line 3 is damaged; going on after the 2 before it" in n for n in reporter.notes)
    samples = next(folder.evaluations_dir.glob("*/samples.jsonl"))
    assert samples.read_text() == "".join(lines)


def test_damaged_results_are_named(stub_run, store, reporter):
    execute(stub_run(), reporter=reporter, store=store)
    (results,) = store.root.glob("runs/*/evaluations/*/results.json")
    results.write_text("{")
    with pytest.raises(Exception, match=r"results\.json is damaged") as caught:
        execute(stub_run(), reporter=reporter, store=store)
    assert "does it again" in str(caught.value)
    shutil.rmtree(results.parent)
    assert execute(stub_run(), reporter=reporter, store=store).evaluations["heldout"]


def test_training_id_is_what_names_the_folder(stub_run, store, reporter):
    outcome = execute(stub_run(), reporter=reporter, store=store)
    assert outcome.run.name == training_id(stub_run()).name
    assert json.loads((outcome.run.folder / "run.json").read_text())["id"] == outcome.run.name


@pytest.mark.parametrize("place", ["afile", "afile/x/y"])
def test_results_below_a_file(reporter, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("a file")
    with pytest.raises(StorageError, match="this is a file, but a folder has to be here") as found:
        execute(resolve([]), reporter=reporter, store=RunStore(place))
    assert found.value.problem.where == "afile"
