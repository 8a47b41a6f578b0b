"""Writing what was found: rows to train on, the evidence beside them, and what it took."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vexp import __version__
from vexp.annotate.client_pool import tokens
from vexp.annotate.folder import EVIDENCE, MANIFEST, ROWS, SOURCE
from vexp.annotate.journal import AnnotationJournal
from vexp.annotate.spec import Annotation
from vexp.config.schema import to_dict
from vexp.errors import DataError
from vexp.files import storage_errors, write_json, write_text
from vexp.runs import provenance

FORMAT = 1
SHOWN = 5  # ids named for each reason
_CELLS = ("id", "image", "question", "answer", "boxes", "tag", "demonstration")


@dataclass
class AnnotationSummary:
    """What came of an annotation."""

    items: int = 0
    single: int = 0
    multi: int = 0
    without_boxes: int = 0  # rows that are kept although they have none
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)  # reason: count, first ids
    unanswered: int = 0  # items left out because an endpoint gave no answer
    verdicts: dict[str, int] = field(default_factory=dict)  # of proposed boxes
    sources: dict[str, int] = field(default_factory=dict)  # of boxes that stayed
    misread: dict[str, int] = field(default_factory=dict)  # answers that could not be read, by step
    asked: list[dict[str, Any]] = field(default_factory=list)  # by endpoint and model
    cost: float | None = None  # US$, as far as prices are set; of all answers in the journal


def write(
    spec: Annotation,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    journal: AnnotationJournal,
    started: str,
    unanswered: int,
) -> AnnotationSummary:
    """Write rows, evidence, manifest and provenance into `folder`.

    Raises:
        DataError: if there is no row to train on.
    """
    summary = _summary(spec, rows, journal, unanswered)
    hidden = ("image", "question", "answer", "demonstration")
    evidence = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
    write_text(folder / EVIDENCE, _lines(evidence))
    kept = [row for row in rows if row["boxes"] or (_keeps(spec) and "question" in row)]
    if not kept:
        reasons = (f"{why}: {left['count']}" for why, left in summary.left_out.items())
        raise DataError(
            "not one item could be annotated",
            where=str(folder),
            accepted="; ".join(reasons),
            remedy=f"{EVIDENCE} there says more; answers are kept for the next try",
        )
    home = _home(spec)
    if home is not None and not (folder / SOURCE).is_symlink():
        with storage_errors(folder):
            (folder / SOURCE).symlink_to(home, target_is_directory=True)
    write_text(folder / ROWS, _lines([_cells(row, home) for row in kept]))
    content = {
        "format": FORMAT,
        "vexp": __version__,
        "identity": spec.identity,
        "settings": to_dict(spec),
        **asdict(summary),
    }
    write_json(folder / MANIFEST, content)
    write_json(folder / provenance.RECORD, provenance.collect(to_dict(spec), started))
    return summary


def _summary(
    spec: Annotation, rows: Sequence[Mapping[str, Any]], journal: AnnotationJournal, unanswered: int
) -> AnnotationSummary:
    pools = Counter(row["tag"] for row in rows)
    summary = AnnotationSummary(
        len(rows) + unanswered, pools["single"], pools["multi"], unanswered=unanswered
    )
    verdicts: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    misread: Counter[str] = Counter()
    for row in rows:
        for proposal in row["proposals"]:
            verdicts[proposal["verdict"]] += 1
            sources[proposal["source"]] += proposal["verdict"] in ("valid", "unjudged")
        misread.update(row.get("misread", {}))
        if row["left_out"] and _keeps(spec) and "question" in row:
            summary.without_boxes += 1
        elif row["left_out"]:
            left = summary.left_out.setdefault(row["left_out"], {"count": 0, "ids": []})
            left["count"] += 1
            left["ids"] = [*left["ids"], row["id"]][:SHOWN]
    summary.verdicts, summary.sources, summary.misread = (
        dict(verdicts),
        dict(+sources),
        dict(misread),
    )
    summary.asked, summary.cost = _asked(spec, journal)
    return summary


def _asked(
    spec: Annotation, journal: AnnotationJournal
) -> tuple[list[dict[str, Any]], float | None]:
    """Requests and tokens by model, and what they cost by the prices that are set now."""
    prices = {
        (e.base_url, e.model): (e.prompt_price, e.reply_price) for e in spec.endpoints().values()
    }
    summary: list[dict[str, Any]] = []
    total: float | None = None
    for (address, model), count in sorted(tokens(journal.answers()).items()):
        prompt, reply = prices.get((address, model), (None, None))
        cost = None
        if prompt is not None or reply is not None:
            cost = count["prompt_tokens"] * (prompt or 0) + count["reply_tokens"] * (reply or 0)
            cost /= 1e6
            total = (total or 0.0) + cost
        summary.append({"endpoint": address, "model": model, **count, "cost": cost})
    return summary, total


def _keeps(spec: Annotation) -> bool:
    return spec.without_boxes == "kept"


def _home(spec: Annotation) -> Path | None:
    """The folder of the data, where it is one table."""
    path = getattr(spec.dataset, "path", "")
    return Path(path).absolute().parent if path else None


def _cells(row: Mapping[str, Any], home: Path | None) -> dict[str, Any]:
    """The row for `dataset: table`; an image in the data's folder is reached by the link."""
    cells = {name: row[name] for name in _CELLS if name in row}
    image = str(cells.get("image") or "")
    if home is not None and image.startswith(f"{home}{os.sep}") and ".." not in Path(image).parts:
        cells["image"] = f"{SOURCE}/{Path(image).relative_to(home).as_posix()}"
    return cells


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
