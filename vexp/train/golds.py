"""Gold answers that the verifier cannot read, named before a model is trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vexp.dataset.base import Dataset
from vexp.errors import ConfigError, Problem
from vexp.verifier.pool import gold_problems

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

SHOWN = 5  # rows named of each dataset; the rest is counted
REFUSED = 0.01  # share of unreadable gold answers above which a run does not start


def check_data(run: RunSpec) -> list[str]:
    """Notes on the data of all datasets and their gold answers, looked at once before training.

    A dataset with a few unreadable gold answers is noted; the verdict on these is `bad_gold`.

    Raises:
        ConfigError: with everything that is wrong, by file and row.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    try:
        run.mix.check_data()
        notes += run.mix.data_notes()
    except ConfigError as error:
        problems += error.problems
    for name, dataset in run.mix.datasets.items():
        for share, problem in _unreadable(run, name, dataset):
            if share > REFUSED:
                problems.append(problem)
            else:
                notes.append(str(problem))
    if problems:
        raise ConfigError(problems)
    return notes


def _unreadable(run: RunSpec, name: str, dataset: Dataset) -> Iterator[tuple[float, Problem]]:
    """The share of gold answers that cannot be read, and the problem that says which."""
    rows = [(where, gold) for where, gold in dataset.golds() if gold]
    reasons = gold_problems(run.verifier, (gold for _, gold in rows))
    bad = [(where, gold) for where, gold in rows if gold in reasons]
    if not bad:
        return
    verifier = run.verifier.name
    yield (
        len(bad) / len(rows),
        Problem(
            f"{len(bad)} of {len(rows)} gold answers cannot be read by the verifier {verifier!r}, "
            "so that every answer to them counts as wrong",
            where=f"mix.datasets.{name}: {_named(bad, reasons)}",
            remedy="write each answer alone and as docs/answers.md says, or remove these rows"
            + ("" if verifier == "exact" else "; verifier=exact compares any text"),
        ),
    )


def _named(bad: list[tuple[str, str]], reasons: Mapping[str, str]) -> str:
    lines = [f"{where}: {_short(gold)!r}: {reasons[gold]}" for where, gold in bad[:SHOWN]]
    rest = len(bad) - SHOWN
    return "\n     ".join([*lines, *([f"… and {rest} more"] if rest > 0 else [])])


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
