"""All trackers of a run as one that cannot fail: who breaks is noted once and then left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vexp.config.schema import to_dict
from vexp.policy import parallel
from vexp.tracker.base import Tracking

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.train.workspace import Workspace


class Trackers:
    """Open connections by name; failures are noted and never reach the training."""

    def __init__(self, run: RunSpec, workspace: Workspace) -> None:
        self._note = workspace.note
        self._open: dict[str, Tracking] = {}
        folder = workspace.tracking_dir
        for name, tracker in run.tracker.items() if parallel.is_rank_zero() else ():
            with self._survive(name):
                folder.mkdir(parents=True, exist_ok=True)
                self._open[name] = tracker.start(
                    run_id=workspace.run_id, folder=folder, config=to_dict(run)
                )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracking in list(self._open.items()):
            with self._survive(name):
                tracking.log(step, metrics)

    def close(self) -> None:
        for name, tracking in list(self._open.items()):
            with self._survive(name):
                tracking.close()
        self._open.clear()

    @contextlib.contextmanager
    def _survive(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  (a tracker may fail in any way)
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {error}"
            self._note(f"tracker {name!r} failed and is left out from here on ({reason})")


@contextlib.contextmanager
def tracking(run: RunSpec, workspace: Workspace) -> Iterator[Trackers]:
    """The run's trackers, closed in any case."""
    trackers = Trackers(run, workspace)
    try:
        yield trackers
    finally:
        trackers.close()
