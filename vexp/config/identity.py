"""What makes two runs the same run: a typed, versioned hash of everything that decides the weights.

Launcher, tracker, device, process count, micro-batch size, paths and evaluators are recorded with a
run but not hashed. Plugin code, local data and local models enter by content, never by path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from vexp.config.schema import field_types
from vexp.config.types import Neutral, Unhashed
from vexp.registry import REGISTRY, Component
from vexp.spec import RunSpec, science

# Raised when the way of hashing changes; every id changes with it (tests/config/golden_ids.json).
IDENTITY_VERSION = 1
HASH_LENGTH = 12  # hex digits


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


def training_id(run: RunSpec) -> Identity:
    """The identity of a run's trained weights."""
    inputs = _inputs(run, run.stages)
    return Identity(slug=slug(run), hash=digest(inputs), inputs=inputs)


def stage_key(run: RunSpec, stage: str) -> str:
    """The key under which the weights after `stage` are shared: a hash of all they depend on."""
    stages = run.stages[: run.stages.index(stage) + 1]
    return digest(_inputs(run, stages))


def evaluation_key(
    checkpoint: str, name: str, protocol: Mapping[str, Any], scorer_version: int
) -> str:
    """The key of one evaluation: checkpoint content hash, benchmark, protocol, scorer version."""
    return digest(
        {"checkpoint": checkpoint, "name": name, "protocol": protocol, "scorer": scorer_version}
    )


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash of plain data; 1, 1.0, true and "1" all differ, the order of keys does not matter."""
    text = json.dumps(
        {"identity": IDENTITY_VERSION, **inputs}, sort_keys=True, ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def slug(run: RunSpec) -> str:
    """A short readable name: method, data, seed."""
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
    for name, hint in field_types(type(value)).items():
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        item = getattr(value, name)
        if any(isinstance(mark, Unhashed) for mark in marks):
            continue
        if any(isinstance(mark, Neutral) and mark.value == item for mark in marks):
            continue
        found[name] = plain(item)
    return found


def _inputs(run: RunSpec, stages: tuple[str, ...]) -> dict[str, Any]:
    found = {name: plain(value) for name, value in science(run, stages).items()}
    if "plugins" in found:
        found["plugins"] = REGISTRY.plugin_hashes()
    return found
