"""What a run was made of: code, packages, machine, seeds. Never a reason for a run to fail.

The environment is not recorded, and secrets are masked; see `vexp.masking`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from vexp import __version__, masking
from vexp.files import read_json, write_json, write_text
from vexp.runs.record import flattened

FORMAT = 1
RECORD = "provenance.json"
SUBMITTED = "code.json"  # beside a copy of the package that was made when the run was submitted
MAX_DIFF = 1_000_000  # bytes of a diff that are kept
MAX_UNTRACKED = 200  # names of untracked files that are kept
_GIT_TIMEOUT_S = 20
_PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color")


def record(
    folder: Path,
    config: Mapping[str, Any],
    started: str,
    *,
    diffs: bool = True,
    switches: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write provenance.json, and with `diffs` the uncommitted changes: diff.patch.

    `switches` are those of a run that went on with another engine than it began with.
    """
    project, diff = git_state(Path.cwd())
    package = Path(__file__).resolve().parents[1]
    found = collect(config, started) | {"project": project}
    if switches:
        found["switches"] = list(switches)
    if diff and diffs:
        write_text(folder / "diff.patch", diff)
    submitted = read_json(package.parent / SUBMITTED)
    if submitted is not None:
        found["submitted_code"] = {"folder": str(package.parent), **submitted}
    own, own_diff = git_state(package) if _tracked(package) else (None, "")
    if own is not None and own.get("root") != project.get("root"):
        found["vexp_checkout"] = own
        if own_diff and diffs:
            write_text(folder / "diff-vexp.patch", own_diff)
    write_json(folder / RECORD, masking.masked(found))


def collect(config: Mapping[str, Any], started: str) -> dict[str, Any]:
    """All but the working trees."""
    seeds = {k: v for k, v in flattened(config).items() if k.rpartition(".")[2] == "seed"}
    found = {
        "format": FORMAT,
        "vexp": __version__,
        "started": started,
        "command": masking.arguments(sys.argv),
        "folder": str(Path.cwd()),
        "seeds": seeds,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "machine": _machine(),
        "torch": _torch(),
        "packages": packages(),
    }
    return masking.masked(found)  # type: ignore[no-any-return]


@functools.cache
def packages() -> tuple[str, ...]:
    """`name==version` of every installed package, sorted."""
    found: set[str] = set()
    for distribution in metadata.distributions():
        try:
            found.add(f"{distribution.metadata['Name']}=={distribution.version}")
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            continue  # a half-removed package
    return tuple(sorted(found, key=str.lower))


@functools.cache  # what a process runs is the code as it was when the process started
def git_state(folder: Path) -> tuple[Mapping[str, Any], str]:
    """Commit and changes of the working tree around `folder`, and the diff (cut at `MAX_DIFF`)."""
    root = _git(folder, "rev-parse", "--show-toplevel")
    if root is None:
        return {"git": "this folder is in no git repository, or there is no git"}, ""
    commit = _git(folder, "rev-parse", "HEAD")
    top = Path(root.strip())
    names = _git(top, "ls-files", "--others", "--exclude-standard", "-z") or ""
    untracked = [masking.mask(name) for name in names.split("\0") if name]
    diff = masking.mask(_git(top, "diff", *_PLAIN, "HEAD") or "" if commit else "")
    return {
        "root": str(top),
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff or untracked),
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "diff_cut": len(diff) > MAX_DIFF,
        "untracked": untracked[:MAX_UNTRACKED],
        "untracked_count": len(untracked),
    }, diff[:MAX_DIFF]


@functools.cache
def _tracked(folder: Path) -> bool:
    """Whether git knows this folder: an installed package inside a project's venv is not."""
    return bool((_git(folder, "ls-files", "--", ".") or "").strip())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
            env=_git_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")


def _git_environment() -> dict[str, str]:
    """Without what a surrounding git (a hook, a rebase) says about another repository."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0"}


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": _memory(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _torch() -> dict[str, Any] | None:
    """What torch says about itself and its GPUs, if this process uses it."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": names,
        "driver": _driver() if names else None,
    }


def _driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
