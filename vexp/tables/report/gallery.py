"""Held-out questions with their image, and how each line of the report answered them.

What an evaluation kept is drawn whole (`gallery` of `diagnostics` and `credit`): image, boxes and
the attention of each token. Of other answers there is the text; their image is made again from the
dataset where that can be done.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vexp.dataset.base import Split
from vexp.errors import Damaged, VexpError
from vexp.runs.evaluations import read_results, read_samples
from vexp.runs.responses import are_numbered, split_id
from vexp.runs.rows import evaluation_folders
from vexp.runs.store import RunFolder, RunStore
from vexp.sweeps.points import Point
from vexp.tables.report.charts import DAMAGE
from vexp.tables.report.lines import Line
from vexp.tables.tokens import visible

MOST_BYTES = 9_000_000  # of all that is embedded; further questions are left out, and counted
QUESTIONS = 8  # that are shown where no evaluation has kept a picture
REMEDY = (
    "no answer has kept its attention: evaluations by `diagnostics` keep it since this version; "
    "add `+evaluator.gallery={name: diagnostics, size: 8}` to the sweep's `base` and launch it "
    "again; nothing is trained anew"
)
_MEMBERS = ("0", "1", "2")  # sampled responses to a question that are shown
_SPLITS: tuple[Split, ...] = ("dev", "test")
_IMAGE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass
class Question:
    """One held-out question; `answers` by line."""

    id: str
    question: str
    answer: str
    tag: str
    image: str = ""  # a data URL
    boxes: Sequence[Sequence[float]] = ()  # the evidence, in shares of the image's sides
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    drawn: bool = False  # an answer with a picture of its own is among them


@dataclass(frozen=True)
class Gallery:
    """The questions that are shown, and what is not."""

    questions: tuple[Question, ...] = ()
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def gallery(lines: Sequence[Line], store: RunStore) -> Gallery:
    """The answers of one run of each line: the first seed that has kept pictures, or any."""
    questions: list[Question] = []
    problems: list[str] = []
    for number, line in enumerate(lines):
        point, entries = _chosen(line, store, problems)
        if point is None:
            continue
        for entry in entries:
            try:
                _add(questions, number, point, entry)
            except DAMAGE:
                problems.append(f"a line of samples.jsonl in {entry.where} is damaged: left out")
    kept = _in_order([q for q in questions if q.drawn]) or _in_order(questions, QUESTIONS)
    shown = _within(kept, MOST_BYTES)
    missing = []
    if not kept:
        missing.append("no finished evaluation of this sweep holds responses")
    elif not any(question.drawn for question in kept):
        missing.append(REMEDY)
    if len(shown) < len(kept):
        left = len(kept) - len(shown)
        missing.append(f"{left} of {len(kept)} questions are left out: the page would be too large")
    without = [line.label for n, line in enumerate(lines) if not any(n in q.answers for q in shown)]
    if shown and without:
        missing.append(f"no responses of: {', '.join(without)}")
    return Gallery(tuple(shown), tuple(missing), tuple(dict.fromkeys(problems)))


def _in_order(questions: Sequence[Question], most: int | None = None) -> list[Question]:
    """Questions of one id together, in the order in which ids come up; of the first `most` ids."""
    order = list(dict.fromkeys(question.id for question in questions))[:most]
    chosen = [question for question in questions if question.id in order]
    return sorted(chosen, key=lambda question: order.index(question.id))


@dataclass(frozen=True)
class _Entry:
    """One scored response."""

    label: str  # the evaluation's name in the config
    index: int  # among the responses of its dataset
    sample: Mapping[str, Any]
    split: str
    run: str
    where: str
    question: str  # its id
    member: str  # the number of a sampled response; empty for a greedy answer


def _chosen(line: Line, store: RunStore, problems: list[str]) -> tuple[Point | None, list[_Entry]]:
    fallback: tuple[Point | None, list[_Entry]] = (None, [])
    for point in line.runs:
        folder = store.find(point.identity)
        found = list(_entries(folder, problems)) if folder is not None else []
        if any(entry.sample.get("gallery") for entry in found):
            return point, found
        if found and fallback[0] is None:
            fallback = (point, found)
    return fallback


def _entries(folder: RunFolder, problems: list[str]) -> Iterator[_Entry]:
    """The first responses of each evaluation of the published checkpoint, in order of interest:

    greedy before sampled ones, those with pictures first.
    """
    try:
        result, homes = folder.result(), evaluation_folders(folder)
    except Damaged:  # named with the run's results
        return
    found: list[_Entry] = []
    for home in homes if result is not None else ():
        try:
            results = read_results(home)
        except Damaged:  # named with the run's results
            continue
        try:
            samples = read_samples(home)
        except Damaged as error:
            problems.append(str(error))
            continue
        if result is None or results.checkpoint != result.checkpoint_hash or not results.evaluator:
            continue
        split = str(results.protocol.get("split"))
        seen: dict[str, int] = {}
        numbered = are_numbered(results)
        for sample in samples:
            index = seen.get(name := str(sample.get("dataset", "")), 0)
            seen[name] = index + 1
            kept = sample.get("gallery") or sample.get("tokens")
            if "response" in sample and "id" in sample and (kept or index < QUESTIONS):
                ids = split_id(str(sample["id"]), numbered=numbered)
                found.append(
                    _Entry(results.name, index, sample, split, folder.name, str(home), *ids)
                )
    yield from sorted(found, key=lambda e: (e.member != "", not e.sample.get("gallery")))


def _add(questions: list[Question], line: int, point: Point, entry: _Entry) -> None:
    sample, member = entry.sample, entry.member
    kept = sample.get("gallery") or {}
    if member and not (member in _MEMBERS and (kept or sample.get("tokens"))):
        return
    answer = _answer(entry, kept)
    texts = (entry.question, str(sample["question"]), str(sample["answer"]))
    same = [q for q in questions if (q.id, q.question, q.answer) == texts]
    own = [q for q in same if line in q.answers]
    # An evaluation without pictures says nothing new where another has the same greedy answer.
    if any(known["title"] == answer["title"] for q in own for known in q.answers[line]):
        return
    image, boxes = _image(kept, point, entry)
    # Rows that differ in their data may ask the same of another image, under the same id.
    fitting = [q for q in same if q.image == image] if image else own or same
    fitting = fitting or [q for q in same if not q.image]
    if fitting:
        question = fitting[0]
    else:
        question = Question(*texts, str(sample.get("tag", "")))
        questions.append(question)
    if image and not question.image:
        question.image, question.boxes = image, boxes
    question.answers.setdefault(line, []).append(answer)
    question.drawn = question.drawn or bool(kept.get("tokens"))


def _answer(entry: _Entry, kept: Mapping[str, Any]) -> dict[str, Any]:
    sample = entry.sample
    tokens = kept.get("tokens") or [text for text, _ in sample.get("tokens", ())]
    values = dict(kept.get("values") or {})
    if sample.get("tokens"):
        values.setdefault("credit", [float(weight) for _, weight in sample["tokens"]])
    count = len(tokens)
    found: dict[str, Any] = {
        "title": f"sampled response {entry.member}" if entry.member else "greedy answer",
        "run": entry.run,
        "response": str(sample["response"]),
        "extracted": None if sample.get("extracted") is None else str(sample["extracted"]),
        "correct": float(sample["correct"]) == 1,
        "status": str(sample.get("status", "")),
        "tokens": [visible(str(token)) for token in tokens],
        "values": {str(k): _numbers(v) for k, v in values.items() if len(v) == count},
    }
    if kept.get("attention"):
        found["attention"] = _attention(kept["attention"], count)
    return found


def _numbers(values: Sequence[Any]) -> list[float | None]:
    return [None if value is None else _finite(value) for value in values]


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} cannot be drawn")
    return number


def _attention(kept: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """The record, checked: its data have the size that it says."""
    rows, columns = int(kept["rows"]), int(kept["columns"])
    size = tokens * rows * columns
    packed = base64.b64decode(str(kept["data"]), validate=True)
    try:
        raw = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes of attention instead of {size}")
    return {
        "layer": int(kept["layer"]),
        "rows": rows,
        "columns": columns,
        "most": _finite(kept["most"]),
        "data": str(kept["data"]),
    }


def _image(
    kept: Mapping[str, Any], point: Point, entry: _Entry
) -> tuple[str, Sequence[Sequence[float]]]:
    """The question's image and boxes: as kept, or made again; empty if neither can be."""
    if kept.get("image"):
        if not _IMAGE.fullmatch(str(kept["image"])):
            raise ValueError("this is no image")
        return str(kept["image"]), [_sides(box) for box in kept["boxes"]]
    return _made_again(point, entry)


def _sides(box: Sequence[Any]) -> list[float]:
    left, top, right, bottom = map(_finite, box)
    return [left, top, right, bottom]


def _made_again(point: Point, entry: _Entry) -> tuple[str, Sequence[Sequence[float]]]:
    from vexp.diagnostics.gallery import image_data

    evaluator = point.run.evaluator.get(entry.label)
    datasets = getattr(evaluator, "datasets", None) or point.run.mix.datasets
    dataset = datasets.get(str(entry.sample.get("dataset")))
    split = next((name for name in _SPLITS if name == entry.split), None)
    if dataset is None or split is None or entry.member:
        return "", ()
    try:
        item = dataset.item(split, entry.index)
    except (VexpError, IndexError):  # data that are not on this machine
        return "", ()
    if entry.sample["id"] != f"{entry.sample['dataset']}/{item.id}" or item.image is None:
        return "", ()
    width, height = item.image.size
    sides = (width, height, width, height)
    boxes = [[round(v / side, 4) for v, side in zip(b, sides, strict=True)] for b in item.boxes]
    return image_data(item.image), boxes


def _within(questions: Sequence[Question], most: int) -> list[Question]:
    """The first of them that fit."""
    found: list[Question] = []
    used = 0
    for question in questions:
        used += len(question.image) + len(json.dumps(list(question.answers.values())))
        if used > most:
            break
        found.append(question)
    return found
