"""A trainer without torch that keeps every promise of the real one: exact, resumable, stoppable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
import types
from pathlib import Path

from vexp.files import new_folder, write_json
from vexp.train import checkpoint
from vexp.train.checkpoint import State
from vexp.train.manifest import OPTIMIZER, damage, write_manifest
from vexp.train.workspace import stopped


class Trained:
    def __init__(self, model, folder, step):
        self.model, self.checkpoint, self.step = model, folder, step


def following(value: int, step: int) -> int:
    digest = hashlib.sha256(f"{value}/{step}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def write_model(folder: Path, value: int) -> None:
    folder.mkdir()
    write_json(folder / "config.json", {})
    write_json(folder / "weights.json", {"value": value})


def read_value(folder: Path) -> int:
    return json.loads((folder / "model" / "weights.json").read_text())["value"]


def warm_start(run, workspace) -> Path:
    def build(work: Path, output: Path) -> None:
        value = run.warm_start.seed
        for step in range(1, run.warm_start.steps + 1):
            value = following(value, step)
            (work / "last").write_text(str(step))
            pause()
            workspace.progress("warm_start", step, run.warm_start.steps, {"loss": 1.0})
            if workspace.stop_requested():
                raise stopped("warm_start", step, run.warm_start.steps)
        write_model(output / "model", value)
        write_manifest(output)

    return workspace.build_once(
        "warm_start", f"{run.warm_start.seed}x{run.warm_start.steps}", build
    )


def first_value(run, workspace) -> int:
    """What training begins with; STUB_LEARNS: the learning rate decides what comes of it."""
    value = read_value(warm_start(run, workspace))
    return following(value, hash(run.rl.learning_rate)) if "STUB_LEARNS" in os.environ else value


def train(run, workspace) -> Trained:
    if "rl" not in run.stages:
        folder = warm_start(run, workspace) if run.stages else None
        return Trained(folder and folder / "model", None, 0)
    total = run.rl.steps
    found = checkpoint.newest(workspace.checkpoint_dirs, total, workspace.note)
    step = State.read(found).step if found else 0
    value = read_value(found) if found else first_value(run, workspace)
    workspace.resumed(step)
    while step < total:
        step += 1
        value = following(value, step)
        pause()
        if os.environ.get("STUB_FAILS_AT") == str(step):
            raise ValueError("a bug in the trainer")
        row = {"reward": value / 2**32}
        workspace.log_metrics(step, row)
        workspace.log_timing(step, {"total_s": 0.1})
        workspace.progress("rl", step, total, row)
        stop = workspace.stop_requested()
        if stop or step % run.checkpoint.every == 0 or step == total:
            workspace.sync()
            found = save(workspace.checkpoint_dirs[0], step, value, row)
            checkpoint.prune(workspace.checkpoint_dirs, run.checkpoint.keep, step)
        if stop and step < total:
            raise stopped("rl", step, total)
    return Trained(found / "model", found, total)


def save(home: Path, step: int, value: int, row) -> Path:
    target = home / f"step-{step:06d}"
    if target.exists() and damage(target) is None:
        return target
    with new_folder(target) as folder:
        write_model(folder / "model", value)
        (folder / OPTIMIZER).write_bytes(b"moments" * 100)
        state = {"step": step, "cursor": step, "updates": step, "metrics": row}
        write_json(folder / "state.json", state)
        write_manifest(folder)
    return target


def pause() -> None:
    time.sleep(float(os.environ.get("STUB_STEP_S", "0")))


@contextlib.contextmanager
def arithmetic(compute):
    yield "cpu"


def install(put=sys.modules.__setitem__) -> None:
    """Put this trainer in place of the real one, before anything imports that."""
    stages = types.ModuleType("vexp.train.stages")
    stages.train, stages.Trained = train, Trained
    device = types.ModuleType("vexp.train.device")
    device.arithmetic = arithmetic
    put("vexp.train.stages", stages)
    put("vexp.train.device", device)
