"""What a run asks for that this machine does not have."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vexp import hub
from vexp.doctor import machine
from vexp.doctor.finding import Finding, package_version
from vexp.errors import ConfigError, HubError
from vexp.spec.problems import spread_of
from vexp.sweeps.show import size

if TYPE_CHECKING:
    from vexp.registry import Component
    from vexp.spec.run import RunSpec

# Packages that components need beside vexp's own: (kind, name): package, how to get it.
PACKAGES = {
    ("evaluator", "lmms_eval"): ("lmms_eval", "pip install lmms-eval"),
    ("tracker", "wandb"): ("wandb", "pip install 'vexp[wandb]'"),
    ("tracker", "tensorboard"): ("tensorboard", "pip install 'vexp[tensorboard]'"),
    ("dataset", "charts_vqa"): ("vega_datasets", "pip install vega_datasets"),
    ("dataset", "digits_vqa"): ("scikit-learn", "pip install scikit-learn"),
}


def findings(
    run: RunSpec, overrides: Sequence[str] = (), *, online: bool = False
) -> Iterator[Finding]:
    """Only what is not there, each with what to do; nothing if the run can start here.

    `overrides` are those that the run was composed of. With `online`, the hub is asked whether it
    has what is missing of it, and how much that is.
    """
    unknown = run.unknown()
    for problem in unknown:
        yield Finding(problem.where or "input", "missing", problem.what, problem.remedy)
    for path, component in run.components():
        yield from _package(path, component)
        if not (unknown and component.kind == "backbone"):
            for found in _of_hub(run, path, component, online=online):
                get = f"`{shlex.join(['vexp', 'fetch', *overrides, '--to', 'FOLDER'])}`"
                let = "let the run do it, or " if found.state == "absent" else ""
                yield (
                    found
                    if found.remedy
                    else replace(found, remedy=f"{let}{get} where there is a network")
                )
        if (component.kind, component.name) == ("tracker", "wandb"):
            yield from _wandb(path, getattr(component, "mode", ""))
    try:
        run.engine.check()
    except ConfigError as error:
        for problem in error.problems:
            # What a job will have is not to be seen from where it is launched.
            later = run.launcher.name == "slurm" and problem.where.startswith("engine.")
            yield Finding("engine", "absent" if later else "missing", problem.what, problem.remedy)
    yield from _devices(run)
    if run.launcher.name == "slurm" and (found := machine.slurm()).state != "ok":
        remedy = "launch from a node that can submit, or use launcher=local"
        yield Finding("launcher", "missing", f"Slurm: {found.detail}", remedy)
    yield from _room(run)


def model_is_here(run: RunSpec) -> bool:
    """Whether loading the backbone needs no network."""
    return run.backbone.parameters is not None or not getattr(run.backbone, "path", "")


def _package(path: str, component: Component) -> Iterator[Finding]:
    package, remedy = PACKAGES.get((component.kind, component.name), ("", ""))
    elsewhere = getattr(component, "python", "")  # packages of another Python are its own
    if package and not elsewhere and package_version(package) is None:
        yield Finding(path, "missing", f"the package {package} is not installed", remedy)


def _of_hub(run: RunSpec, path: str, component: Component, *, online: bool) -> Iterator[Finding]:
    """What is to come from the hub and is not here: a run fetches it, if it may."""
    try:
        repositories = dict.fromkeys(component.repositories())
    except ConfigError as error:
        for problem in error.problems if getattr(component, "python", "") else ():
            yield Finding(path, "missing", f"{problem.what}: {problem.where}", problem.remedy)
        return
    for repository in repositories:
        if model_is_here(run) if component.kind == "backbone" else hub.is_here(repository):
            continue
        noun = "weights" if repository.kind == "model" else "questions"
        detail = f"the {noun} of {repository.name} are not on this machine"
        # Evaluations are kept from the hub unless they are told otherwise.
        keeps_off = machine.offline().state == "ok" or getattr(component, "offline", False)
        found = Finding(path, "missing" if keeps_off else "absent", detail)
        yield _asked(found, repository) if online else found


def _asked(found: Finding, repository: hub.Repository) -> Finding:
    """With what the hub says of it."""
    try:
        detail = f"{found.detail}; the hub has them: {size(hub.listed(repository).bytes)}"
        return replace(found, detail=detail)
    except HubError as error:
        what, remedy = error.problem.what, error.problem.remedy
        return Finding(found.name, "missing", f"{found.detail}: {what}", remedy)


def _wandb(path: str, mode: str) -> Iterator[Finding]:
    if mode == "online" and not machine.wandb_key():
        remedy = f"set WANDB_API_KEY, run `wandb login`, or set {path}.mode=offline"
        yield Finding(path, "missing", "there is no key for wandb", remedy)


def _devices(run: RunSpec) -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if run.compute.device == "cuda" and not count:
        yield Finding("compute.device", "missing", "torch sees no GPU", "use auto or cpu")
    wanted = run.compute.processes or 1
    if count and run.compute.device != "cpu" and run.launcher.name == "local" and wanted > count:
        detail = f"{wanted} processes, one for each GPU, but torch sees {count}"
        yield Finding("compute.processes", "missing", detail, f"set compute.processes={count}")
    if run.compute.shard in ("zero1", "zero2") and (found := machine.deepspeed()).state != "ok":
        yield Finding("compute.shard", "missing", f"DeepSpeed: {found.detail}", found.remedy)
    if run.compute.shard != "none" and count and run.compute.device != "cpu":
        what = spread_of(run.compute.shard)
        detail = f"{what} in shards have been verified on CPUs (gloo), not on GPUs (NCCL)"
        yield Finding("compute.shard", "absent", detail, "compare a few steps with shard=none")
    if run.compute.attention == "flash_attention_2":
        found = machine.flash_attention()
        if found.state != "ok" or not count:
            why = found.detail if found.state != "ok" else "it needs a GPU"
            yield Finding("compute.attention", "missing", f"flash-attn: {why}", "use auto or sdpa")


def _room(run: RunSpec) -> Iterator[Finding]:
    """Two checkpoints with optimiser state are on disk while one replaces the other."""
    parameters = run.backbone.parameters
    if not parameters or not run.stages:
        return
    kept = run.checkpoint.keep.latest + run.checkpoint.keep.best + 1
    need = kept * 3 * parameters * run.backbone.bytes_per_parameter
    free = machine.free_bytes(Path(run.results_dir))
    if need > free:
        yield Finding(
            "results_dir",
            "missing",
            f"about {size(need)} for checkpoints, and {size(free)} are free",
            "choose another results_dir, run `vexp clean`, or lower checkpoint.keep",
        )
