"""Are our losses TRL's losses? `python -m benchmarks.losses_vs_trl`; exits 1 if one is not.

First on the same tensors, for every algorithm; then on the same responses to prompts with images,
each side running the model in its own way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.differences import Difference
from benchmarks.quiet import quiet
from benchmarks.workload import Workload, prepare


def measure() -> list[Difference]:
    """All comparisons, on a workload small enough to take seconds."""
    from benchmarks import same_responses, same_tensors

    workload = Workload(length=64, steps=1, prompts=4, micro_batch=32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suppress = prepare(workload, folder)
        return [
            *same_tensors.compare(folder, suppress, workload),
            *same_responses.compare(folder, suppress, workload),
        ]


def as_json(found: list[Difference]) -> dict[str, Any]:
    """One object; `ok` is whether every comparison is within its tolerance."""
    rows = [asdict(one) | {"loss": one.loss, "ok": one.ok} for one in found]
    return {"ok": all(one.ok for one in found), "differences": rows}


def as_text(found: list[Difference]) -> str:
    """A table of the differences."""
    head = f"{'':34}{'our loss':>14}{'TRL':>14}{'loss':>10}{'gradient':>10}{'logprobs':>10}"
    lines = [f"{head}{'allowed':>10}"]
    for one in found:
        numbers = f"{one.ours:>14.8f}{one.trl:>14.8f}{one.loss:>10.1e}{one.gradient:>10.1e}"
        verdict = "" if one.ok else "  TOO FAR"
        lines.append(f"{one.name:34}{numbers}{one.logprobs:>10.1e}{one.tolerance:>10.0e}{verdict}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
def main(as_object: bool) -> None:
    """Compare, print, and exit 1 beyond the tolerance."""
    with quiet():
        found = measure()
    click.echo(json.dumps(as_json(found)) if as_object else as_text(found))
    sys.exit(0 if all(one.ok for one in found) else 1)


if __name__ == "__main__":
    main()
