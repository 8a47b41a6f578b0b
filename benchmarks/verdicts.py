"""Precision and recall of the verifiers on labelled answers: `python -m benchmarks.verdicts`.

Reads `tests/verifier/labelled_answers.jsonl`: pairs of a gold answer and a response with the
verdict of a careful reader. A pair labelled for `any` verifier is judged by all but
`multiple_choice`. An answer that was never compared (any status but `ok` and `no_answer`) is not
paid; it is counted beside, and is a miss where the careful reader accepts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from vexp.registry import REGISTRY
from vexp.verifier.base import Verdict, Verifier

LABELS = Path(__file__).parents[1] / "tests" / "verifier" / "labelled_answers.jsonl"
ALL = ("exact", "numeric", "math_verify", "multiple_choice")
PRECISION, RECALL = 0.995, 0.98  # what each verifier has to reach


@dataclass(frozen=True)
class Pair:
    """A labelled pair and the verdict on it."""

    verifier: str
    kind: str
    gold: str
    response: str
    correct: bool
    verdict: Verdict

    @property
    def paid(self) -> bool:
        return self.verdict.correct == 1.0

    @property
    def wrong(self) -> bool:
        return self.paid != self.correct


@dataclass(frozen=True)
class Score:
    """Counts over pairs."""

    pairs: int
    false_accepts: int
    false_rejects: int
    accepts: int  # by the careful reader
    unread: int  # never compared

    @property
    def precision(self) -> float | None:
        """Share of the paid answers that are right; None where none was paid."""
        paid = self.accepts - self.false_rejects + self.false_accepts
        return 1 - self.false_accepts / paid if paid else None

    @property
    def recall(self) -> float | None:
        """Share of the right answers that are paid; None where none is right."""
        return 1 - self.false_rejects / self.accepts if self.accepts else None


def judged(split: str = "all", verifiers: Sequence[str] = ALL, every: int = 1) -> Iterator[Pair]:
    """Every labelled pair, or each `every`-th, with the verdict of each verifier it is for."""
    made = {name: cast("Verifier", REGISTRY.get("verifier", name)()) for name in verifiers}
    for line in LABELS.read_text(encoding="utf-8").split("\n")[:-1][::every]:
        row: dict[str, Any] = json.loads(line)
        if split not in ("all", row["split"]):
            continue
        for name in ALL[:3] if row["verifier"] == "any" else (row["verifier"],):
            if name in made:
                verdict = made[name].verdict(row["response"], row["gold"])
                fields = (row["kind"], row["gold"], row["response"], bool(row["correct"]))
                yield Pair(name, *fields, verdict)


def score(pairs: Sequence[Pair]) -> Score:
    """Counts of false and missed payments."""
    return Score(
        pairs=len(pairs),
        false_accepts=sum(pair.paid and not pair.correct for pair in pairs),
        false_rejects=sum(pair.correct and not pair.paid for pair in pairs),
        accepts=sum(pair.correct for pair in pairs),
        unread=sum(pair.verdict.status not in ("ok", "no_answer") for pair in pairs),
    )


def scores(pairs: Sequence[Pair]) -> dict[tuple[str, str], Score]:
    """By verifier and kind, with the kind "all" first for each verifier."""
    names = [name for name in ALL if any(pair.verifier == name for pair in pairs)]
    result = {}
    for name in names:
        own = [pair for pair in pairs if pair.verifier == name]
        result[name, "all"] = score(own)
        for kind in sorted({pair.kind for pair in own}):
            result[name, kind] = score([pair for pair in own if pair.kind == kind])
    return result


def table(results: Mapping[tuple[str, str], Score]) -> str:
    """Precision / recall in percent (pairs), a line for each kind, in Markdown."""
    names = [name for name in ALL if (name, "all") in results]
    kinds = sorted({kind for _, kind in results} - {"all"})
    lines = [
        f"| kind | {' | '.join(f'`{name}`' for name in names)} |",
        "|---|" + "---|" * len(names),
    ]
    for kind in ("all", *kinds):
        cells = [_cell(results[name, kind]) if (name, kind) in results else "" for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    unread = [str(results[name, "all"].unread) for name in names]
    lines.append(f"| never compared | {' | '.join(unread)} |")
    return "\n".join(lines)


def _cell(of: Score) -> str:
    return f"{_percent(of.precision)} / {_percent(of.recall)} ({of.pairs})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


@click.command(help=__doc__)
@click.option("--split", type=click.Choice(["all", "dev", "test"]), default="all")
@click.option("--by-kind/--no-kinds", default=True, help="A line for each kind.")
@click.option("--errors", is_flag=True, help="Also every pair judged otherwise than labelled.")
@click.option("--json", "as_json", is_flag=True)
def main(split: str, by_kind: bool, errors: bool, as_json: bool) -> None:
    """Print the table; exit 1 if a verifier misses its bar."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    pairs = list(judged(split))
    results = scores(pairs)
    for pair in pairs if errors else ():
        if pair.wrong:
            click.echo(
                f"{pair.verifier}, {pair.kind}: gold {pair.gold!r}, response {pair.response!r}, "
                f"wanted {int(pair.correct)}, status {pair.verdict.status}"
            )
    shown = {key: of for key, of in results.items() if by_kind or key[1] == "all"}
    if as_json:
        click.echo(json.dumps({"/".join(key): vars(of) for key, of in shown.items()}))
    else:
        click.echo(table(shown))
    totals = [of for (_, kind), of in results.items() if kind == "all"]
    low = [of for of in totals if (of.precision or 0) < PRECISION or (of.recall or 0) < RECALL]
    raise SystemExit(1 if low else 0)


if __name__ == "__main__":
    main()
