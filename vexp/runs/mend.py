"""A finished run whose record of its end is damaged: its next attempt ends it once more."""

from __future__ import annotations

from collections.abc import Callable

from vexp.errors import Damaged
from vexp.runs.claim import read_marks, unpublish
from vexp.runs.status import status_of
from vexp.runs.store import RunFolder


def mend(run: RunFolder, note: Callable[[str], None]) -> None:
    """Take a run back that is done and does not say what it ended in, so that it may be claimed.

    The attempt that had been published counts as one whose owner fell silent. The next one finds
    its checkpoint and publishes it, without training.

    Raises:
        Damaged: if the run's folder is, in any other way, or nothing is left to end it with.
    """
    status = status_of(run.folder)
    if status is None or status.problem is None:
        return
    wrong = status.problem
    if not status.mends:
        raise Damaged(wrong.what, where=wrong.where, accepted=wrong.accepted, remedy=wrong.remedy)
    note(f"{run.name}: {wrong.what}; it is ended again from its last checkpoint")
    unpublish(run.folder, read_marks(run.folder).next)
