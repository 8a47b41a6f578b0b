"""What training needs from the run it belongs to: where to write, whom to tell, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vexp.errors import Interrupted

# Builds a stage: `build(work, output)`. `work` is a folder that outlives an interrupted builder, so
# that the next one can go on from what it finds there; `output` is what gets published. Raising
# (e.g. `Interrupted`) publishes nothing and keeps `work`.
BuildStage = Callable[[Path, Path], None]

Value = float | int


class Workspace(Protocol):
    """One attempt at one run. Every method may raise `ClaimLost`; nothing is written after that.

    Order of calls by `vexp.train.stages.train`: `build_once` for each shared stage that is needed;
    then, if the run has the stage `rl`, `resumed(step)` once, also when nothing is left to do; then
    for each step after it `log_metrics`, `log_timing`, `progress` and `stop_requested`; and, where
    a checkpoint is due, `sync` before it is written.
    """

    @property
    def run_id(self) -> str:
        """Name of the run for trackers: its folder's name, `<slug>-<hash>`."""

    @property
    def tracking_dir(self) -> Path:
        """Folder for the trackers' files, the same for all attempts at this run."""

    @property
    def checkpoint_dirs(self) -> Sequence[Path]:
        """`checkpoints/` folders of all attempts, this attempt's first; the others need not exist.

        Training writes to the first only. It reads all, and deletes from all what `checkpoint.keep`
        does not keep.
        """

    def build_once(self, stage: str, key: str, build: BuildStage) -> Path:
        """The folder `<stages_dir>/<stage>-<key>`, built by one worker at a time if it is missing.

        A second worker waits, says so with `note`, and takes over when the first one is gone; while
        waiting it raises `Interrupted` when a stop is requested. `work` is deleted once published.
        """

    def resumed(self, step: int) -> None:
        """Training goes on after `step` (0: from the start).

        Metrics of former attempts count up to this step and no further.
        """

    def log_metrics(self, step: int, row: Mapping[str, Value]) -> None:
        """Append a row to metrics.jsonl. It holds no times and no NaN."""

    def log_timing(self, step: int, row: Mapping[str, Value]) -> None:
        """Append a row to timings.jsonl; all values are seconds, keys end in `_s`."""

    def sync(self) -> None:
        """What was logged so far has to survive a power cut; called before each checkpoint."""

    def progress(self, stage: str, step: int, total: int, row: Mapping[str, Value]) -> None:
        """Step `step` of `total` of a stage is done; `row` is what a progress bar may show."""

    def stop_requested(self) -> bool:
        """Whether training should save and stop (Ctrl-C, SIGTERM). Asked after every step,
        and within it until its updates begin."""

    def note(self, text: str) -> None:
        """A message for the user and the log, e.g. that a damaged checkpoint was skipped."""


def stopped(stage: str, step: int, total: int) -> Interrupted:
    """What a stage raises once its state is saved and it was asked to stop."""
    return Interrupted(
        f"stopped after step {step} of {total} of the stage {stage!r}; everything is saved",
        remedy="the same command goes on from here",
    )
