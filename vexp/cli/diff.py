"""`vexp diff`: what differs between two runs, and whether it can change the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import json_option, results_option
from vexp.errors import RunError

if TYPE_CHECKING:
    from vexp.runs.store import RunFolder
    from vexp.tables.compare_checkpoints import Compared, NotCompared

_ABSENT = "(not set)"


@click.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--samples", is_flag=True, help="Compare their answers question by question.")
@results_option
@json_option
def command(first: str, second: str, samples: bool, results_dir: Path, as_json: bool) -> None:
    """Keys in which two runs differ. A run is named by its folder, id, or the start of its hash.

    Keys marked `*` decide the trained weights; the others are only recorded. With --samples, the
    finished evaluations of both are compared on the same questions.
    """
    from vexp.runs.store import RunStore

    store = RunStore(results_dir)
    left, right = store.load(first), store.load(second)
    decisive = set(differing(left.record.science, right.record.science))
    found = differing(left.config, right.config)
    rows = [
        {"key": key, "first": a, "second": b, "science": key in decisive}
        for key, (a, b) in found.items()
    ]
    compared = _compared(left, right) if samples else []
    if as_json:
        content = {"first": left.name, "second": right.name, "keys": rows}
        if samples:
            content["evaluations"] = [asdict(each) for each in compared]
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"- {left.name}\n+ {right.name}")
    if not rows:
        click.echo("the same config")
    for row in rows:
        mark = "*" if row["science"] else " "
        click.echo(
            f"{mark} {row['key']}: {json.dumps(row['first'])} -> {json.dumps(row['second'])}"
        )

    for each in compared:
        click.echo(_sentence(each))
    if compared:
        click.echo("this is about two checkpoints; methods are compared over seeds (vexp table)")


def _compared(left: RunFolder, right: RunFolder) -> list[Compared | NotCompared]:
    from vexp.tables.compare_checkpoints import compare

    found = compare(left, right)
    if not found:
        raise RunError(
            "neither run has a finished evaluation",
            where=f"{left.name}, {right.name}",
            remedy=f"vexp eval {left.name}",
        )
    return found


def _sentence(found: Compared | NotCompared) -> str:
    from vexp.tables.compare_checkpoints import NotCompared

    if isinstance(found, NotCompared):
        return f"{found.name}: not compared, {found.why}"
    low, high = 100 * found.difference.low, 100 * found.difference.high
    text = (
        f"{found.name}, {found.questions} questions: {100 * found.first:.1f} % against "
        f"{100 * found.second:.1f} %, difference {100 * found.difference.mean:+.1f} "
        f"[{low:+.1f}, {high:+.1f}] (95 %, paired bootstrap over questions); "
        f"{len(found.better)} better, {len(found.worse)} worse"
    )
    return text if found.test is None else f"{text}, p = {found.test.p:.2g} (exact McNemar)"


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of two nested mappings whose values differ, with both values."""
    from vexp.config.merge import flat

    a = {".".join(key): value for key, value in flat(left)}
    b = {".".join(key): value for key, value in flat(right)}
    return {
        key: (a.get(key, _ABSENT), b.get(key, _ABSENT))
        for key in sorted(a.keys() | b.keys())
        if key not in a or key not in b or a[key] != b[key] or type(a[key]) is not type(b[key])
    }
