"""After a run's process has ended: say in its folder how, and whether it goes on by itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from vexp import masking
from vexp.files import fsync_folder, storage_errors, write_json
from vexp.runs import failure
from vexp.runs.claim import Busy, acquire, attempt_folder, end_lost, read_marks, read_owner
from vexp.runs.failure import Failure, Kind
from vexp.runs.store import RunFolder
from vexp.runs.workspace import LOG, now
from vexp.sweeps.retry_policy import RetryPolicy


@dataclass(frozen=True)
class Aftermath:
    """What whoever watched a run may write into its folder, once the run's own process is gone."""

    run: RunFolder
    policy: RetryPolicy
    since: int = 0  # attempts up to this number are forgiven

    def again(self, kind: Kind, message: str, first: int, output: str = "") -> bool:
        """Whether the run goes on by itself after such an end; if not, it is a failed one now.

        `first` is the lowest number that an attempt of the process can have; `output` is kept as
        the log of a failed one.
        """
        self._close(first, failure.observed(kind, message, now()))
        if self.policy.goes_on(self.run.folder, kind, self.since):
            return True
        if self.run.status().state != "failed":
            self.fail(self.policy.exhausted(kind, message), output)
        return False

    def lost(self, first: int) -> tuple[Kind, str] | None:
        """How the run lost one of its processes, as it says itself; None if it did not.

        `first` is as above.
        """
        last = max(read_marks(self.run.folder).endings, default=0)
        record = failure.recorded(attempt_folder(self.run.folder, last))
        if last < first or record is None or record.kind != "infra":
            return None
        return "infra", record.message

    def take(self, attempt: int, kind: Kind, message: str) -> bool:
        """Take the run from an owner that is gone: a failed one now, if that was once too often.

        False if it has ended meanwhile, or another process was faster.
        """
        home = attempt_folder(self.run.folder, attempt)
        if failure.recorded(home) is None:
            write_json(home / failure.RECORD, failure.observed(kind, message, now()).to_dict())
        if not end_lost(self.run.folder, attempt):
            return False
        over = kind != "interrupted" and not self.policy.goes_on(self.run.folder, kind, self.since)
        if over:
            self._record(attempt, self.policy.exhausted(kind, message))
            with storage_errors(self.run.folder), contextlib.suppress(FileNotFoundError):
                ended = self.run.folder / f"claim-{attempt:04d}.expired"
                ended.rename(ended.with_suffix(".failed"))
                fsync_folder(self.run.folder)
        return True

    def fail(self, record: Failure, output: str = "") -> None:
        """Make the run a failed one by a new attempt at it; `output` is kept as that one's log."""
        try:
            claim = acquire(self.run.folder)
        except Busy:
            return
        if claim is None:
            return
        write_json(claim.attempt_dir / failure.RECORD, record.to_dict())
        if output:
            (claim.attempt_dir / LOG).write_text(masking.mask(output), "utf-8")
        claim.release("failed")

    def _close(self, first: int, record: Failure) -> None:
        """Say in the process's own attempt how it ended, unless it did so itself by failing."""
        marks = read_marks(self.run.folder)
        if marks.live is not None:
            owner = read_owner(self.run.folder, marks.live)
            gone = owner is not None and owner.gone()
            if marks.live >= first and gone and end_lost(self.run.folder, marks.live):
                self._record(marks.live, record)
            return
        last = max(marks.endings, default=0)
        if last < first:
            self._ended_before_it_began(record)
        elif marks.endings[last] != "failed":
            self._record(last, record)

    def _ended_before_it_began(self, record: Failure) -> None:
        """Count an end that came before the process had claimed the run: else they never end."""
        with contextlib.suppress(Busy):
            claim = acquire(self.run.folder)
            if claim is not None:
                self._record(claim.attempt, record)
                claim.release("stopped")

    def _record(self, attempt: int, record: Failure) -> None:
        write_json(attempt_folder(self.run.folder, attempt) / failure.RECORD, record.to_dict())
