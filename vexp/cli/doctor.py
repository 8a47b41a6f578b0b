"""`vexp doctor`: what works on this machine, and what a config lacks here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import config_dir_option, json_option, overrides_argument, results_option

if TYPE_CHECKING:
    from vexp.doctor.finding import Finding
    from vexp.doctor.memory import MemoryEstimate
    from vexp.spec.run import RunSpec
    from vexp.train.prompt_length import PromptSize

SHOWN = 5  # prompts


@click.command("doctor")
@overrides_argument
@config_dir_option
@results_option
@click.option("--data", is_flag=True, help="Look at the data, and at its longest prompts.")
@click.option(
    "--online", is_flag=True, help="Also ask the hub: whether it is there, and has what is missing."
)
@json_option
def command(
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    results_dir: Path,
    data: bool,
    online: bool,
    as_json: bool,
) -> None:
    """What this machine can do; with overrides, also what that run lacks here.

    Ends with exit code 1 if something is missing. Nothing is written or trained, and without
    `--online` the network is not used.

    Examples: `vexp doctor`, `vexp doctor experiment=ease backbone=qwen2_5_vl_3b`,
    `vexp doctor --data experiment=ease mix.datasets.main=charts_vqa`.
    """
    from vexp.doctor import lacking, machine

    found: dict[str, Any] = {"machine": list(machine.findings(results_dir, online=online))}
    if overrides or data:
        from vexp.spec.resolve import resolve

        run = resolve(overrides, config_dirs=config_dirs)
        found["missing"] = list(lacking.findings(run, overrides, online=online))
        if data:
            found |= _looked_at(run)
    if as_json:
        click.echo(json.dumps({key: _plain(value) for key, value in found.items()}, indent=2))
    else:
        _print(found)
    bad = [f for f in (*found["machine"], *found.get("missing", ())) if f.state == "missing"]
    if bad or found.get("too_long"):
        click.get_current_context().exit(1)


def _looked_at(run: RunSpec) -> dict[str, Any]:
    """The data check, sizes of the longest prompts, and the memory they lead to.

    Of a model that is not on this machine nothing is fetched, so its prompts are not known.
    """
    from vexp.doctor.lacking import model_is_here
    from vexp.doctor.memory import Shapes, estimate
    from vexp.train.golds import check_data
    from vexp.train.prompt_length import longest_prompts, room, too_long

    notes: dict[str, Any] = {"data": check_data(run)}
    if not model_is_here(run):
        return notes
    encoder = run.backbone.encoder()
    sizes = longest_prompts(run, encoder)
    limit = room(run, encoder)
    found: dict[str, Any] = {
        **notes, "room": limit, "prompts": sizes, "too_long": too_long(sizes, limit)
    }  # fmt: skip
    parameters = run.backbone.parameters
    if parameters and sizes:
        shapes = Shapes.of(parameters, encoder.config)
        found["memory"] = estimate(run, shapes, sizes[0].tokens, sizes[0].image_tokens)
    return found


def _plain(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    from vexp.errors import Problem

    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Problem):
        return str(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _print(found: dict[str, Any]) -> None:
    _findings(found["machine"])
    if found.get("data"):
        click.echo("\nthe data can be read; note that:")
        for note in found["data"]:
            click.echo(f"  {note}")
    if "prompts" in found:
        _prompts(found["prompts"], found["room"])
        for problem in found["too_long"]:
            click.secho("too long  ", fg="red", nl=False)
            click.echo(str(problem))
    if "memory" in found:
        _memory(found["memory"])
    if "missing" in found:
        click.echo()
        if found["missing"]:
            click.echo("not there for this config:")
            _findings(found["missing"])
        else:
            click.echo("nothing is missing for this config")


def _findings(findings: Sequence[Finding]) -> None:
    colors = {"ok": "green", "absent": "yellow", "missing": "red"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.secho(f"{finding.state:8}", fg=colors[finding.state], nl=False)
        click.echo(f"{finding.name:{width}}  {finding.detail}".rstrip())
        if finding.remedy:
            click.echo(f"{'':8}{'':{width}}  {finding.remedy}")


def _prompts(sizes: Sequence[PromptSize], limit: int) -> None:
    click.echo(f"\nlongest of {len(sizes)} prompts (room for {limit} tokens):")
    for size in sizes[:SHOWN]:
        click.echo(f"  {size.id}: {size}")


def _memory(estimate: MemoryEstimate) -> None:
    from vexp.sweeps.show import size

    generation, update = size(estimate.at("generation")), size(estimate.at("update"))
    click.echo(f"\nmemory of a process, about: {generation} generating, {update} updating")
    for part in sorted(estimate.parts, key=lambda part: -part.bytes):
        when = "" if part.when == "always" else f" ({part.when})"
        less = f"; less with {', '.join(part.keys)}" if part.keys else ""
        click.echo(f"  {size(part.bytes):>9}  {part.name}{when}{less}")
