"""run.json of a run folder: written once, checked whenever it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vexp import __version__, masking, records
from vexp.config.hashing import digest
from vexp.errors import Damaged, RunError
from vexp.files import read

if TYPE_CHECKING:
    from vexp.spec.identity import Identity
    from vexp.spec.run import RunSpec

Head = TypeVar("Head", records.Run, records.RunHead)
FORMAT = records.Run.newest  # raised when an older vexp could not read a newer folder
RECORD = "run.json"


def read_record(folder: Path) -> records.Run:
    """The checked content of a folder's run.json.

    Raises:
        RunError: if it is missing, damaged, of a newer format, or of another run.
    """
    return _of_folder(_checked(read(folder / RECORD, records.Run), folder), folder)


def read_head(folder: Path) -> records.RunHead:
    """The same without looking into config and science, for those who read ten thousand.

    Raises:
        Damaged: also if the file is of another run than the folder is called by.
    """
    return _of_folder(_checked(read(f"{folder}/{RECORD}", records.RunHead), folder), folder)


def _of_folder(head: Head, folder: Path) -> Head:
    """The record, if it is of the run that the folder is called by."""
    name = folder.name if folder.name.strip(".") else folder.resolve().name
    if head.hash and head.hash != name.rpartition("-")[2]:
        raise Damaged(
            f"{RECORD} is of another run, whose id ends in {head.hash}",
            where=str(folder),
            remedy="move this folder out of the results: it is a copy or was renamed",
        )
    return head


def _checked(found: Head | None, folder: Path) -> Head:
    if found is None:
        raise Damaged(f"{RECORD} is missing", where=str(folder), remedy=records.Run.remedy)
    return found


def new_record(run: RunSpec, identity: Identity) -> dict[str, Any]:
    """The content of a new run.json."""
    from vexp.config.schema import to_dict

    return {
        "format": FORMAT,
        "id": identity.name,
        "slug": identity.slug,
        "hash": identity.hash,
        "vexp": __version__,
        "config": masking.stored(to_dict(run)),
        "science": masking.stored(dict(identity.inputs)),
    }


def contradiction(record: records.Run) -> str:
    """Reason why a record that came from elsewhere does not describe the run of its hash, or "".

    What decides the weights (`science`) has to give the hash, and the config has to agree with it.
    Where a secret is masked, the hash cannot be found again.
    """
    if not record.science:
        return ""
    if "***" not in json.dumps(record.science) and digest(record.science) != record.hash:
        return f"its `science` gives the hash {digest(record.science)}, not {record.hash}"
    science, config = flattened(record.science), flattened(record.config)
    compared = sorted(science.keys() & config.keys() - {"plugins"})  # hashes there, files here
    if wrong := [key for key in compared if science[key] != config[key]]:
        return f"its config and its `science` differ in {', '.join(wrong[:5])}"
    return ""


def check_same_science(folder: Path, identity: Identity) -> None:
    """Raises:
    RunError: if the folder's run differs in anything that decides the weights; names the keys.
    """
    there = flattened(read_record(folder).science)
    here = flattened(json.loads(json.dumps(identity.inputs)))
    hidden = flattened(masking.stored(json.loads(json.dumps(identity.inputs))))
    lines = [
        f"{key}: {_shown(there, key)} there, {_shown(here, key)} here"
        for key in sorted(there.keys() | here.keys())
        if _shown(there, key) not in (_shown(here, key), _shown(hidden, key))
    ]
    if lines:
        more = f"; {len(lines) - 10} more" if len(lines) > 10 else ""
        raise RunError(
            "the run folder with this id was written by another config",
            where=str(folder),
            accepted="; ".join(lines[:10]) + more,
            remedy="move that folder away (it was edited or renamed), then run again",
        )


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted key; lists and empty mappings are leaves."""
    if isinstance(tree, Mapping) and (tree or not prefix):
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: tree}


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "not set"
