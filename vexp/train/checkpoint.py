"""Checkpoints: complete folders, verified before use, kept as declared, and exact.

`step-000020/` holds `model/` (Hugging Face format), `optimizer.safetensors` (AdamW's moments by
parameter name), `state.json`, `memory.safetensors` (tensors that components remember; only if there
are any), `former.safetensors` (weights before the last update; only with `rl.staleness=1`) and
`manifest.json` (size and SHA-256 of every other file). A folder is built aside and renamed, so it
exists whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp import records
from vexp.errors import CheckpointError, Damaged
from vexp.files import new_folder, read, storage_errors, write_json
from vexp.registry import ComponentState
from vexp.spec.run import Keep
from vexp.train import component_state
from vexp.train.manifest import (
    FORMER,
    MANIFEST,
    MEMORY,
    MODEL,
    OPTIMIZER,
    RESUMING,
    damage,
    write_manifest,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from vexp.policy.policy import Policy

STATE = "state.json"
COUNT = "#"  # ends the name of a moment that is a plain number
FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class State:
    """What training remembers between steps, besides weights and moments."""

    step: int = 0  # steps done
    cursor: int = 0  # prompts drawn from the mix
    updates: int = 0  # optimiser steps done
    metrics: dict[str, float] = field(default_factory=dict)  # of the last step
    # what components remember, by their dotted paths; those that remember nothing are not in it
    memory: Mapping[str, ComponentState] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of a verified checkpoint.

        Raises:
            CheckpointError: if there is none.
            Damaged: if a vexp that wrote something else has written it.
        """
        from safetensors.torch import load_file

        found = read(folder / STATE, records.TrainingState)
        if found is None:
            raise CheckpointError(
                f"{STATE} is missing",
                where=str(folder),
                remedy="delete this checkpoint; the run goes on from the one before it",
            )
        path = folder / MEMORY
        tensors: dict[str, Tensor] = load_file(path) if path.exists() else {}
        remembered = component_state.joined(tensors, found.memory)
        return cls(found.step, found.cursor, found.updates, found.metrics, remembered)


def save(
    home: Path,
    state: State,
    policy: Policy,
    optimizer: Optimizer | None,
    former: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of `state.step` below `home`; one that is there already stays.

    `former` are the weights before the last update, where the next step needs them.
    The first process of a run calls this, while all others call `assist`.

    Raises:
        RunError: if the processes no longer hold the same weights; nothing is written.
        StorageError: if the disk refuses; what was saved before is untouched.
    """
    from safetensors.torch import save_file

    target = home / f"step-{state.step:06d}"
    with _together(policy, optimizer) as moments:
        if target.exists():
            if damage(target) is None:
                return target
            shutil.rmtree(target)
        with new_folder(target) as folder, tensor_write_errors(target):
            policy.save(folder / MODEL)
            if optimizer is not None:
                save_file(moments, folder / OPTIMIZER)
            if former is not None:
                save_file(dict(former), folder / FORMER)
            _write_state(folder, state)
            write_manifest(folder)
    return target


def assist(policy: Policy, optimizer: Optimizer | None) -> None:
    """Give the process that saves what this one has of weights and moments."""
    with _together(policy, optimizer):
        pass


@contextlib.contextmanager
def _together(policy: Policy, optimizer: Optimizer | None) -> Iterator[dict[str, Any]]:
    """All weights in the policy while the block runs, and all moments where they are written."""
    from vexp.policy import parallel, sharding

    moments = {} if optimizer is None else _moments(policy, optimizer)
    with sharding.unsharded(policy):
        parallel.check_agreement(policy)
        yield moments


def load_optimizer(folder: Path, policy: Policy, optimizer: Optimizer) -> None:
    """Give AdamW the moments it had when the checkpoint was written.

    Raises:
        CheckpointError: if the moments belong to other parameters.
    """
    from safetensors.torch import load_file

    moments: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(folder / OPTIMIZER).items():
        name, *path = key.split("/")
        place = moments.setdefault(name, {})
        for part in path[:-1]:
            place = place.setdefault(part, {})
        last = path[-1]
        place[last.removesuffix(COUNT)] = int(tensor) if last.endswith(COUNT) else tensor
    names = _names_by_index(policy, optimizer)
    if unknown := sorted(set(moments) - set(names)):
        raise CheckpointError(
            f"the optimizer state is of another model: it has no parameter {unknown[0]!r}",
            where=str(folder / OPTIMIZER),
            remedy="start the run in another results_dir, or delete this checkpoint",
        )
    parameters = [p for settings in optimizer.param_groups for p in settings["params"]]
    state = {
        index: _placed(moments[name], parameters[index])
        for index, name in enumerate(names)
        if name in moments
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def newest(homes: Iterable[Path], total: int, note: Callable[[str], None]) -> Path | None:
    """The newest usable checkpoint below `homes`; None when training has to start anew.

    One that is damaged is skipped, and so is one without optimiser state, unless it is of step
    `total`; `note` is told which file was at fault and what is used instead.
    """
    skipped: list[str] = []
    used: Path | None = None
    for step, folder in sorted(_saved(homes), key=lambda found: found[0], reverse=True):
        wrong = damage(folder)
        if wrong is None and step < total and not (folder / OPTIMIZER).exists():
            wrong = f"{OPTIMIZER} was dropped"
        if wrong is None:
            used = folder
            break
        skipped.append(f"checkpoint {folder} cannot be used: {wrong}")
    for reason in skipped:
        note(
            f"{reason}; using {used} instead" if used else f"{reason}; starting from the beginning"
        )
    return used


def prune(homes: Sequence[Path], keep: Keep, step: int) -> list[Path]:
    """Delete what `keep` does not keep, now that the checkpoint of `step` is complete.

    Checkpoints beyond `step` were passed over as damaged on resume; they neither count nor go. Of
    two with one step, the one in the first of `homes` stays.
    """
    found: dict[int, Path] = {}
    surplus: list[Path] = []
    for number, folder in _saved(homes):
        if number > step:
            continue
        if number in found:
            surplus.append(folder)
        else:
            found[number] = folder
    kept = _kept(found, keep)
    surplus += [folder for number, folder in found.items() if number not in kept]
    for folder in surplus:
        _delete(folder)
    return surplus


def drop_optimizer(folder: Path) -> None:
    """Delete what only resuming needs (`RESUMING`) from a checkpoint; it stays complete."""
    with contextlib.suppress(Damaged):
        manifest = read(folder / MANIFEST, records.ManifestRecord)
        if manifest is not None and not manifest.files.keys().isdisjoint(RESUMING):
            kept = {name: each for name, each in manifest.files.items() if name not in RESUMING}
            write_json(
                folder / MANIFEST, records.plain(records.ManifestRecord(kept, manifest.format))
            )
    with storage_errors(folder):
        for name in RESUMING:
            (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def tensor_write_errors(path: Path) -> Iterator[None]:
    """Turn a failed write inside safetensors into the operating system's error it hides."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _kept(found: Mapping[int, Path], keep: Keep) -> set[int]:
    newest_first = sorted(found, reverse=True)
    kept = set(newest_first[: keep.latest])
    if keep.every:
        kept |= {step for step in found if step % keep.every == 0}
    if keep.best:
        scores = {step: _score(folder, keep.by) for step, folder in found.items()}
        known = [step for step in newest_first if scores[step] is not None]
        kept |= set(sorted(known, key=lambda step: -(scores[step] or 0.0))[: keep.best])
    return kept


def _score(folder: Path, metric: str) -> float | None:
    try:
        state = read(folder / STATE, records.TrainingState)
    except Damaged:
        return None
    return state.metrics.get(metric) if state is not None else None


def _saved(homes: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    for home in homes:
        if home.is_dir():
            for folder in sorted(home.iterdir()):
                if match := _NAME.fullmatch(folder.name):
                    yield int(match[1]), folder


def _delete(folder: Path) -> None:
    """Rename first, so that a half-deleted checkpoint is never taken for one."""
    aside = folder.with_name(f".{folder.name}.deleted")
    with contextlib.suppress(FileNotFoundError), storage_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _write_state(folder: Path, state: State) -> None:
    from safetensors.torch import save_file

    tensors, plain = component_state.split(state.memory)
    if tensors:
        save_file(tensors, folder / MEMORY)
    known = {
        f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "memory"
    }
    remembered = {"memory": plain} if plain else {}
    write_json(folder / STATE, {"format": FORMAT} | known | remembered)


def _moments(policy: Policy, optimizer: Optimizer) -> dict[str, Any]:
    """By the names of their parameters; empty in a process that does not write."""
    from vexp.policy import parallel, sharding

    names = _names_by_index(policy, optimizer)
    found = {}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, tensor in _flat(names[index], moments):
            value = sharding.unsharded_tensor(tensor)
            if parallel.is_rank_zero():
                found[key] = value.detach().cpu().contiguous()
    return found


def _placed(moments: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A parameter's moments, as it lies in this process."""
    from vexp.policy import sharding

    return {key: sharding.like(value, parameter) for key, value in moments.items()}


def _flat(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Tensors by path; a plain count, as 8-bit AdamW has one, as a tensor that says so."""
    import torch

    from vexp.policy.zero import Shard

    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{name}/{key}", value)
        elif isinstance(value, Shard):
            yield f"{name}/{key}", value
        elif isinstance(value, torch.Tensor):
            # The tables of 8-bit AdamW are one tensor for all maps, which safetensors refuses.
            yield f"{name}/{key}", value.clone() if "/" in name else value
        else:
            yield f"{name}/{key}{COUNT}", torch.tensor(int(value))


def _names_by_index(policy: Policy, optimizer: Optimizer) -> list[str]:
    """Parameter names in the order in which the optimiser numbers them."""
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    return [names[id(p)] for settings in optimizer.param_groups for p in settings["params"]]
