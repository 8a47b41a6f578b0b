"""Many items at a time: threads that take the next item until there is none, or all is to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vexp.errors import Interrupted


@dataclass(frozen=True)
class Completed:
    """What became of an item: what the work returned, or why it failed."""

    index: int
    value: Any = None
    error: BaseException | None = None


class Workers:
    """Threads that work on items by index; what comes out is handed over as it comes.

    They are daemons: a second Ctrl-C does not wait for answers that are under way.
    """

    def __init__(
        self,
        indices: Iterator[int],
        work: Callable[[int], Any],
        count: int,
        stop: threading.Event,
    ) -> None:
        self._indices = indices
        self._work = work
        self._stop = stop
        self._taking = threading.Lock()
        # Bounded, so that threads are never far ahead of whoever decides to stop them.
        self._out: queue.Queue[Completed | None] = queue.Queue(maxsize=count)
        self._left = count
        for number in range(count):
            threading.Thread(target=self._run, name=f"annotate-{number}", daemon=True).start()

    def results(self, look: Callable[[], None]) -> Iterator[Completed]:
        """Results as they come, until every thread has ended; `look` is called now and then."""
        while self._left:
            look()
            try:
                done = self._out.get(timeout=0.2)
            except queue.Empty:
                continue
            if done is None:
                self._left -= 1
            else:
                yield done

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._taking:
                index = next(self._indices, None)
            if index is None:
                break
            try:
                self._out.put(Completed(index, self._work(index)))
            except Interrupted:
                break
            except BaseException as error:  # noqa: BLE001  (it is raised where results are read)
                self._out.put(Completed(index, error=error))
        self._out.put(None)
