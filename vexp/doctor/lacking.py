"""What a run asks for that this machine does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.doctor import machine
from vexp.doctor.finding import Finding, package_version
from vexp.errors import ConfigError
from vexp.sweeps.show import size

if TYPE_CHECKING:
    from vexp.spec import RunSpec

# Packages that components need beside vexp's own: (kind, name): package, how to get it.
PACKAGES = {
    ("evaluator", "lmms_eval"): ("lmms_eval", "pip install lmms-eval"),
    ("tracker", "wandb"): ("wandb", "pip install 'vexp[wandb]'"),
    ("tracker", "tensorboard"): ("tensorboard", "pip install 'vexp[tensorboard]'"),
    ("dataset", "charts_vqa"): ("vega_datasets", "pip install vega_datasets"),
    ("dataset", "digits_vqa"): ("scikit-learn", "pip install scikit-learn"),
}


def findings(run: RunSpec) -> Iterator[Finding]:
    """Only what is not there, each with what to do; nothing if the run can start here."""
    unknown = run.unknown()
    for problem in unknown:
        yield Finding(problem.where or "input", "missing", problem.what, problem.remedy)
    if not unknown:
        yield from _model(run)
    for path, component in run.components():
        package, remedy = PACKAGES.get((component.kind, component.name), ("", ""))
        if package and package_version(package) is None:
            yield Finding(path, "missing", f"the package {package} is not installed", remedy)
        if (component.kind, component.name) == ("tracker", "wandb"):
            yield from _wandb(path, getattr(component, "mode", ""))
    try:
        run.engine.check()
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("engine", "missing", problem.what, problem.remedy)
    yield from _devices(run)
    if run.launcher.name == "slurm" and (found := machine.slurm()).state != "ok":
        remedy = "launch from a node that can submit, or use launcher=local"
        yield Finding("launcher", "missing", f"Slurm: {found.detail}", remedy)
    yield from _room(run)


def model_is_here(run: RunSpec) -> bool:
    """Whether loading the backbone needs no network."""
    return run.backbone.parameters is not None or not getattr(run.backbone, "path", "")


def _model(run: RunSpec) -> Iterator[Finding]:
    """A model on the hub that is not on this machine: fetched when the run starts, if it can be."""
    backbone = run.backbone
    path, revision = getattr(backbone, "path", ""), getattr(backbone, "revision", None)
    if not model_is_here(run):
        keeps_off = machine.offline().state == "ok"
        detail = f"the weights of {path} are not on this machine"
        remedy = f"`hf download {path}" + (f" --revision {revision}`" if revision else "`")
        if not keeps_off:
            remedy += ", or let the run do it"
        yield Finding("backbone", "missing" if keeps_off else "absent", detail, remedy)


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
    if run.compute.shard != "none" and count and run.compute.device != "cpu":
        detail = "weights in shards have been verified on CPUs (gloo), not on GPUs (NCCL)"
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
