"""What makes two runs the same run: a typed, versioned hash of everything that decides the weights.

Launcher, tracker, device, process count, micro-batch size, paths and evaluators are recorded with a
run but not hashed. Plugin code, local data and local models enter by content, never by path.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_args, get_origin

from vexp.config.schema import field_types
from vexp.config.types import Neutral, Unhashed
from vexp.names import readable
from vexp.registry import REGISTRY, Component
from vexp.spec import RunSpec, science

# Raised when the way of hashing changes; every id changes with it (tests/config/golden_ids.json).
IDENTITY_VERSION = 1
HASH_LENGTH = 12  # hex digits
_VERSION = str(IDENTITY_VERSION)
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Identity:
    """A readable slug and the hash of `inputs`, the plain form of what was hashed."""

    slug: str
    hash: str
    inputs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return f"{self.slug}-{self.hash}"


@dataclass(frozen=True)
class Hashed:
    """What is hashed of a section: its plain form, and that as JSON."""

    form: Any
    text: str

    @classmethod
    def of(cls, value: Any) -> Hashed:
        form = plain(value)
        return cls(form, written(form))


def training_id(run: RunSpec, hashed: Callable[[Any], Hashed] | None = None) -> Identity:
    """The identity of a run's trained weights.

    `hashed` is a `Hashed.of` that may remember.
    """
    inputs = _inputs(run, run.stages, hashed or Hashed.of)
    key = _digest({name: value.text for name, value in inputs.items()})
    return Identity(slug(run), key, {name: value.form for name, value in inputs.items()})


def stage_key(run: RunSpec, stage: str) -> str:
    """The key under which the weights after `stage` are shared: a hash of all they depend on."""
    stages = run.stages[: run.stages.index(stage) + 1]
    return _digest({n: value.text for n, value in _inputs(run, stages, Hashed.of).items()})


def evaluation_key(
    checkpoint: str,
    name: str,
    protocol: Mapping[str, Any],
    scorer_version: int,
    text: str | None = None,
) -> str:
    """The key of one evaluation: checkpoint content hash, benchmark, protocol, scorer version.

    `text` is `written(protocol)`, where that is known.
    """
    parts = {"checkpoint": checkpoint, "name": name, "scorer": scorer_version}
    texts = {key: written(value) for key, value in parts.items()}
    return _digest(texts | {"protocol": written(protocol) if text is None else text})


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash of plain data; 1, 1.0, true and "1" all differ, the order of keys does not matter."""
    return _digest({key: written(value) for key, value in inputs.items()})


def _digest(texts: Mapping[str, str]) -> str:
    """As `digest`, of values that are JSON already."""
    parts = {"identity": _VERSION, **texts}
    whole = ", ".join([key + parts[name] for name, key in _sorted_keys(tuple(parts))])
    return hashlib.sha256(f"{{{whole}}}".encode()).hexdigest()[:HASH_LENGTH]


@functools.cache
def _sorted_keys(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The names of an object's keys in the order of JSON, each with how it is written there."""
    return [(name, f"{_JSON.encode(name)}: ") for name in sorted(names)]


def written(form: Any) -> str:
    """Plain data as JSON, equal for equal data."""
    return _JSON.encode(form)


def slug(run: RunSpec) -> str:
    """A short readable name: method, data, seed."""
    return readable(_slug(run))


def _slug(run: RunSpec) -> str:
    data = "+".join(sorted({d.name for d in run.mix.datasets.values()}))
    if not run.stages:
        return f"base-{run.backbone.name}"
    if "rl" not in run.stages:
        return f"{'-'.join(run.stages)}-{data}-s{getattr(run, run.stages[-1]).seed}"
    parts = [run.algorithm.name]
    if "anchor" in run.stages:
        parts.append("anchor")
    if run.credit.name != "uniform":
        parts.append(run.credit.name)
    parts += sorted(term.name for term in run.auxiliary.values())
    if run.rl.correction.name != "none":
        parts.append(run.rl.correction.name)
    return "-".join([*parts, data, f"s{run.seed}"])


def plain(value: Any) -> Any:
    """The hashed form of a value: fields that cannot change the weights are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _fields(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(value, Component):
        found["name"] = value.name
        if content := value.content():
            found["content"] = plain(content)
    for name, neutral in _hashed_fields(type(value)):  # type: ignore[arg-type]
        item = getattr(value, name)
        if not any(mark.value == item for mark in neutral):
            found[name] = plain(item)
    return found


@functools.cache
def _hashed_fields(cls: Hashable) -> tuple[tuple[str, tuple[Neutral, ...]], ...]:
    """Fields that can change the weights, each with the values at which it is left out."""
    found = []
    for name, hint in field_types(cast("type", cls)).items():
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        if not any(isinstance(mark, Unhashed) for mark in marks):
            found.append((name, tuple(mark for mark in marks if isinstance(mark, Neutral))))
    return tuple(found)


def _inputs(
    run: RunSpec, stages: tuple[str, ...], hashed: Callable[[Any], Hashed]
) -> dict[str, Hashed]:
    found = {name: hashed(value) for name, value in science(run, stages).items()}
    if "plugins" in found:
        found["plugins"] = Hashed.of(REGISTRY.plugin_hashes())
    return found
