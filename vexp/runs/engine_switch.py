"""Another engine for an unfinished run: it keeps its id, and what it is made of is told for ever.

A run's id names the engine that it began with. When that one breaks down, the run may go on with
another; its folder remembers each switch, its provenance lists them, and tables call it mixed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp import records
from vexp.config.hashing import plain
from vexp.errors import ConfigError, Problem, RunError
from vexp.files import read, write_json
from vexp.record_json import decoded
from vexp.runs.status import SWITCHES

if TYPE_CHECKING:
    from vexp.engine.base import Engine
    from vexp.runs.store import RunFolder
    from vexp.spec.run import RunSpec

FORMAT = records.Switches.newest
MIXED = "mixed"
_KEY = "engine"


@dataclass(frozen=True)
class Switch:
    """From which step on a run went on with which engine."""

    step: int  # steps done before
    former: Mapping[str, Any]  # the engine's settings until then
    engine: Mapping[str, Any]  # those from then on
    at: str  # when, for people

    def __str__(self) -> str:
        former, now = _told(self.former, self.engine), _told(self.engine, self.former)
        return f"{now} from step {self.step + 1} on ({former} before)"

    def to_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "from": dict(self.former),
            "to": dict(self.engine),
            "at": self.at,
        }


def switches(folder: Path | str) -> tuple[Switch, ...]:
    """The switches of a run, oldest first; () for one that is as it was declared.

    Raises:
        RunError: if the record is damaged.
    """
    found = read(f"{folder}/{SWITCHES}", records.Switches)
    return _switches(found) if found is not None else ()


def parsed(record: Any, where: str) -> tuple[Switch, ...]:
    """The switches that a record lists.

    Raises:
        Damaged: if it is no such record.
    """
    return _switches(decoded(json.dumps(record).encode(), records.Switches, where))


def _switches(found: records.Switches) -> tuple[Switch, ...]:
    return tuple(Switch(each.step, each.former, each.engine, each.at) for each in found.switches)


def mixed(folder: Path | str) -> str:
    """What to call a run that was switched: `mixed: …`; empty for all others."""
    found = switches(folder)
    return f"{MIXED}: {'; '.join(map(str, found))}" if found else ""


def effective(run: RunSpec, folder: RunFolder) -> RunSpec:
    """The run as it goes on: with the engine that it was last switched to."""
    found = switches(folder.folder)
    if not found:
        return run
    engine = _engine(found[-1].engine, str(folder.folder / SWITCHES))
    return run if plain(engine) == plain(run.engine) else dataclasses.replace(run, engine=engine)


def chosen(
    overrides: Sequence[str], wanted: Sequence[str], config_dirs: Iterable[Path] = ()
) -> Engine:
    """The engine that `--switch` asks for, of a run with these overrides.

    Raises:
        ConfigError: for keys that cannot be switched, and for an engine that this run cannot have.
    """
    from vexp.spec.resolve import resolve

    wrong = [_refused(text) for text in wanted if not _about_engine(text)]
    if wrong:
        raise ConfigError(wrong)
    anew = any(_key(text) == _KEY for text in wanted)
    kept = [text for text in overrides if not (anew and _about_engine(text))]
    sources = ["override"] * len(kept) + ["--switch"] * len(wanted)
    return resolve([*kept, *wanted], config_dirs=config_dirs, source=sources).engine


def check(run: RunSpec, folder: RunFolder | None, engine: Engine) -> None:
    """Ask whether a run can go on with `engine`.

    Raises:
        RunError: it was never started, is finished, or has this engine already.
    """
    if folder is None:
        raise RunError(
            "there is nothing to go on with: this run was never started",
            where="--switch",
            remedy="give the engine as an ordinary override; that is another run, with its own id",
        )
    if folder.published() is not None:
        raise RunError(
            "this run is finished: there is nothing left to do with another engine",
            where=str(folder.folder),
            remedy="give the engine as an ordinary override; that is another run, with its own id",
        )
    now = effective(run, folder).engine
    if plain(now) == plain(engine):
        raise RunError(
            f"this run has engine={engine.name} already: there is nothing to switch",
            where=str(folder.folder),
            remedy="leave --switch out and it goes on; a setting that is not part of the id is an "
            "ordinary override",
        )


def record(folder: RunFolder, run: RunSpec, engine: Engine, step: int, at: str) -> RunSpec:
    """Write down that `run`, as it went so far, goes on with `engine` after `step` steps."""
    from vexp.config.schema import to_dict

    switch = Switch(step, to_dict(run.engine), to_dict(engine), at)
    write_record(folder.folder, [*switches(folder.folder), switch])
    return dataclasses.replace(run, engine=engine)


def write_record(folder: Path, found: Iterable[Switch]) -> None:
    """Raises:
    StorageError: if the disk refuses.
    """
    listed = [switch.to_dict() for switch in found]
    write_json(folder / SWITCHES, {"format": FORMAT, "switches": listed})


def _engine(settings: Mapping[str, Any], where: str) -> Engine:
    from vexp.config.schema import ConfigReading, Origin, build_field
    from vexp.spec.run import RunSpec

    reading = ConfigReading(origins={(_KEY,): Origin(where)})
    engine: Engine = build_field(RunSpec, _KEY, dict(settings), reading)
    return engine


def _key(text: str) -> str:
    return text.partition("=")[0].strip().lstrip("+~")


def _about_engine(text: str) -> bool:
    key = _key(text)
    return key == _KEY or key.startswith(f"{_KEY}.")


def _refused(text: str) -> Problem:
    return Problem(
        f"{_key(text)!r} cannot be switched within a run",
        where=f"--switch `{text}`",
        accepted="only the engine: engine=NAME and engine.FIELD=VALUE",
        remedy="give it as an ordinary override; that is another run, with its own id",
    )


def _told(engine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """An engine by its name; by what differs where the names are one."""
    if engine.get("name") != other.get("name"):
        return f"engine={engine.get('name')}"
    keys = [key for key in engine if engine[key] != other.get(key)]
    return ", ".join(f"engine.{key}={engine[key]}" for key in keys)
