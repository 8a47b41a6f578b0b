"""`vexp diff`: what differs between two runs, and whether it can change the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vexp.cli.options import json_option, results_option

_ABSENT = "(not set)"


@click.command("diff")
@click.argument("first")
@click.argument("second")
@results_option
@json_option
def command(first: str, second: str, results_dir: Path, as_json: bool) -> None:
    """Keys in which two runs differ. A run is named by its folder, id, or the start of its hash.

    Keys marked `*` decide the trained weights; the others are only recorded.
    """
    from vexp.runs.store import RunStore

    store = RunStore(results_dir)
    left, right = store.load(first), store.load(second)
    decisive = set(differing(left.record["science"], right.record["science"]))
    found = differing(left.config, right.config)
    rows = [
        {"key": key, "first": a, "second": b, "science": key in decisive}
        for key, (a, b) in found.items()
    ]
    if as_json:
        click.echo(json.dumps({"first": left.name, "second": right.name, "keys": rows}, indent=2))
        return
    click.echo(f"- {left.name}\n+ {right.name}")
    if not rows:
        click.echo("the same config")
    for row in rows:
        mark = "*" if row["science"] else " "
        click.echo(
            f"{mark} {row['key']}: {json.dumps(row['first'])} -> {json.dumps(row['second'])}"
        )


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
