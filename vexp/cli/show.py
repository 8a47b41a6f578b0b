"""`vexp show`: a resolved config, and where each value came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import config_dir_option, json_option, overrides_argument, results_option

if TYPE_CHECKING:
    from vexp.config.schema import ConfigReading
    from vexp.spec.run import RunSpec


@click.command("show")
@overrides_argument
@config_dir_option
@results_option
@click.option("--origins/--no-origins", default=True, help="Say where each value came from.")
@json_option
def command(
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    results_dir: Path,
    origins: bool,
    as_json: bool,
) -> None:
    """The resolved config of a run that would be started with these overrides.

    A single argument without `=` names an existing run: its folder, its id, or the start of its
    hash.
    """
    from vexp.config.schema import to_dict
    from vexp.spec.identity import training_id
    from vexp.spec.resolve import resolve_with_origins

    if len(overrides) == 1 and "=" not in overrides[0] and not overrides[0].startswith("~"):
        _show_run(overrides[0], results_dir, as_json)
        return
    spec, reading = resolve_with_origins(overrides, config_dirs=config_dirs)
    config = to_dict(spec)
    if as_json:
        where = {".".join(key): _origin(reading, spec, key) for key, _ in _leaves(config)}
        unknown = [str(problem) for problem in spec.unknown()]
        found = {"id": training_id(spec).name, "config": config, "origins": where}
        click.echo(json.dumps(found | {"unknown": unknown}, indent=2))
        return
    provisional = " (provisional)" if spec.unknown() else ""
    click.echo(f"# id: {training_id(spec).name}{provisional}")
    for problem in spec.unknown():
        click.echo(f"# unknown: {problem.what}; {problem.remedy}")
    _print_tree(config, spec, reading if origins else None)
    for key, origin in reading.dropped:
        click.echo(f"# dropped: {'.'.join(key)} ({origin} set it for {origin.intended!r})")


def _show_run(reference: str, results_dir: Path, as_json: bool) -> None:
    from vexp.runs.engine_switch import mixed, switches
    from vexp.runs.store import RunStore

    record = RunStore(results_dir).load(reference)
    if as_json:
        listed = [switch.to_dict() for switch in switches(record.folder)]
        found = {"id": record.name, "config": record.config, "switches": listed}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"# id: {record.name}\n# folder: {record.folder}")
    if told := mixed(record.folder):
        click.echo(f"# {told}")
    _print_tree(record.config, None, None)


def _leaves(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in _leaves(value, (*prefix, key))]
    return [(prefix, tree)]


def _print_tree(
    config: dict[str, Any], spec: RunSpec | None, reading: ConfigReading | None
) -> None:
    """YAML, with the origin of each value as a comment in one column."""
    lines: list[tuple[str, str]] = []

    def visit(tree: dict[str, Any], prefix: tuple[str, ...]) -> None:
        for key, value in tree.items():
            here = (*prefix, key)
            indent = "  " * len(prefix)
            if isinstance(value, dict) and value:
                lines.append((f"{indent}{key}:", ""))
                visit(value, here)
            else:
                comment = _origin(reading, spec, here) if reading is not None else ""
                lines.append((f"{indent}{key}: {_scalar(value)}", comment))

    visit(config, ())
    width = min(60, max((len(text) for text, comment in lines if comment), default=0))
    for text, comment in lines:
        click.echo(f"{text:{width}}  # {comment}" if comment else text)


def _scalar(value: Any) -> str:
    """YAML text that the one scalar reader reads back as the same value."""
    from vexp.config.scalars import read_scalar

    if isinstance(value, str):
        plain = value and value == value.strip() and not set(value) & set(":#{}[],&*!|>'\"%@`\n\\")
        return value if plain and read_scalar(value) == value else json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if value == {}:
        return "{}"
    if isinstance(value, float):
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return json.dumps(value)


def _origin(reading: ConfigReading | None, spec: RunSpec | None, key: tuple[str, ...]) -> str:
    if reading is None:
        return ""
    exact = reading.origins.get(key)
    if exact is not None:
        return str(exact)
    holder: Any = spec
    for part in key[:-1]:
        holder = holder[part] if isinstance(holder, dict) else getattr(holder, part)
    if isinstance(holder, dict):
        return str(reading.origin(key) or "default")
    parent = reading.origins.get(key[:-1])
    if key[-1] == "name" and parent is not None:
        return str(parent)
    return f"default of {type(holder).__module__}.{type(holder).__name__}"
