"""vexp's side of the step benchmark: `vexp.train.stages.train` itself, held between its steps.

The loop asks its workspace after every step whether to stop; this workspace waits there.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.worker import Seat
from benchmarks.workload import Workload
from vexp.errors import Interrupted
from vexp.train.stages import train
from vexp.train.workspace import BuildStage, Value


class Bench:
    """The workspace of a run that nobody keeps."""

    run_id = "step_vs_trl"

    def __init__(self, folder: Path, seat: Seat, responses: int) -> None:
        self.tracking_dir = folder / "tracking"
        self.checkpoint_dirs: Sequence[Path] = [folder / "checkpoints"]
        self._seat = seat
        self._responses = responses
        self._tokens = 0.0

    def build_once(self, stage: str, key: str, build: BuildStage) -> Path:
        raise NotImplementedError("the benchmark has no shared stages")

    def resumed(self, step: int) -> None:
        if not self._seat.wait():
            sys.exit()

    def log_metrics(self, step: int, row: Mapping[str, Value]) -> None:
        self._tokens = row["response_length"] * self._responses

    def log_timing(self, step: int, row: Mapping[str, Value]) -> None:
        for phase in ("generate", "score"):
            self._seat.spend(phase, row[f"{phase}_s"])

    def sync(self) -> None:
        pass

    def progress(self, stage: str, step: int, total: int, row: Mapping[str, Value]) -> None:
        pass

    def stop_requested(self) -> bool:
        self._seat.report({"tokens": round(self._tokens)}, rest="update")
        return not self._seat.wait()

    def note(self, text: str) -> None:
        print(text)


def main() -> None:
    """Serve steps until the parent closes the pipe."""
    seat = Seat()
    workload = Workload(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        workspace = Bench(Path(folder), seat, workload.prompts * workload.group_size)
        with contextlib.suppress(Interrupted):  # the parent has had enough
            train(workload.run(), workspace)


if __name__ == "__main__":
    main()
