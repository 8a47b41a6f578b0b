"""Modules import one way, from the command line down to the errors; found by reading, not running.

Imports for type checking do not count; those within functions do.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vexp
from vexp.registry import KINDS

# From the lowest up; a module imports its own layer and those below.
LAYERS = (
    (
        "",
        "errors",
        "registry",
        "files",
        "forked",
        "names",
        "paths",
        "hub",
        "masking",
        "network",
        "csv_cells",
        "record_json",
        "records",
    ),
    ("config", "probe", "endpoint", "response"),
    ("policy",),
    ("experience",),
    ("diagnostics",),
    KINDS,
    ("spec",),
    ("train",),
    ("runs",),
    ("bridge",),
    ("sweeps",),
    ("tables",),
    ("doctor",),
    ("fetch",),
    ("annotate",),
    ("cli", "__main__"),
)

SUBMITS = "what is submitted is what a sweep's folder says is missing"
# What a package may import from above, and why.
UPWARD = {
    ("config", "spec.run"): "the spec is the schema that is composed",
    ("launcher", "sweeps.arrays"): SUBMITS,
    ("launcher", "sweeps.sbatch"): SUBMITS,
    ("launcher", "sweeps.slurm"): SUBMITS,
    ("launcher", "sweeps.state"): SUBMITS,
    ("launcher", "sweeps.worker_slots"): "no more local workers are started than there are slots",
}
# What may be imported of a kind from outside, beside its interface.
OPEN = {
    "verifier.pool": "judging many responses; the same for every verifier",
    "dataset.layouts": "published datasets are converted by a command, not by a dataset",
    "correction.none": "the spec's default, which says nothing and keeps ids",
    "evaluator.benchmarks": "names of benchmarks, whoever made the result",
    "backbone._imports": "lmms-eval imports transformers before any backbone is loaded",
    "reward._total": "summing terms; the same for every reward",
    "engine._vllm_process": "a process is what a hidden command starts, as with other processes",
}
# What an interface may import beside other interfaces.
PLAIN = {"errors", "registry", "config.types", "masking", "policy.options"}

HEAVY = {"torch", "transformers", "accelerate"}


@dataclass(frozen=True)
class Import:
    """Names without the leading `vexp.`; a package from outside as it is."""

    importer: str
    imported: str
    lazy: bool
    ours: bool

    def __str__(self) -> str:
        return f"{self.importer or 'vexp'} imports {self.imported}"


def area(module: str) -> str:
    return module.partition(".")[0]


def layer(module: str) -> int:
    return next(number for number, areas in enumerate(LAYERS) if area(module) in areas)


def module_files() -> dict[str, Path]:
    root = Path(vexp.__file__).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if "_shipped" not in parts:
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = module_files()


def statements(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements, and whether each runs only when a function is called."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, lazy
        return
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    ):
        children = iter(node.orelse)
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from statements(child, lazy or inside)


def named(statement: ast.AST) -> Iterator[str]:
    """Full names of the modules that a statement imports."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    assert not statement.level, "a relative import"
    for alias in statement.names:
        full = f"{statement.module}.{alias.name}"
        yield full if full.removeprefix("vexp.") in MODULES else statement.module


def imports_of(module: str, source: str) -> Iterator[Import]:
    for statement, lazy in statements(ast.parse(source)):
        for name in named(statement):
            ours = area(name) == "vexp"
            short = name.removeprefix("vexp").removeprefix(".") if ours else name
            yield Import(module, short, lazy, ours)


ALL = [found for name, path in MODULES.items() for found in imports_of(name, path.read_text())]
OURS = [found for found in ALL if found.ours]


def upward(found: Import) -> bool:
    return layer(found.imported) > layer(found.importer)


def loaded_with(roots: set[str]) -> set[str]:
    """Our modules that are run when `roots` are imported, packages included."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += [i.imported for i in OURS if i.importer == module and not i.lazy]
            waiting.append(module.rpartition(".")[0])
    return seen


def test_imports_are_read_as_python_runs_them():
    source = """
import torch
from vexp import __version__
from vexp.config import scalars
if TYPE_CHECKING:
    import numpy
else:
    import hydra
class Thing:
    import click
    def method(self):
        from vexp.policy.policy import Policy
"""
    found = [(i.imported, i.lazy) for i in imports_of("x", source)]
    assert found == [
        ("torch", False),
        ("", False),
        ("config.scalars", False),
        ("hydra", False),
        ("click", False),
        ("policy.policy", True),
    ]


def test_imports_go_down():
    found = [i for i in OURS if upward(i) and (area(i.importer), i.imported) not in UPWARD]
    assert not found, "\n".join(map(str, found))


def test_every_exception_is_still_needed():
    assert {(area(i.importer), i.imported) for i in OURS if upward(i)} == UPWARD.keys()
    assert {i.imported for i in OURS if area(i.imported) != area(i.importer)} >= OPEN.keys()


def test_no_two_folders_need_each_other():
    """Not even within functions, the exceptions aside."""
    graph: dict[str, set[str]] = {}
    for found in OURS:
        above = (area(found.importer), found.imported) in UPWARD
        if not above:
            graph.setdefault(area(found.importer), set()).add(area(found.imported))
    for name, below in graph.items():
        below.discard(name)
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_modules_need_each_other_to_be_imported():
    graph = {name: [] for name in MODULES}
    for found in OURS:
        if not found.lazy:
            graph[found.importer].append(found.imported)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_imported_by_its_interface_alone(kind):
    outside = [i for i in OURS if area(i.imported) == kind != area(i.importer)]
    found = [i for i in outside if i.imported != f"{kind}.base" and i.imported not in OPEN]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interface_imports_only_interfaces(kind):
    allowed = PLAIN | {f"{other}.base" for other in KINDS}
    found = [i for i in OURS if i.importer == f"{kind}.base" and i.imported not in allowed]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("command", ["plan", "status", "table", "report"])
def test_planning_and_reading_load_no_torch(command):
    """Also not by what the command imports when it is called."""
    module = f"cli.{command}"
    called = {i.imported for i in OURS if i.importer == module and i.lazy}
    own = {name for name in MODULES if area(name) in ("sweeps", "tables")}
    loaded = loaded_with({module, "cli.main"} | called | own)
    assert "registry" in loaded
    found = [i for i in ALL if i.importer in loaded and not i.lazy and area(i.imported) in HEAVY]
    assert not found, "\n".join(map(str, found))
