"""Two checkpoints on the same questions, sample by sample.

What holds for two checkpoints says nothing about two methods: those are compared over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vexp.runs import evaluations
from vexp.runs.responses import are_numbered, split_id
from vexp.runs.rows import evaluation_folders
from vexp.runs.store import RunFolder
from vexp.tables.significance import Interval, McNemar, mcnemar, paired_bootstrap


@dataclass(frozen=True)
class Compared:
    """One evaluation that both checkpoints have."""

    name: str
    questions: int
    first: float  # accuracy
    second: float
    difference: Interval  # second - first
    test: McNemar | None  # None where a question has more than one answer
    better: tuple[str, ...]  # questions that only the second answers rightly
    worse: tuple[str, ...]


@dataclass(frozen=True)
class NotCompared:
    """One evaluation that cannot be compared."""

    name: str
    why: str


def compare(first: RunFolder, second: RunFolder) -> list[Compared | NotCompared]:
    """Every evaluation that either run's published checkpoint has.

    Raises:
        RunError: for results or samples that are damaged.
    """
    ours, theirs = dict(_finished(first)), dict(_finished(second))
    found = [_compared(key[0], ours[key], theirs[key]) for key in ours if key in theirs]
    names = {each.name for each in found}
    for name in sorted({key[0] for key in (*ours, *theirs)} - names):
        lacking = [
            run.name
            for run, there in ((first, ours), (second, theirs))
            if name not in {key[0] for key in there}
        ]
        why = f"{lacking[0]} has no such evaluation" if lacking else "their protocols differ"
        found.append(NotCompared(name, why))
    return found


def _finished(run: RunFolder) -> Iterator[tuple[tuple[str, str], Path]]:
    """Evaluations of the published checkpoint by name, and by what was asked and how."""
    result = run.result()
    for folder in evaluation_folders(run):
        found = evaluations.read_results(folder)
        if result is not None and found.checkpoint == result.checkpoint_hash:
            asked = [found.protocol, found.scorer]
            yield (found.name, json.dumps(asked, sort_keys=True)), folder


def _compared(name: str, first: Path, second: Path) -> Compared | NotCompared:
    ours, theirs = _scores(first), _scores(second)
    if not ours or ours.keys() != theirs.keys():
        return NotCompared(name, "their samples are not of the same questions")
    left = {question: math.fsum(each) / len(each) for question, each in ours.items()}
    right = {question: math.fsum(each) / len(each) for question, each in theirs.items()}
    verdicts = all(value in (0, 1) for value in (*left.values(), *right.values()))
    single = verdicts and all(len(each) == 1 for each in ours.values())
    count = len(left)
    return Compared(
        name=name,
        questions=count,
        first=math.fsum(left.values()) / count,
        second=math.fsum(right.values()) / count,
        difference=paired_bootstrap(right, left),
        test=mcnemar(right, left) if single else None,
        better=tuple(q for q in left if right[q] > left[q]),
        worse=tuple(q for q in left if right[q] < left[q]),
    )


def _scores(folder: Path) -> dict[str, list[float]]:
    """Scores of the answers to each question; avg@k has several."""
    found: dict[str, list[float]] = {}
    numbered = are_numbered(evaluations.read_results(folder))
    for row in evaluations.read_samples(folder):
        question, _ = split_id(str(row["id"]), numbered=numbered)
        found.setdefault(question, []).append(float(row["correct"]))
    return found
