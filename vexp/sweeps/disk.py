"""The disk that a sweep still needs, by backbone: measured from finished runs, or estimated."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.config.schema import to_dict
from vexp.errors import VexpError
from vexp.runs.store import RunFolder, RunStore

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.sweeps.plan import Plan

_SAMPLE = 3  # finished runs whose size is taken
_LOOKED_AT = 300  # finished runs of other sweeps that are looked at for it


@dataclass(frozen=True)
class Need:
    """What the missing runs of one backbone will leave on the disk."""

    backbone: str
    runs: int
    bytes_each: int | None  # None: nobody knows
    basis: str  # how that is known

    @property
    def total(self) -> int | None:
        return None if self.bytes_each is None else self.bytes_each * self.runs


def needs(plan: Plan) -> list[Need]:
    """What the runs that are not done need, by backbone and by what is kept of each run."""
    groups: dict[str, list[RunSpec]] = {}
    for run in plan.runs:
        if run.state not in ("done", "pruned"):
            spec = run.training.run
            groups.setdefault(_alike(to_dict(spec)), []).append(spec)
    if not groups:
        return []
    sizes = _measured(plan, groups.keys())
    return [_need(runs, sizes[key]) for key, runs in groups.items()]


def total(found: Iterable[Need]) -> int | None:
    """All of them together; None if one is not known."""
    sizes = [need.total for need in found]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def estimate(run: RunSpec) -> int | None:
    """Bytes that a finished run of this config leaves; None if the backbone tells no size."""
    weights = run.backbone.parameters
    if weights is None:
        return None
    keep = run.checkpoint.keep
    kept = keep.latest + keep.best + (run.rl.steps // keep.every if keep.every else 0)
    trained = kept if "rl" in run.stages else bool(run.stages)
    return weights * run.backbone.bytes_per_parameter * trained


def _need(runs: list[RunSpec], sizes: list[int]) -> Need:
    first = runs[0]
    name = first.backbone.name
    if sizes:
        basis = f"measured on {len(sizes)} finished run{'s' * (len(sizes) > 1)} like them"
        return Need(name, len(runs), sum(sizes) // len(sizes), basis)
    each = estimate(first)
    if each is None:
        return Need(name, len(runs), None, f"not known before a run of {name} is finished")
    weights = first.backbone.parameters
    return Need(name, len(runs), each, f"estimated from the config: about {weights:,} weights")


def _measured(plan: Plan, wanted: Iterable[str]) -> dict[str, list[int]]:
    """Sizes of finished runs by what makes them alike; the sweep's own ones first."""
    found: dict[str, list[int]] = {key: [] for key in wanted}
    for key, folder in _finished(plan):
        sizes = found.get(key)
        if sizes is not None and len(sizes) < _SAMPLE:
            with contextlib.suppress(OSError):  # it cannot be looked into by this user
                sizes.append(size_of(folder))
        if all(len(sizes) >= _SAMPLE for sizes in found.values()):
            break
    return found


def _finished(plan: Plan) -> Iterator[tuple[str, Path]]:
    own = set()
    for run in plan.runs:
        if run.status is not None and run.state == "done":
            own.add(run.name)
            yield _alike(to_dict(run.training.run)), run.status.folder
    store = RunStore(plan.state.results_dir)
    for looked_at, name in enumerate(name for name in store.names() if name not in own):
        if looked_at >= _LOOKED_AT:
            return
        run_folder = RunFolder(store.runs_dir / name)
        try:
            if run_folder.published() is not None and not run_folder.imported:
                yield _alike(run_folder.config), run_folder.folder
        except (
            VexpError,
            AttributeError,
            KeyError,
            TypeError,
        ):  # damaged, or of another version: not counted
            continue


def _alike(config: dict[str, Any]) -> str:
    """Runs with equal texts leave about as much on the disk."""
    keep = {**config["checkpoint"]["keep"], "by": None}
    steps = config["rl"]["steps"] if keep["every"] else None
    return json.dumps([config["backbone"], config["stages"], keep, steps], sort_keys=True)


def size_of(folder: Path) -> int:
    """Bytes below a folder; what is hard-linked within it counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            about = path.stat()
            seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values())
