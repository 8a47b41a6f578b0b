"""What this machine has, whatever is to be run on it. Secrets are looked for, never shown."""

from __future__ import annotations

import netrc
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from vexp.doctor.finding import Finding, package_version
from vexp.errors import ConfigError

GIB = 1024**3
HUB_TIMEOUT_S = 5
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_FALSE = ("", "0", "false", "no", "off")


def findings(results_dir: Path, *, online: bool) -> Iterator[Finding]:
    """Everything that can be told without a config; the network is used only with `online`."""
    from vexp import __version__

    yield Finding("vexp", "ok", __version__)
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield _processor()
    yield from gpus()
    for name in ("transformers", "accelerate"):
        yield _package(name, needed=True)
    yield flash_attention()
    for name, use in (
        ("vllm", "engine=vllm"),
        ("lmms_eval", "benchmarks of lmms-eval"),
        ("peft", "LoRA"),
    ):
        yield _package(name, use=use)
    yield deepspeed()
    yield wandb()
    yield slurm()
    yield _disk(results_dir)
    yield offline()
    yield hub_token()
    if online:
        yield hub()


def gpus() -> Iterator[Finding]:
    """torch, and the GPUs it sees."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a torch of another machine may fail in any way
        yield Finding("torch", "missing", f"cannot be imported: {error}", "install torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"
    yield Finding("torch", "ok", f"{torch.__version__}, {build}")
    if not torch.cuda.is_available():
        yield Finding("gpu", "absent", "torch sees none; runs use the CPU")
        return
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        kind = f"compute capability {of.major}.{of.minor}"
        yield Finding(f"gpu {index}", "ok", f"{of.name}, {of.total_memory / GIB:.0f} GiB, {kind}")


def flash_attention() -> Finding:
    """Whether flash attention imports; a build for another torch is installed and does not."""
    version = package_version("flash_attn")
    if version is None:
        return Finding("flash-attn", "absent", "not installed; attention uses SDPA")
    try:
        import flash_attn  # type: ignore[import-not-found]  # noqa: F401
    except Exception as error:  # noqa: BLE001 - see above
        return Finding("flash-attn", "absent", f"{version} cannot be imported: {error}")
    return Finding("flash-attn", "ok", version)


def deepspeed() -> Finding:
    """Whether there is a DeepSpeed that imports and can do `compute.shard=zero1` and `zero2`."""
    version, remedy = package_version("deepspeed"), "pip install 'vexp[deepspeed]'"
    if version is None:
        return Finding(
            "deepspeed", "absent", "not installed; for compute.shard=zero1, zero2", remedy
        )
    try:
        from vexp.policy import zero

        zero.imported()
        zero.check("zero1")
    except ConfigError as error:
        return Finding("deepspeed", "absent", error.problems[0].what, remedy)
    except Exception as error:  # noqa: BLE001 - see above
        return Finding("deepspeed", "absent", f"{version} cannot be imported: {error}", remedy)
    return Finding("deepspeed", "ok", version)


def wandb() -> Finding:
    """Whether wandb is installed and has a key; the key itself is not read out."""
    version = package_version("wandb")
    if version is None:
        return Finding("wandb", "absent", "not installed")
    return Finding("wandb", "ok", f"{version}, {'with a key' if wandb_key() else 'no key'}")


def wandb_key() -> bool:
    """Whether there is a key for wandb: in the environment, or in the file that it writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_HOST", "api.wandb.ai")
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def slurm() -> Finding:
    """Whether this machine can submit to Slurm."""
    commands = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")
    there = [name for name in commands if shutil.which(name)]
    if len(there) == len(commands):
        return Finding("slurm", "ok", str(shutil.which("sbatch")))
    lacking = ", ".join(name for name in commands if name not in there)
    return Finding("slurm", "absent", f"no {lacking}")


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or would be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def offline() -> Finding:
    """Whether the environment keeps the hub's libraries from using the network."""
    on = [name for name in OFFLINE if os.environ.get(name, "").lower() not in _FALSE]
    return Finding("offline", "ok" if on else "absent", ", ".join(on) or "not set: the hub is used")


def hub_token() -> Finding:
    """Whether there is a token for the hub, which gated models need."""
    from huggingface_hub import get_token

    found = get_token() is not None
    return Finding(
        "hub token", "ok" if found else "absent", "" if found else "gated models need it"
    )


def hub() -> Finding:
    """Whether the hub answers."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the user's own hub
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):  # noqa: S310
            return Finding("hub", "ok", address)
    except urllib.error.HTTPError as error:  # it answers
        return Finding("hub", "ok", f"{address} (HTTP {error.code})")
    except (OSError, ValueError) as error:
        remedy = "work offline, or set HF_ENDPOINT to a mirror"
        return Finding("hub", "absent", f"{address} cannot be reached: {error}", remedy)


def _processor() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{usable} cores, {memory.available / GIB:.0f} of {memory.total / GIB:.0f} GiB free"
    return Finding("cpu", "ok", detail)


def _package(name: str, *, needed: bool = False, use: str = "") -> Finding:
    version = package_version(name)
    if version is not None:
        return Finding(name, "ok", version)
    if needed:
        return Finding(name, "missing", "not installed", f"pip install {name}")
    return Finding(name, "absent", f"not installed; for {use}")


def _disk(folder: Path) -> Finding:
    return Finding("disk", "ok", f"{free_bytes(folder) / GIB:.0f} GiB free for {folder}")
