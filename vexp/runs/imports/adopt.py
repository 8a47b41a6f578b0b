"""Foreign results become evaluations of the runs they are of, with where they came from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vexp import __version__, records
from vexp.config.hashing import digest
from vexp.errors import RunError
from vexp.evaluator.benchmarks import catalogue
from vexp.files import new_folder, write_json, write_text
from vexp.runs import evaluations
from vexp.runs.imports import lmms_eval, own_rows
from vexp.runs.imports.measured import Foreign
from vexp.runs.imports.reading import plain
from vexp.runs.provenance import RECORD
from vexp.runs.rows import evaluation_folders
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import now


@dataclass
class Adopted:
    """What was brought in."""

    new: list[str] = field(default_factory=list)  # `<run>: <benchmark>`
    known: int = 0  # there already, from the same file content
    remarks: list[str] = field(default_factory=list)


def is_foreign(source: Path) -> bool:
    """Whether this is something that `adopt` reads, and not an export of vexp."""
    if source.is_file() and source.suffix.lower() in (".csv", ".json"):
        return True
    exported = (source / "export.json").is_file()
    return source.is_dir() and not exported and bool(lmms_eval.files(source))


def adopt(store: RunStore, source: Path, *, run: str | None = None) -> Adopted:
    """Add every result at `source` to its run; `run` says which, where the results do not.

    Nothing is added unless everything can be.

    Raises:
        RunError, ConfigError: for results that are damaged, of an unknown or unfinished run, or in
            conflict with what is there.
    """
    own = source.is_file() and not source.name.endswith(lmms_eval.ENDING)
    found, remarks = (own_rows.read(source), []) if own else lmms_eval.read(source)
    report = Adopted(remarks=remarks)
    planned = [(_owner(store, result, run), result) for result in found]
    for folder, result in planned:
        _check(folder, result)
    for folder, result in planned:
        if _add(folder, result):
            report.new.append(f"{folder.name}: {result.benchmark}")
        else:
            report.known += 1
    for name in dict.fromkeys(result.benchmark for result in found):
        if name not in catalogue():
            report.remarks.append(
                f"{name!r} is no benchmark of the papers; it is kept under its own name, its score "
                "as it stands in the file"
            )
    return report


def _owner(store: RunStore, result: Foreign, run: str | None) -> RunFolder:
    name = run or result.run or _named_by_model(store, result)
    if name is None:
        raise RunError(
            "these results do not say which run they are of",
            where=str(result.source),
            remedy="name it: vexp import SOURCE --run RUN",
        )
    folder = store.load(name)
    if folder.result() is None:
        raise RunError(
            f"run {folder.name} is not finished, so nothing was evaluated of it",
            where=str(result.source),
            remedy="finish it with `vexp run`, or name another run",
        )
    return folder


def _named_by_model(store: RunStore, result: Foreign) -> str | None:
    """The run below whose folder the evaluated model lies."""
    model = str(result.about.get("model") or "")
    found = re.search(r"(?:pretrained|model)=([^,]+)", model)
    parts = Path(found[1]).parts if found else ()
    names = store.names()
    return next((part for part in parts if part in names), None)


def _content(folder: RunFolder, result: Foreign) -> dict[str, Any]:
    found = folder.result()
    checkpoint = found.checkpoint_hash if found is not None else ""
    protocol = {"decoding": result.decoding, **dict(result.about)}
    identity = {"checkpoint": checkpoint, "benchmark": result.benchmark, "version": result.version}
    return {
        "format": evaluations.FORMAT,
        "name": result.benchmark,
        "evaluator": "imported",
        "key": digest(identity),
        "checkpoint": checkpoint,
        "protocol": plain(protocol),
        "vexp": __version__,
        "samples": result.n,
        "metrics": {result.metric: {"value": result.value, "stderr": result.stderr, "n": result.n}},
        "benchmark": result.benchmark,
        "main_metric": result.metric,
        "version": result.version,
    }


def _check(folder: RunFolder, result: Foreign) -> None:
    """Raises:
    RunError: if the run has another result of this benchmark.
    """
    content = _content(folder, result)
    for path in evaluation_folders(folder):
        there = evaluations.read_results(path)
        if there.benchmark != result.benchmark:
            continue
        if there.checkpoint != content["checkpoint"]:
            continue
        metrics = {name: records.plain(entry) for name, entry in there.metrics.items()}
        known = {
            "metrics": metrics,
            "version": there.version or "",
            "decoding": there.protocol.get("decoding", ""),
            "key": there.key,
        }
        new = {
            "metrics": content["metrics"],
            "version": result.version,
            "decoding": result.decoding,
            "key": content["key"],
        }
        if other := [name for name in new if new[name] != known[name]]:
            raise RunError(
                f"run {folder.name} has another result of {result.benchmark!r} already",
                where=f"{path}: {_listed(known, other)}",
                accepted=f"{_listed(new, other)} in {result.source}",
                remedy="delete that folder if the new one should count; two are never averaged",
            )


def _listed(values: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {json.dumps(values[name], ensure_ascii=False)}" for name in names)


def _add(folder: RunFolder, result: Foreign) -> bool:
    content = _content(folder, result)
    name = re.sub(r"[^A-Za-z0-9._+=,@-]", "_", result.benchmark)
    if evaluations.find(folder.evaluations_dir, content["key"]) is not None:
        return False
    with new_folder(folder.evaluations_dir / f"{name}-{content['key']}") as aside:
        rows = (_sample(dict(verdict)) for verdict in result.verdicts)
        write_text(aside / evaluations.SAMPLES, "".join(rows))
        write_json(aside / RECORD, _provenance(result))
        write_json(aside / evaluations.RESULTS, content)
    return True


def _sample(verdict: dict[str, Any]) -> str:
    whole = {"tag": "", "status": "imported", "length": 0} | verdict
    return json.dumps(whole, ensure_ascii=False) + "\n"


def _provenance(result: Foreign) -> dict[str, Any]:
    about = {k: v for k, v in asdict(result).items() if k not in ("verdicts", "source")}
    content = hashlib.sha256(result.source.read_bytes()).hexdigest()
    imported = {"source": str(result.source), "sha256": content, "at": now(), "vexp": __version__}
    return {"imported": imported, **plain(about)}
