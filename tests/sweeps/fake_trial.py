"""Stands for `vexp _run FOLDER --trial RECORD`: no torch, but the real execution and pruning.

A run's reward and accuracy are known functions of its learning rate, group size and seed.
FAKE_STEP_S: seconds a step takes; a second more while the file FAKE_SLOW is there, so that
there is time to disturb. FAKE_FAILS: fails if the learning rate is above this.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runs import stub_training
from vexp.config.schema import build
from vexp.errors import VexpError
from vexp.files import append_line, new_folder, read_json, write_json
from vexp.runs.evaluations import units
from vexp.runs.execute import execute
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import SilentReporter
from vexp.spec.run import RunSpec


def quality(run: RunSpec) -> float:
    """Best at a learning rate of 1e-4; between 0 and 1."""
    return math.exp(-((math.log10(run.rl.learning_rate) + 4) ** 2)) * (1 - 0.001 * run.seed)


def train(run: RunSpec, workspace) -> stub_training.Trained:
    if quality(run) > 0 and run.rl.learning_rate > float(os.environ.get("FAKE_FAILS", "inf")):
        raise ValueError("this learning rate is too much")
    found = stub_training.checkpoint.newest(workspace.checkpoint_dirs, run.rl.steps, workspace.note)
    step = stub_training.State.read(found).step if found else 0
    workspace.resumed(step)
    while step < run.rl.steps:
        step += 1
        slow = Path(os.environ.get("FAKE_SLOW", "/nowhere")).exists()
        time.sleep(float(os.environ.get("FAKE_STEP_S", "0")) + slow)
        row = {"reward": quality(run) * step / run.rl.steps}
        workspace.log_metrics(step, row)
        stop = workspace.stop_requested()
        if stop or step == run.rl.steps:
            found = stub_training.save(workspace.checkpoint_dirs[0], step, step, row)
        if stop and step < run.rl.steps:
            raise stub_training.stopped("rl", step, run.rl.steps)
    return stub_training.Trained(found / "model", found, step)


def score(run: RunSpec, folder: RunFolder) -> None:
    result = folder.result()
    length = {"value": 10.0 * run.rollout.group_size, "stderr": None, "n": 100}
    for unit in units(run, result.checkpoint_hash):
        accuracy = {"value": quality(run), "stderr": 0.01, "n": 100}
        content = {
            "format": 1, "name": unit.label, "key": unit.key, "checkpoint": unit.checkpoint,
            "metrics": {"accuracy": accuracy, "length": length},
        }  # fmt: skip
        with new_folder(folder.evaluations_dir / unit.folder_name) as aside:
            write_json(aside / "results.json", content)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--trial", type=Path)
    given = parser.parse_args()
    folder, store = RunFolder(given.folder), RunStore(given.folder.parents[1])
    run = build(RunSpec, read_json(given.config)) if given.config else folder.spec()
    append_line(store.root / "started.jsonl", {"run": folder.name, "pid": os.getpid()})
    stub_training.train = train
    stub_training.install()
    judge = None
    if given.trial:
        from vexp.sweeps.search.pruning import Judge

        judge = Judge.of(given.trial.resolve(), folder)
    try:
        done = execute(
            run, reporter=SilentReporter(), store=store, folder=folder, evaluate=False, judge=judge
        )
    except VexpError as error:
        print(error, flush=True)
        return error.exit_code
    if done.state != "pruned":
        score(run, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
