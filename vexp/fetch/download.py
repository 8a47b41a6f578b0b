"""From the hub into a folder, each file checked against what the hub says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vexp.doctor.machine import free_bytes
from vexp.errors import HubError, StorageError
from vexp.fetch import manifest
from vexp.fetch.manifest import FileRow, Held, Manifest
from vexp.files import fsync_folder
from vexp.hub import Listing, Repository, address, download
from vexp.sweeps.show import size

HUB = "hub"  # where HF_HOME has the hub's cache
ATTEMPTS = 2  # at a file that is not what it should be


def fetch(
    folder: Path,
    listings: Iterable[Listing],
    by: Mapping[Repository, list[str]],
    *,
    begun: Callable[[Listing], None] = lambda _listing: None,
) -> Manifest:
    """Download what is not in the folder yet; its manifest, written when all of it is there.

    Interrupted, the same call goes on: files that are whole are not asked for again.

    Raises:
        HubError: the hub does not give a file, or gives another than it says.
        StorageError: there is no room, or the folder cannot be written.
    """
    listings = list(listings)
    _make(folder)
    _check_room(folder, listings)
    note = manifest.begin(folder, by)
    held, rows = [], []
    for listing in listings:
        begun(listing)
        rows += _fetched(folder, listing)
        asked = listing.repository
        held.append(Held(asked.kind, asked.name, asked.revision, listing.commit, by[asked]))
    done = manifest.read(folder).with_(held, rows)
    manifest.write(folder, done)
    note.unlink(missing_ok=True)
    fsync_folder(folder)
    return done


def missing_bytes(folder: Path, listings: Iterable[Listing]) -> int:
    """Bytes that are still to be downloaded."""
    return sum(
        file.bytes
        for listing in listings
        for file in listing.files
        if not _has(_snapshot(folder, listing) / file.path, file.bytes)
    )


def _make(folder: Path) -> None:
    try:
        (folder / HUB).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"this folder cannot be written: {(error.strerror or str(error)).lower()}",
            where=str(folder),
            remedy="name another folder with --to",
        ) from error


def _check_room(folder: Path, listings: list[Listing]) -> None:
    needed, free = missing_bytes(folder, listings), free_bytes(folder)
    if needed > free:
        raise StorageError(
            f"{size(needed)} are to be fetched, and {size(free)} are free",
            where=str(folder),
            remedy="name another folder with --to, or free some space",
        )


def _snapshot(folder: Path, listing: Listing) -> Path:
    """Where the hub's library puts a commit's files."""
    from huggingface_hub.file_download import repo_folder_name

    asked = listing.repository
    name = repo_folder_name(repo_id=asked.name, repo_type=asked.kind)
    return folder / HUB / name / "snapshots" / listing.commit


def _has(path: Path, count: int) -> bool:
    return path.is_file() and path.stat().st_size == count


def _fetched(folder: Path, listing: Listing) -> list[FileRow]:
    """Every file of a repository, checked; what is wrong is downloaded once more."""
    wrong: list[str] = []
    for _ in range(ATTEMPTS):
        found = download(listing.repository, folder / HUB)
        if found.name != listing.commit:
            raise HubError(
                f"{listing.repository.name} has moved on while it was fetched",
                where=f"{listing.repository.revision}: {listing.commit}, then {found.name}",
                remedy="run the same command again",
            )
        rows, wrong = _checked(folder, listing)
        if not wrong:
            return rows
        for path in wrong:
            _drop(_snapshot(folder, listing) / path, folder)
    raise HubError(
        f"what came is not what the hub says it is: {', '.join(wrong)}",
        where=str(listing.repository),
        remedy="these files are dropped; run the same command again, or without a mirror",
    )


def _checked(folder: Path, listing: Listing) -> tuple[list[FileRow], list[str]]:
    """Rows of the files that are as the hub says, and the paths of those that are not."""
    at = Repository(listing.repository.kind, listing.repository.name, listing.commit)
    rows, wrong = [], []
    for file in listing.files:
        path = _snapshot(folder, listing) / file.path
        count, sha256, git = manifest.hashes(path)
        if (count, file.sha256 or sha256, file.git or git) != (file.bytes, sha256, git):
            wrong.append(file.path)
            continue
        place = str(path.relative_to(folder))
        rows.append(FileRow(place, address(at, file.path), at.name, at.revision, count, sha256))
    return rows, wrong


def _drop(path: Path, folder: Path) -> None:
    """Remove a file and what it links to, so that it is downloaded again."""
    content = path.resolve()
    path.unlink()
    if content.is_relative_to(folder.resolve()):
        content.unlink(missing_ok=True)
