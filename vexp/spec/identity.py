"""Identity of a run: a typed, versioned hash of everything that decides the weights.

Launcher, tracker, device, process count, micro-batch size, paths and evaluators are recorded with a
run but not hashed. Plugin code, local data and local models enter by content, never by path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vexp.config.hashing import hash_of, plain, written
from vexp.names import readable
from vexp.registry import REGISTRY
from vexp.spec.run import RunSpec, science


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
    """The hashed part of a section: its plain form, and that as JSON."""

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
    key = hash_of({name: value.text for name, value in inputs.items()})
    return Identity(slug(run), key, {name: value.form for name, value in inputs.items()})


def stage_key(run: RunSpec, stage: str) -> str:
    """The key under which the weights after `stage` are shared: a hash of all they depend on."""
    stages = run.stages[: run.stages.index(stage) + 1]
    return hash_of({n: value.text for n, value in _inputs(run, stages, Hashed.of).items()})


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
    return hash_of(texts | {"protocol": written(protocol) if text is None else text})


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


def _inputs(
    run: RunSpec, stages: tuple[str, ...], hashed: Callable[[Any], Hashed]
) -> dict[str, Hashed]:
    inputs = {name: hashed(value) for name, value in science(run, stages).items()}
    if "plugins" in inputs:
        inputs["plugins"] = Hashed.of(REGISTRY.plugin_hashes())
    return inputs
