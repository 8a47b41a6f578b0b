"""From plain dicts to typed dataclasses: every problem at once, each with where and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.algorithm.base import Algorithm
from vexp.config.schema import ConfigReading, Origin, build, to_dict
from vexp.config.types import Count, Fraction, Positive
from vexp.errors import ConfigError
from vexp.reward.base import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Fraction = 0.5
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: Count = 3
    rate: Positive = 1e-3
    limit: Positive | None = None
    mode: Literal["fast", "slow", "2"] = "fast"
    on: bool = False
    label: str = ""
    inner: Inner = field(default_factory=Inner)
    table: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WithSlots:
    algorithm: Algorithm
    terms: dict[str, RewardTerm] = field(default_factory=dict)


def problems(cls, tree, **reading):
    with pytest.raises(ConfigError) as error:
        build(cls, tree, ConfigReading(**reading))
    return error.value.problems


def test_defaults_and_values():
    built = build(Outer, {"rate": 1, "inner": {"names": ["a"], "pair": [3, 4]}, "table": {"x": 1}})
    assert built == Outer(rate=1.0, inner=Inner(names=("a",), pair=(3, 4.0)), table={"x": 1})
    assert type(built.rate) is float and type(built.inner.pair[1]) is float


@pytest.mark.parametrize(
    ("tree", "what", "accepted"),
    [
        ({"stepz": 1}, "there is no setting 'stepz'", "did you mean 'steps'"),
        ({"inner": {"shares": 1}}, "there is no setting 'shares'", "did you mean 'share'"),
        ({"steps": 1.0}, "expected a whole number", ""),
        ({"steps": True}, "true (true/false)", ""),
        ({"steps": "010"}, "the text '010'", ""),
        ({"steps": -1}, "out of range", "at least 0"),
        ({"rate": 0}, "out of range", "more than 0"),
        ({"rate": float("nan")}, "out of range", "more than 0"),
        ({"rate": float("inf")}, "out of range", "more than 0"),
        ({"rate": None}, "null is not accepted", "a number"),
        ({"mode": "fsat"}, "not one of the choices", "did you mean 'fast'"),
        ({"mode": 2}, "not one of the choices", ""),
        ({"on": "off"}, "expected true or false, got the text 'off'", ""),
        ({"on": 1}, "expected true or false", ""),
        ({"label": 12}, "expected text, got the number 12", ""),
        ({"inner": 3}, "expected settings below 'inner'", "share"),
        ({"inner": {"share": 1.5}}, "out of range", "in [0, 1]"),
        ({"inner": {"pair": [1]}}, "expected 2 values", ""),
        ({"inner": {"names": "a"}}, "expected a list", ""),
        ({"table": [1]}, "expected named entries", ""),
        ({"table": {"x": "y"}}, "expected a whole number", ""),
    ],
)
def test_one_mistake_one_message(tree, what, accepted):
    (problem,) = problems(Outer, tree)
    assert what in problem.what
    assert accepted in problem.accepted


def test_optional_accepts_null():
    assert build(Outer, {"limit": None}).limit is None


def test_all_problems_at_once_with_origins():
    tree = {"stepz": 1, "rate": -1, "inner": {"share": "x"}, "mode": "fast"}
    origins = {("rate",): Origin("sweep.yaml:3"), ("inner", "share"): Origin("override `a`")}
    found = problems(Outer, tree, origins=origins)
    assert len(found) == 3
    text = str(ConfigError(found))
    assert "3 problems" in text
    assert "at rate, set by sweep.yaml:3" in text
    assert "at inner.share, set by override `a`" in text


def test_component_slots_one_and_many():
    built = build(
        WithSlots,
        {
            "algorithm": {"name": "dapo", "clip_high": 0.3},
            "terms": {"accuracy": {"weight": 2}, "shape": "format", "gone": None},
        },
    )
    assert (built.algorithm.name, built.algorithm.clip_high) == ("dapo", 0.3)
    assert {key: (t.name, t.weight) for key, t in built.terms.items()} == {
        "accuracy": ("accuracy", 2.0),
        "shape": ("format", 1.0),
    }
    assert build(WithSlots, to_dict(built)) == built


def test_unknown_component_and_its_keys():
    found = problems(WithSlots, {"algorithm": "grop", "terms": {"acuracy": {}}})
    assert [p.what for p in found] == ["unknown algorithm 'grop'", "unknown reward 'acuracy'"]
    assert "did you mean 'grpo'" in found[0].accepted
    assert "vexp list algorithm" in found[0].remedy
    (problem,) = problems(WithSlots, {"algorithm": {"name": "grpo", "clip_hihg": 1}})
    assert problem.what == "algorithm 'grpo' has no setting 'clip_hihg'"
    assert "clip_high" in problem.accepted
    (problem,) = problems(WithSlots, {})
    assert "'algorithm' has to be set" in problem.what
    (problem,) = problems(WithSlots, {"algorithm": 3})
    assert "expected a name or settings" in problem.what


def test_variant_is_expanded_and_keeps_explicit_keys():
    presets = {"careful": {"name": "grpo", "clip_high": 0.1, "clip_low": 0.1}}
    reading = ConfigReading(
        variant=lambda kind, name: presets.get(name) if kind == "algorithm" else None,
        variants=lambda kind: presets if kind == "algorithm" else (),
    )
    built = build(WithSlots, {"algorithm": {"name": "careful", "clip_high": 0.5}}, reading)
    assert (built.algorithm.name, built.algorithm.clip_low, built.algorithm.clip_high) == (
        "grpo", 0.1, 0.5,
    )  # fmt: skip


def test_keys_written_for_another_name_are_dropped_but_the_users_fail():
    tree = {"algorithm": {"name": "grpo", "token_level": True}}
    file = {("algorithm", "token_level"): Origin("conf/x.yaml:2", intended="gspo")}
    reading = ConfigReading(origins=file)
    assert build(WithSlots, tree, reading).algorithm.name == "grpo"
    assert [(".".join(key), origin.text) for key, origin in reading.dropped] == [
        ("algorithm.token_level", "conf/x.yaml:2")
    ]
    user = {("algorithm", "token_level"): Origin("override", user=True)}
    (problem,) = problems(WithSlots, tree, origins=user)
    assert "has no setting 'token_level'" in problem.what


@given(
    steps=st.integers(0, 10**9),
    rate=st.floats(min_value=1e-300, max_value=1e300),
    share=st.floats(0, 1),
    label=st.text(),
    mode=st.sampled_from(["fast", "slow", "2"]),
    names=st.lists(st.text(), max_size=3),
)
def test_to_dict_and_build_are_inverse(steps, rate, share, label, mode, names):
    value = Outer(
        steps=steps, rate=rate, mode=mode, label=label, inner=Inner(share=share, names=tuple(names))
    )
    assert build(Outer, to_dict(value)) == value
