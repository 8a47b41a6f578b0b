"""`vexp new`: a component file and its test, ready to fill in."""

from __future__ import annotations

import inspect
import keyword
import re
from pathlib import Path

import click

from vexp.cli.options import UserPathType
from vexp.registry import Component

_FILE = '''"""{title}: say in one sentence what it does, and cite the paper and equation."""

from __future__ import annotations

from dataclasses import dataclass
{type_checking}
from vexp.{kind}.base import {base}
from vexp.registry import register
{guarded}

@register("{kind}", "{name}")
@dataclass(frozen=True, kw_only=True)
class {cls}({base}):
    """What a reader of the table should know about {name}."""

    # A field is a setting: annotate it, give its vetted default, and say its unit or range here.
    # strength: float = 0.5  # share of ..., in [0, 1]

{methods}
'''

_TEST = '''"""Checks of {kind} {name!r}; run with `pytest {test}`."""

from pathlib import Path

from vexp.spec.resolve import resolve
from vexp.registry import REGISTRY

PLUGIN = Path(__file__).parent / "{file}"


def test_{name}_composes_and_is_documented():
    REGISTRY.load_plugins([PLUGIN])
    cls = REGISTRY.get("{kind}", "{name}")
    assert cls.__doc__ and "{placeholder}" not in cls.__doc__, "describe the component"
    run = resolve([f"plugins=['{{PLUGIN}}']", {override!r}])
    assert any(isinstance(component, cls) for _, component in run.components())


def test_{name}_does_what_its_paper_says():
    REGISTRY.load_plugins([PLUGIN])
    component = REGISTRY.get("{kind}", "{name}")()
    assert component.{method}, "call it on a small case worked out by hand, and compare"
    raise AssertionError("replace this line by that comparison")
'''

_PLACES = {
    "dataset": "mix.datasets.main={name}",
    "reward": "reward.terms.{name}={name}",
    "evaluator": "evaluator.{name}={name}",
    "tracker": "tracker.{name}={name}",
}


@click.command("new")
@click.argument("kind")
@click.argument("name")
@click.option(
    "--folder",
    type=UserPathType(file_okay=False),
    default=Path(),
    help="Where the two files go.  [default: the current folder]",
)
def command(kind: str, name: str, folder: Path) -> None:
    """Write NAME.py with a component of KIND, and test_NAME.py."""
    from vexp.errors import ConfigError, Problem
    from vexp.files import write_text
    from vexp.registry import REGISTRY, component_base

    base = component_base(kind)
    problems = []
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        problems.append(
            Problem(f"{name!r} cannot name a component", accepted="expected lower_snake_case")
        )
    elif name in REGISTRY.names(kind):
        problems.append(
            Problem(f"there is a {kind} {name!r} already", remedy="choose another name")
        )
    file, test = folder / f"{name}.py", folder / f"test_{name}.py"
    problems += [Problem(f"{path} exists already") for path in (file, test) if path.exists()]
    if problems:
        raise ConfigError(problems)
    place = _PLACES.get(kind, f"{kind}={{name}}").format(name=name)
    write_text(file, _component_text(base, kind, name))
    write_text(test, _test_text(base, kind, name, place, file, test))
    click.echo(f"wrote {file} and {test}")
    click.echo(f"next: fill in the methods, then `pytest {test}`")
    click.echo(f"use:  vexp run \"plugins=['{file}']\" {place}")


def _abstract(base: type[Component]) -> list[str]:
    return sorted(
        (
            name
            for name, value in inspect.getmembers(base)
            if getattr(value, "__isabstractmethod__", False)
        ),
        key=lambda name: inspect.getsourcelines(inspect.unwrap(getattr(base, name)))[1],
    )


def _component_text(base: type[Component], kind: str, name: str) -> str:
    methods = "\n\n".join(_method(base, method) for method in _abstract(base))
    source = inspect.getsource(inspect.getmodule(base))  # type: ignore[arg-type]
    names = sorted(_used_names(methods, source))
    guarded = "".join(f"\n    {line}" for line in names)
    return _FILE.format(
        title=name,
        kind=kind,
        name=name,
        base=base.__name__,
        cls="".join(part.capitalize() for part in name.split("_")),
        type_checking="from typing import TYPE_CHECKING\n" if guarded else "",
        guarded=f"\nif TYPE_CHECKING:{guarded}\n" if guarded else "",
        methods=methods
        or "    # Nothing has to be written: the settings of the base are all there is.",
    )


def _method(base: type[Component], name: str) -> str:
    """The abstract method's own signature and docstring, with a body that says what is missing."""
    lines = inspect.getsource(getattr(base, name)).rstrip().splitlines()
    body = [line for line in lines if line.strip() != "@abstractmethod"]
    return "\n".join([*body, f'        raise NotImplementedError("write {name}")'])


def _used_names(methods: str, source: str) -> set[str]:
    """Import lines for the names that the copied signatures use."""
    signatures = re.sub(r'""".*?"""', "", methods, flags=re.DOTALL)
    words = set(re.findall(r"[A-Za-z_]\w*", signatures))
    found: set[str] = set()
    for line in re.findall(r"^\s*(from [\w.]+ import [\w, ]+)$", source, flags=re.MULTILINE):
        module, _, imported = line.strip().partition(" import ")
        used = [word for word in imported.split(", ") if word in words]
        if used and module != "from __future__":
            found.add(f"{module} import {', '.join(used)}")
    here = re.findall(r"^(?:class )?([A-Z]\w+)(?: =|\(|:)", source, flags=re.MULTILINE)
    local = sorted(set(here) & words)
    own = re.search(r"^class (\w+)\(Component\)", source, flags=re.MULTILINE)
    local = [word for word in local if not own or word != own[1]]
    kind = re.search(r'kind: ClassVar\[str\] = "(\w+)"', source)
    if local and kind:
        found.add(f"from vexp.{kind[1]}.base import {', '.join(local)}")
    return found


def _test_text(
    base: type[Component], kind: str, name: str, place: str, file: Path, test: Path
) -> str:
    methods = _abstract(base)
    return _TEST.format(
        kind=kind,
        name=name,
        test=test,
        file=file.name,
        override=place,
        method=methods[0] if methods else "name",
        placeholder="What a reader of the table should know",
    )
