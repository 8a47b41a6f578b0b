"""Models named by a repository of the Hugging Face hub: which commit is meant, where it lies."""

from __future__ import annotations

import re
from pathlib import Path

from vexp.errors import CheckpointError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What of a repository is needed; pickled weights are not.
FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")


def is_name(path: str) -> bool:
    """Whether `path` has the form of a repository's name."""
    return _NAME.fullmatch(path) is not None and not path.startswith(".")


def commit(repository: str, revision: str) -> str | None:
    """The commit behind a revision, as the local cache has it; None where that is not known."""
    if _COMMIT.fullmatch(revision):
        return revision
    folder = cached(repository, revision)
    return folder.name if folder else None


def cached(repository: str, revision: str) -> Path | None:
    """The local copy of a revision, with its config.json at least; None without one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def fetch(repository: str, revision: str) -> Path:
    """The folder of a revision; what of it is not in the cache is downloaded.

    Raises:
        CheckpointError: if it is neither there nor to be had; says why and what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}@{revision}"
    download = f"`hf download {repository} --revision {revision}` where there is a network"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError as error:
        what, remedy = (
            "the hub gives this model only to users whom its owner admitted",
            ("ask for access on its page, then set HF_TOKEN"),
        )
        raise CheckpointError(what, where=where, remedy=remedy) from error
    except RevisionNotFoundError as error:
        what = f"the hub's model {repository!r} has no revision {revision!r}"
        raise CheckpointError(what, where=where, remedy="set backbone.revision") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {repository!r}, and there is no folder of that name here",
            where=where,
            remedy="set backbone.path to a folder or to a name such as Qwen/Qwen2.5-VL-3B-Instruct",
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository!r} is not in the local cache, and the hub cannot be reached",
            where=where,
            remedy=f"run {download}, or set backbone.path to a folder",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"the hub did not give the model: {str(error).splitlines()[0]}",
            where=where,
            remedy=f"try again, or run {download}",
        ) from error
