"""The Hugging Face hub: its models and datasets by name, what of them lies here, and what it says.

All places are those of its own library (HF_HOME, HF_HUB_CACHE), which resolves every name; nothing
here looks into a cache by itself. Tokens are left to that library, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vexp.errors import CheckpointError, HubError, StorageError, VexpError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"\w(?:[\w.-]*\w)?"
_NAME = re.compile(rf"(?!.*(?:\.\.|--)){_PART}/{_PART}", re.ASCII)
# What of a model is needed; pickled weights and code are not.
FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
# What of a dataset is never wanted: code and pickles.
REFUSED = ("*.py", "*.pyc", "*.ipynb", "*.sh", "*.pkl", "*.pickle", "*.pt", "*.pth",
           "*.bin", "*.ckpt", "*.joblib")  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSING = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, order=True)
class Repository:
    """A model or a dataset of the hub at a revision: a commit, a tag or a branch."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @property
    def _which(self) -> dict[str, Any]:
        """How the hub's library names it."""
        return {"repo_id": self.name, "repo_type": self.kind, "revision": self.revision}

    @property
    def _patterns(self) -> dict[str, Any]:
        """Which of its files are wanted."""
        if self.kind == "model":
            return {"allow_patterns": list(FILES)}
        return {"ignore_patterns": list(REFUSED)}


@dataclass(frozen=True)
class File:
    """A file of a repository, with what the hub says of its content."""

    path: str
    bytes: int
    sha256: str | None  # of a large file
    git: str | None  # hash of a small file as git has it: sha1 over "blob <bytes>\\0" and content


@dataclass(frozen=True)
class Listing:
    """The wanted files of a repository at the commit that its revision means now."""

    repository: Repository
    commit: str
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def is_name(path: str) -> bool:
    """Whether `path` has the form of a repository's name."""
    return _NAME.fullmatch(path) is not None


def is_commit(revision: str) -> bool:
    return _COMMIT.fullmatch(revision) is not None


def commit(repository: str, revision: str) -> str | None:
    """The commit behind a model's revision, as the local cache has it; None if that is unknown."""
    if is_commit(revision):
        return revision
    folder = cached(repository, revision)
    return folder.name if folder else None


def cached(repository: str, revision: str) -> Path | None:
    """The local copy of a model, with its config.json at least; None without one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def whole(repository: Repository, cache: Path | None = None) -> Path | None:
    """The local copy in the cache, if it is known to have all wanted files; None otherwise.

    A copy whose list of files is not kept beside it may lack some, and does not count.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    which, patterns = repository._which, repository._patterns
    try:
        get_cached_repo_tree(**which, cache_dir=cache)
        return Path(snapshot_download(**which, **patterns, cache_dir=cache, local_files_only=True))
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def is_here(repository: Repository) -> bool:
    """Whether a dataset needs no network: as a whole in the cache, or prepared by `datasets`."""
    from huggingface_hub import constants

    if whole(repository) is not None:
        return True
    home = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    owner, _, name = repository.name.partition("/")
    wanted = _letters(f"{owner}___{name}")
    return any(_letters(path.name) == wanted for path in Path(home).glob(f"{owner}___*"))


def _letters(name: str) -> str:
    """`datasets` writes HR-Bench as hr-bench, and ChartQA as chart_qa."""
    return name.replace("_", "").lower()


def fetch(repository: str, revision: str) -> Path:
    """The folder of a model; what of it is not in the cache is downloaded.

    Raises:
        CheckpointError: if it is neither there nor to be had; says why and what to do.
    """
    try:
        return download(Repository("model", repository, revision))
    except HubError as error:
        found = error.problem
        raise CheckpointError(found.what, where=found.where, remedy=found.remedy) from error


def download(repository: Repository, cache: Path | None = None) -> Path:
    """The folder of a repository in the cache; files that are not there are downloaded.

    Raises:
        HubError: if it is neither there nor to be had; says why and what to do.
        StorageError: if the disk refuses it.
    """
    from huggingface_hub import snapshot_download

    which, patterns = repository._which, repository._patterns
    with _answers(repository, cache):
        return Path(snapshot_download(**which, **patterns, cache_dir=cache))


def listed(repository: Repository) -> Listing:
    """What the hub has of a repository; asks for it, with the token that there is.

    Raises:
        HubError: if it is not to be had; says why and what to do.
    """
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.utils._paths import filter_repo_objects

    api = HfApi()
    name, kind = repository.name, repository.kind
    with _answers(repository):
        found = str(api.repo_info(name, repo_type=kind, revision=repository.revision).sha)
        api.auth_check(name, repo_type=kind)  # a gated repository is listed for everybody
        tree = api.list_repo_tree(name, repo_type=kind, revision=found, recursive=True)
        files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    wanted = sorted(filter_repo_objects(files, **repository._patterns))
    _check_names(repository, found, wanted)
    return Listing(repository, found, tuple(_file(files[path]) for path in wanted))


def _check_names(repository: Repository, found: str, files: list[str]) -> None:
    """The hub's names become files' names here, and have to stay in their folder.

    Raises:
        HubError: for a commit that is none, and for the first path that leads elsewhere.
    """
    wrong = next((path for path in files if not is_inside(path)), None)
    if not is_commit(found):
        wrong = found
    if wrong is not None:
        raise HubError(
            f"the hub lists {wrong!r}, which can be no file of a {repository.kind}",
            where=str(repository),
            remedy="nothing was fetched; ask another hub (HF_ENDPOINT), or tell whose this one is",
        )


def is_inside(path: str) -> bool:
    """Whether a path, with slashes, names a file below a folder, by printable characters."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)


def address(repository: Repository, path: str) -> str:
    """Where a file of a repository is to be had."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        repository.name, path, repo_type=repository.kind, revision=repository.revision
    )


def _file(entry: Any) -> File:
    if entry.lfs is not None:
        return File(entry.path, entry.lfs.size, entry.lfs.sha256, None)
    return File(entry.path, entry.size, None, entry.blob_id)


@contextlib.contextmanager
def _answers(repository: Repository, cache: Path | None = None) -> Iterator[None]:
    """Turn what the hub, its library or the disk refuses into an error that says what to do."""
    import httpx2

    try:
        yield
    # What a hub says that is none, its library answers with errors of Python's own.
    except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise _error(error, repository, cache) from error


def _error(error: Exception, repository: Repository, cache: Path | None) -> VexpError:
    from huggingface_hub import errors

    kind, name, revision = repository.kind, repository.name, repository.revision
    where = str(repository)
    dataset = " --repo-type dataset" if kind == "dataset" else ""
    again = f"`hf download {name}{dataset} --revision {revision}` where there is a network"
    if isinstance(error, OSError) and error.errno in (*_FULL, *_REFUSING):
        full = error.errno in _FULL
        return StorageError(
            f"cannot write: {'the disk is full' if full else 'permission denied'}; files that are "
            "whole are kept",
            where=str(cache or "the hub's cache (HF_HOME)"),
            remedy=f"{'free some space' if full else 'choose another folder'}, then run the same "
            "command",
        )
    if isinstance(error, errors.GatedRepoError):
        what = f"the hub gives this {kind} only to users whom its owner admitted"
        return HubError(what, where=where, remedy="ask for access on its page, then set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        what = f"the hub's {kind} {name!r} has no revision {revision!r}"
        return HubError(what, where=where, remedy="" if dataset else "set backbone.revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(repository)
    if isinstance(error, errors.OfflineModeIsEnabled):
        what = "the environment keeps the hub from being asked"
        return HubError(what, where="HF_HUB_OFFLINE", remedy="unset it where there is a network")
    if isinstance(error, errors.LocalEntryNotFoundError):
        folder = ", or set backbone.path to a folder" if not dataset else ""
        return HubError(
            f"{name!r} is not in the local cache, and the hub cannot be reached",
            where=where,
            remedy=f"run {again}{folder}",
        )
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return HubError(
        f"the hub did not give the {kind}: {reason}",
        where=where,
        remedy=f"try again, or run {again}",
    )


def _not_found(repository: Repository) -> HubError:
    if repository.kind == "model":
        return HubError(
            f"the hub has no model {repository.name!r}, and there is no folder of that name here",
            where=str(repository),
            remedy="set backbone.path to a folder or to a name such as Qwen/Qwen2.5-VL-3B-Instruct",
        )
    return HubError(
        f"the hub has no dataset {repository.name!r}, or it is one that only some may see",
        where=str(repository),
        remedy="set HF_TOKEN if it is private, or data= to a local copy",
    )
