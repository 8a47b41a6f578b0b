"""`vexp list`: what a config can name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click

from vexp.cli.options import config_dir_option, json_option


@click.command("list")
@click.argument("kind", required=False)
@click.option("--plugin", "plugins", multiple=True, help="A plugin file to list as well.")
@config_dir_option
@json_option
def command(
    kind: str | None, plugins: tuple[str, ...], config_dirs: tuple[Path, ...], as_json: bool
) -> None:
    """Components of KIND with their fields; without KIND, all kinds with their components.

    `vexp list benchmarks` names the benchmarks of lmms-eval that the evaluator `lmms_eval` has.
    """
    if kind == "benchmarks":
        _benchmarks(as_json)
        return
    from vexp.config.folders import search_dirs, variants
    from vexp.registry import KINDS, REGISTRY, component_base

    REGISTRY.load_plugins(plugins, origin="--plugin")
    dirs = search_dirs(config_dirs)
    if kind is not None:
        component_base(kind)
    found = {
        each: [_describe(each, name) for name in REGISTRY.names(each)]
        for each in ([kind] if kind else KINDS)
    }
    presets = {
        each: [v for v in variants(each, dirs) if v not in REGISTRY.names(each)] for each in found
    }
    if as_json:
        click.echo(
            json.dumps(
                {k: {"components": found[k], "variants": presets[k]} for k in found}, indent=2
            )
        )
        return
    for each, components in found.items():
        base = component_base(each)
        click.secho(each, bold=True, nl=False)
        click.echo(f"  {_first_line(inspect.getdoc(inspect.getmodule(base)) or '')}")
        for component in components:
            _print(component, with_fields=kind is not None)
        for preset in presets[each]:
            click.echo(f"  {preset:20} variant: conf/{each}/{preset}.yaml")
        click.echo()
    if kind is None:
        click.echo("`vexp list KIND` shows the fields of each component.")


def _benchmarks(as_json: bool) -> None:
    from vexp.evaluator.benchmarks import catalogue, papers

    if as_json:
        shown = {name: dataclasses.asdict(entry) for name, entry in catalogue().items()}
        click.echo(json.dumps(shown, indent=2))
        return
    for name, entry in catalogue().items():
        click.echo(f"  {name:22} {entry.label}; lmms-eval: {', '.join(entry.runs)}")
        for line in (entry.note, "needs data=" if entry.needs_data else ""):
            if line:
                click.echo(f"  {'':22}   {line}")
    click.echo("\npapers:")
    for paper, names in papers().items():
        click.echo(f"  {paper:22} {', '.join(names)}")


def field_comments(cls: type) -> dict[str, str]:
    """The comment behind each field, which is its documentation; inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base) or "__dataclass_fields__" not in base.__dict__:
            continue
        try:
            source = inspect.cleandoc("\n" + inspect.getsource(base))
        except (OSError, TypeError):
            continue
        found |= _comments_of(source)
    return found


def _comments_of(source: str) -> dict[str, str]:
    """The first comment on the lines of each annotated assignment of a class."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    (cls,) = ast.parse(source).body
    found = {}
    for node in cls.body if isinstance(cls, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            text = next((comments[n] for n in lines if n in comments), "")
            if text and "noqa" not in text:
                found[node.target.id] = text
    return found


def _describe(kind: str, name: str) -> dict[str, Any]:
    from vexp.config.schema import describe, field_types, to_dict
    from vexp.registry import REGISTRY

    cls = REGISTRY.get(kind, name)
    comments = field_comments(cls)
    fields = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if not field.init:
            continue
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        fields[field.name] = {
            "type": describe(field_types(cls)[field.name]),
            "default": None if required else to_dict(_default(field)),
            "required": required,
            "comment": comments.get(field.name, ""),
        }
    return {"name": name, "summary": _first_line(inspect.getdoc(cls) or ""), "fields": fields}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return cast("Any", field.default_factory)()


def _print(component: Mapping[str, Any], *, with_fields: bool) -> None:
    click.echo(f"  {component['name']:20} {component['summary']}")
    if not with_fields:
        return
    for name, field in component["fields"].items():
        value = "required" if field["required"] else json.dumps(field["default"])
        comment = f"  # {field['comment']}" if field["comment"] else ""
        click.echo(f"      {name}: {value}  [{field['type']}]{comment}")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
