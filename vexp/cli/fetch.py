"""`vexp fetch`: models and benchmarks for a machine without a network."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import UserPathType, config_dir_option, json_option

if TYPE_CHECKING:
    from vexp.fetch.manifest import Manifest
    from vexp.hub import Listing, Repository
    from vexp.spec.run import RunSpec


@click.command("fetch")
@click.argument("what", nargs=-1, metavar="[SWEEP] [OVERRIDE]...")
@click.option("--to", "folder", type=UserPathType(), help="The folder to fill, or to go on with.")
@click.option(
    "--check", "checked", type=UserPathType(), metavar="FOLDER",
    help="See whether a folder is as it was fetched; no network is used.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only list what would be fetched, with sizes.")
@config_dir_option
@json_option
def command(
    what: tuple[str, ...],
    folder: Path | None,
    checked: Path | None,
    dry_run: bool,
    config_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Download what a config or a sweep reads from the hub, for a machine that cannot.

    Models at their pinned commits and the datasets of benchmarks come into FOLDER with a
    manifest of sizes and hashes. There, set HF_HOME=FOLDER and HF_HUB_OFFLINE=1. Interrupted, the
    same command goes on. For gated models, HF_TOKEN is read from the environment.

    Examples: `vexp fetch experiment=ease backbone=qwen2_5_vl_3b --to FOLDER`,
    `vexp fetch ease/table3 backbone=qwen2_5_vl_7b --to FOLDER`, `vexp fetch --check FOLDER`.
    """
    if checked is not None:
        if what or folder or dry_run:
            raise click.UsageError("--check FOLDER stands alone")
        _check(checked, as_json)
        return
    if not what:
        raise click.UsageError("say what for: vexp fetch SWEEP, or vexp fetch OVERRIDE...")
    if folder is None and not dry_run:
        raise click.UsageError("name the folder to fill: --to FOLDER (or --dry-run)")
    from vexp.fetch.needs import look_up, needs

    by = needs(_runs(what, config_dirs))
    if not by:
        click.echo("[]" if as_json else "nothing to fetch: none of it is read from the hub")
        return
    listings = look_up(by)
    if dry_run or folder is None:
        _list(listings, by, folder, as_json)
        return
    _fetch(listings, by, folder, as_json)


def _runs(what: tuple[str, ...], config_dirs: tuple[Path, ...]) -> list[RunSpec]:
    from vexp.cli.sweeps import plan_of

    plan = plan_of(what[0], what[1:], config_dirs)
    corner = [plan.search.corner] if plan.search else []
    return corner + [planned.training.run for planned in plan.runs]


def _fetch(
    listings: list[Listing], by: dict[Repository, list[str]], folder: Path, as_json: bool
) -> None:
    from vexp.fetch.download import fetch
    from vexp.sweeps.show import size

    if as_json or not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()

    def begun(listing: Listing) -> None:
        if not as_json:
            text = f"{listing.repository}: {len(listing.files)} files, {size(listing.bytes)}"
            click.echo(text, err=True)

    done = fetch(folder, listings, by, begun=begun)
    if as_json:
        click.echo(json.dumps(_held(done), indent=2))
        return
    click.echo(
        f"{folder} holds {len(done.files)} files, {size(done.bytes)}, all as the hub has them"
    )
    click.echo(f"there: export HF_HOME={shlex.quote(str(folder.absolute()))} HF_HUB_OFFLINE=1")
    click.echo(f"next: vexp fetch --check {shlex.quote(str(folder))}")


def _held(manifest: Manifest) -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(held) for held in manifest.repositories]


def _list(
    listings: list[Listing],
    by: dict[Repository, list[str]],
    folder: Path | None,
    as_json: bool,
) -> None:
    from vexp.fetch.download import missing_bytes
    from vexp.sweeps.show import size

    left = [missing_bytes(folder, [each]) if folder else each.bytes for each in listings]
    if as_json:
        rows = [
            {
                "kind": each.repository.kind,
                "repository": each.repository.name,
                "revision": each.repository.revision,
                "commit": each.commit,
                "by": by[each.repository],
                "files": {file.path: file.bytes for file in each.files},
                "bytes": each.bytes,
                "bytes_left": missing,
            }
            for each, missing in zip(listings, left, strict=True)
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for each, missing in zip(listings, left, strict=True):
        here = f", {size(missing)} of it still to come" if missing != each.bytes else ""
        keys = ", ".join(by[each.repository])
        click.echo(f"{each.repository.kind} {each.repository} for {keys}: "
                   f"{len(each.files)} files, {size(each.bytes)}{here}")  # fmt: skip
        for file in each.files:
            click.echo(f"  {size(file.bytes):>9}  {file.path}")
    click.echo(f"to fetch: {size(sum(left))}")


def _check(folder: Path, as_json: bool) -> None:
    from vexp.fetch import manifest
    from vexp.sweeps.show import size

    problems = list(manifest.check(folder))
    if as_json:
        click.echo(json.dumps({"wrong": [str(problem) for problem in problems]}, indent=2))
    else:
        for problem in problems:
            click.secho("wrong  ", fg="red", nl=False)
            click.echo(str(problem))
        if not problems:
            held = manifest.read(folder)
            click.echo(f"{len(held.files)} files, {size(held.bytes)}: all as they were fetched")
    if problems:
        click.get_current_context().exit(1)
