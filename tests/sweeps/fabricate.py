"""Run folders in every state, made with the store's own parts but without training."""

from __future__ import annotations

import contextlib
import shutil

from vexp.files import append_line, new_folder, write_json
from vexp.runs import failure
from vexp.runs.build_once import build_once
from vexp.runs.claim import Claim, acquire
from vexp.runs.evaluations import units
from vexp.runs.status import RESULT
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id

METRICS = {"accuracy": 0.5, "accuracy/single": 0.6}


class Fabricate:
    """Makes run folders; claims of running ones are given up in the end."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.claims: list[Claim] = []

    def claim(self, run) -> Claim:
        found = acquire(self.store.open(run, training_id(run)).folder)
        assert found is not None
        return found

    def done(self, run, metrics=METRICS, *, evaluate: bool = True) -> None:
        publish(self.claim(run), run)
        if evaluate:
            score(self.store, run, metrics)

    def failed(self, run, error: Exception, traceback: str = "") -> None:
        fail(self.claim(run), error, traceback)

    def stopped(self, run) -> None:
        self.claim(run).release("stopped")

    def running(self, run, *, step: int = 0, total: int = 10, **metrics: float) -> None:
        claim = self.claim(run)
        row = {"stage": "rl", "step": step, "total": total, "metrics": metrics}
        write_json(claim.attempt_dir / "progress.json", row)
        for number in range(1, step + 1):
            append_line(claim.attempt_dir / "timings.jsonl", {"step": number, "total_s": 2.0})
        self.claims.append(claim)

    def release(self) -> None:
        for claim in self.claims:
            claim.release("stopped")


def fail(claim: Claim, error: Exception, traceback: str = "") -> None:
    """End an attempt by an error."""
    (claim.attempt_dir / "log.txt").write_text(traceback)
    write_json(claim.attempt_dir / failure.RECORD, failure.describe(error, "now").to_dict())
    claim.release("failed")


def publish(claim: Claim, run) -> None:
    """Finish a run that never trained."""
    content = f"c-{training_id(run).hash}"
    result = {"format": 1, "checkpoint": None, "checkpoint_hash": content, "step": 1}
    write_json(claim.attempt_dir / RESULT, result)
    claim.publish()


def score(store: RunStore, run, metrics) -> None:
    """Write the results of every evaluation the run declares, each at once or not at all."""
    home = store.find(training_id(run)).evaluations_dir
    for unit in units(run, f"c-{training_id(run).hash}"):
        entries = {name: {"value": v, "stderr": 0.01, "n": 100} for name, v in metrics.items()}
        content = {
            "format": 1,
            "name": unit.label,
            "key": unit.key,
            "checkpoint": unit.checkpoint,
            "metrics": entries,
        }
        target = home / unit.folder_name
        home.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        with new_folder(target) as aside:
            write_json(aside / "results.json", content)


def fail_evaluation(store: RunStore, run, error: Exception) -> None:
    """As `build_once` leaves an evaluation that failed."""
    folder = store.find(training_id(run))
    (unit,) = units(run, f"c-{training_id(run).hash}")

    def build(work, output, ensure):
        raise error

    with contextlib.suppress(type(error)):
        target = folder.evaluations_dir / unit.folder_name
        build_once(target, build, what="it", note=print)
