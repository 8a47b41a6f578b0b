"""One annotation: what is missing is asked, and the whole is published at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from vexp.annotate.client_pool import Asking, open_clients
from vexp.annotate.evidence import Annotator, Evidence
from vexp.annotate.folder import JOURNAL, growing, image_cell, publish
from vexp.annotate.journal import AnnotationJournal
from vexp.annotate.output import AnnotationSummary, write
from vexp.annotate.spec import SPLIT, Annotation
from vexp.annotate.work import Completed, Workers
from vexp.dataset.base import Item
from vexp.endpoint.client import Client, Refused, Unavailable
from vexp.endpoint.settings import Endpoint
from vexp.errors import DataError, EndpointError, Interrupted
from vexp.runs.stop import StopRequest

STEP = "annotate"  # as the progress display calls it


class AnnotationReporter(Protocol):
    """Who shows the progress to the user."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        """Item `step` of `total` is done."""

    def note(self, text: str) -> None:
        """A message worth a line of its own."""


def annotate(
    spec: Annotation, output: Path, reporter: AnnotationReporter, *, skip_unanswered: bool = False
) -> AnnotationSummary:
    """Annotate the training split of `spec.dataset` into the new folder `output`.

    One that was stopped or killed goes on where it was. With `skip_unanswered`, items for which an
    endpoint gave no answer are left out; without it, nothing is published while there are any.

    Raises:
        ConfigError: if a key is missing, or the folder exists.
        DataError: if not one item could be annotated.
        EndpointError: if an endpoint cannot be used, or items are missing because of it.
        Interrupted: after Ctrl-C or SIGTERM; everything that was answered is kept.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with growing(output) as folder:
        journal = AnnotationJournal(folder / JOURNAL)
        if journal.damaged:
            reporter.note(f"{journal.damaged} damaged lines of the journal were passed over")
        unanswered = _Session(spec, folder, journal, reporter).run()
        if unanswered and not skip_unanswered:
            raise _missing(unanswered, spec.size)
        finished = journal.finished(spec.identity)
        rows = [finished[index] for index in sorted(finished) if index < spec.size]
        summary = write(spec, folder, rows, journal, started, len(unanswered))
        publish(folder, output)
    return summary


@dataclass
class _Session:
    """The items that are still missing."""

    spec: Annotation
    folder: Path
    journal: AnnotationJournal
    reporter: AnnotationReporter

    def run(self) -> dict[int, EndpointError]:
        """Annotate them; returns those for which an endpoint gave no answer."""
        self.identity = self.spec.identity
        self.stop = threading.Event()
        clients = open_clients(self.spec.endpoints(), self.stop)
        try:
            with StopRequest() as request:
                return self._run(clients, request)
        finally:
            self.stop.set()

    def _run(self, clients: dict[Endpoint, Client], request: StopRequest) -> dict[int, Any]:
        done = self.journal.finished(self.identity)
        missing = [index for index in range(self.spec.size) if index not in done]
        counts = Counter(_pool(row) for index, row in done.items() if index < self.spec.size)
        annotator = Annotator(self.spec, self.journal)
        unanswered: dict[int, EndpointError] = {}
        in_a_row = 0
        fatal: BaseException | None = None

        def look() -> None:
            if request:
                self.stop.set()

        def work(index: int) -> dict[str, Any]:
            return self._one(index, annotator, clients)

        count = min(self.spec.workers, max(1, len(missing)))
        for result in Workers(iter(missing), work, count, self.stop).results(look):
            if isinstance(result.error, Unavailable):
                unanswered[result.index] = result.error
                in_a_row += 1
                if in_a_row >= self.spec.stop_after:
                    self.stop.set()
            elif result.error is not None:
                fatal = fatal or result.error
                self.stop.set()
            else:
                in_a_row = 0
                counts[_pool(result.value)] += 1
            self._show(counts, clients, len(unanswered), result)
        if fatal is not None:
            raise fatal
        if request:
            raise Interrupted(
                f"stopped; {sum(counts.values())} of {self.spec.size} items are annotated",
                remedy="the same command goes on from there",
            )
        if in_a_row >= self.spec.stop_after:
            raise _missing(unanswered, self.spec.size, self.spec.size - sum(counts.values()))
        return unanswered

    def _one(
        self, index: int, annotator: Annotator, clients: Mapping[Endpoint, Client]
    ) -> dict[str, Any]:
        """Annotate one item and keep what came of it."""
        try:
            item = self.spec.dataset.item(SPLIT, index)
        except DataError as error:
            row = _row(f"row {index}", Evidence(left_out="the row cannot be read"))
            row["why"] = str(error.problem.what)
        else:
            row = self._annotated(index, item, annotator, clients)
        self.journal.finish(self.identity, index, row)
        return row

    def _annotated(
        self, index: int, item: Item, annotator: Annotator, clients: Mapping[Endpoint, Client]
    ) -> dict[str, Any]:
        ask = Asking(self.journal, clients, item.id)
        try:
            found = annotator.evidence(item, ask)
        except Refused as error:
            row = _row(item.id, Evidence(left_out="an endpoint refused it"))
            return row | {"why": str(error.problem.what), "misread": dict(ask.misread)}
        row = _row(item.id, found) | {"misread": dict(ask.misread)}
        if item.image is not None:
            image = image_cell(self.spec.dataset, item, index, self.folder)
            row |= {"image": image, "question": item.question, "answer": item.answer}
        if item.demonstration:
            row["demonstration"] = item.demonstration
        return row

    def _show(
        self,
        counts: Counter[str],
        clients: Mapping[Endpoint, Client],
        unanswered: int,
        result: Completed,
    ) -> None:
        tries = sum(sum(client.troubles.values()) for client in clients.values())
        shown = {name: counts[name] for name in ("single", "multi")}
        shown |= {"left_out": counts[""], "retries": tries, "unanswered": unanswered}
        self.reporter.progress(
            STEP,
            sum(counts.values()) + unanswered,
            self.spec.size,
            {k: v for k, v in shown.items() if v},
        )
        if isinstance(result.error, Unavailable) and unanswered == 1:
            self.reporter.note(f"item {result.index}: {result.error.problem.what}")


def _row(item_id: str, evidence: Evidence) -> dict[str, Any]:
    return {
        "id": item_id,
        "boxes": [list(box) for box in evidence.boxes],
        "tag": evidence.tag,
        "phrases": list(evidence.phrases),
        "proposals": [asdict(proposal) for proposal in evidence.proposals],
        "left_out": evidence.left_out,
    }


def _pool(row: Mapping[str, Any]) -> str:
    return str(row["tag"])


def _missing(
    unanswered: Mapping[int, EndpointError], size: int, count: int | None = None
) -> EndpointError:
    first = next(iter(unanswered.values()))
    return EndpointError(
        f"{count or len(unanswered)} of {size} items are not annotated: {first.problem.what}",
        where=first.problem.where,
        remedy="run the same command to ask for these again; --skip-unanswered leaves them out",
    )
