"""The registry: names without imports, one component per file, and collisions refused."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest

import vexp
from vexp.cli.list import field_comments
from vexp.credit.base import CreditMethod
from vexp.errors import ConfigError, suggest
from vexp.registry import KINDS, NEEDS, REGISTRY, Component, component_base, register

SHIPPED = [(kind, name) for kind in KINDS for name in REGISTRY.names(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_word_four_places(kind):
    assert component_base(kind).kind == kind
    assert (Path(vexp.__file__).parent / kind / "base.py").is_file()
    assert REGISTRY.names(kind), f"no {kind} is shipped"


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_shipped_component_is_well_formed(kind, name):
    cls = REGISTRY.get(kind, name)
    assert (cls.kind, cls.name) == (kind, name)
    assert Path(inspect.getsourcefile(cls)).name == f"{name}.py"
    assert not inspect.isabstract(cls)
    summary = inspect.getdoc(cls).splitlines()[0]
    assert summary.endswith(".") and len(summary) <= 110, summary
    assert set(cls.needs) <= set(NEEDS)
    comments = field_comments(cls)
    undocumented = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in comments]
    assert undocumented == [], "say behind each field what it means"


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_a_file_holds_one_component(kind, name):
    module = inspect.getmodule(REGISTRY.get(kind, name))
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Component)
        and value.__module__ == module.__name__
    ]
    assert len(own) == 1


def test_unknown_names_are_suggested():
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        REGISTRY.get("credit", "unifrm")
    with pytest.raises(ConfigError, match="did you mean 'credit'"):
        REGISTRY.get("credits", "uniform")
    names = [f"name_{i:02}" for i in range(30)]
    assert suggest("zzz", names).endswith("… 30 in all")


def test_the_same_component_may_register_again_but_not_another(registry):
    @dataclass(frozen=True, kw_only=True)
    class Mine(CreditMethod):
        """Mine."""

    register("credit", "mine")(Mine)
    register("credit", "mine")(Mine)

    @dataclass(frozen=True, kw_only=True)
    class Other(CreditMethod):
        """Another."""

    with pytest.raises(ConfigError, match="two components are called credit 'mine'"):
        register("credit", "mine")(Other)


def test_a_need_that_nobody_supplies_is_refused(registry):
    @dataclass(frozen=True, kw_only=True)
    class Greedy(CreditMethod):
        """Wants too much."""

        needs = ("everything",)

    with pytest.raises(ConfigError, match="needs 'everything'"):
        register("credit", "greedy")(Greedy)
