"""`vexp convert`: a published dataset as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import UserPathType, json_option

if TYPE_CHECKING:
    from vexp.dataset.layouts._write import Written


@click.command("convert")
@click.argument("layout", required=False)
@click.argument("source", required=False, type=UserPathType())
@click.argument("target", required=False, type=UserPathType())
@click.option("--limit", type=click.IntRange(1), help="Keep that many rows of each split.")
@click.option("--copy", is_flag=True, help="Copy image files; without it they are linked.")
@json_option
def command(
    layout: str | None,
    source: Path | None,
    target: Path | None,
    limit: int | None,
    copy: bool,
    as_json: bool,
) -> None:
    """Write the dataset in the folder SOURCE as a table in the new folder TARGET.

    Ends with exit code 1 if rows name an image that is not there; they are left out.

    Without arguments, the layouts that can be read; with a layout alone, what its folder holds.

    Example: `vexp convert virl39k ~/data/ViRL39K data/virl39k`.
    """
    from vexp.dataset.layouts import convert, names

    if layout is None or source is None:
        _explain(names() if layout is None else [layout], whole=layout is not None)
        return
    if target is None:
        raise click.UsageError("name the folder to write: vexp convert LAYOUT SOURCE TARGET")
    done = convert(layout, source, target, limit=limit, images="copy" if copy else "link")
    if as_json:
        click.echo(json.dumps({"target": str(target), **done.to_dict()}, indent=2))
    else:
        _print(done)
    if done.lost_images:
        click.echo(
            f"{done.lost_images} rows name an image that is not below {source}: unpack or download "
            "what is missing, delete the new folder, and convert again",
            err=True,
        )
        click.get_current_context().exit(1)


def _print(done: Written) -> None:
    target = done.target
    for split, tags in done.rows.items():
        kinds = ", ".join(f"{count} {tag}" for tag, count in tags.items() if count)
        blind = f", {done.without_image[split]} without an image" * bool(done.without_image[split])
        click.echo(f"{split}: {sum(tags.values())} rows ({kinds}){blind}")
    for reason, ids in sorted(done.left_out.items()):
        named = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        click.echo(f"left out: {len(ids)}, {reason}: {named}")
    main = "mix.datasets.main"
    held = [f"{main}.{s}_path={target / s}.jsonl" for s in ("dev", "test") if s in done.rows]
    parts = [f"{main}=table", f"{main}.path={target / 'train'}.jsonl", *held]
    click.echo(f"next: vexp doctor --data 'stages=[rl]' {' '.join(parts)}")


def _explain(layouts: list[str], *, whole: bool) -> None:
    from vexp.dataset.layouts import describe, names
    from vexp.errors import ConfigError, Problem, suggest

    for layout in layouts:
        if layout not in names():
            accepted = suggest(layout, names())
            raise ConfigError(Problem(f"there is no layout {layout!r}", accepted=accepted))
        text = describe(layout)
        click.echo(text if whole else f"{layout:12} {text.splitlines()[0]}")
