"""The study behind a sweep with a search: what a trial is, and where its trials are kept.

    results/sweeps/<sweep>/search/
      study.json             the study that workers propose trials for now
      lock                   held while a trial is proposed or reported
      <key>/trials/0007.json   trial 7: settings and runs; who creates the file owns the number
      <key>/journal.log        Optuna's copy; can be deleted, and is mended or written anew

The key is a hash of everything that decides what a trial's values are: base settings, space, seeds
and objectives. Change one of them and another study begins; the runs of the former one become
orphans, and changing it back finds them again. The number of trials, the search method and the
pruner can be changed on the way. Each run folder keeps a copy of the trials that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp import masking
from vexp.config.hashing import digest
from vexp.config.schema import build, to_dict
from vexp.errors import ConfigError, RunError
from vexp.files import read_json, write_json
from vexp.launcher.base import Resources
from vexp.search.base import Search
from vexp.spec.run import RunSpec
from vexp.sweeps.conditions import Condition
from vexp.sweeps.overrides import Override, grammar, shown_value
from vexp.sweeps.points import Point, points
from vexp.sweeps.schema import Row, Sweep
from vexp.sweeps.state import SweepState

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What trials that meet a condition ask of the launcher."""

    accepted: dict[str, tuple[Any, ...]]
    sources: dict[str, str]
    resources: Resources

    @classmethod
    def of(cls, when: Condition, resources: Resources) -> _Asked:
        return cls(accepted=dict(when.accepted), sources=dict(when.sources), resources=resources)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Content of study.json: a sweep without its table, as a worker needs it."""

    format: int
    name: str
    path: str
    key: str
    base: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    config_dirs: tuple[str, ...]
    steps: int
    search: Search
    resources: tuple[_Asked, ...] = ()


class TrialPoint(Point):
    """A point of a trial; its values are drawn, so their last digits say nothing to the user."""

    @property
    def label(self) -> str:
        values = [
            f"{key.rpartition('.')[2]}={f'{v:.3g}' if isinstance(v, float) else shown_value(v)}"
            for key, v in self.axes.items()
        ]
        seed = [] if self.seed is None else [f"seed={self.seed}"]
        return " ".join([self.row.name, *values, *seed])


@dataclass(frozen=True)
class Study:
    """A sweep's search, with the folder of its trials."""

    sweep: Sweep
    state: SweepState
    key: str
    steps: int  # of reinforcement learning in a trial, for pruners that share them out
    config_dirs: tuple[Path, ...] = ()

    @property
    def search(self) -> Search:
        assert self.sweep.search is not None
        return self.sweep.search

    @property
    def name(self) -> str:
        """The study's name in Optuna's storage."""
        return f"{self.sweep.name}-{self.key}"

    @property
    def folder(self) -> Path:
        return home(self.state) / self.key

    @property
    def trials_dir(self) -> Path:
        return self.folder / "trials"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    @property
    def lock(self) -> Path:
        return home(self.state) / "lock"

    def save(self) -> None:
        """Make this the study that workers propose for."""
        record = _Record(
            format=FORMAT,
            name=self.sweep.name,
            path=str(self.sweep.path.resolve()),
            key=self.key,
            base=_pairs(self.sweep.base),
            extra=_pairs(self.sweep.extra),
            seeds=self.sweep.seeds,
            config_dirs=tuple(str(path.resolve()) for path in self.config_dirs),
            steps=self.steps,
            search=self.search,
            resources=tuple(_Asked.of(*entry) for entry in self.sweep.resources),
        )
        path, content = home(self.state) / "study.json", to_dict(record)
        if read_json(path) != content:
            write_json(path, content)

    @classmethod
    def load(cls, state: SweepState) -> Study | None:
        """The study that was saved last; None if the sweep has no search.

        Raises:
            RunError: if its file is damaged or of a newer vexp.
        """
        path = home(state) / "study.json"
        if not path.exists():
            return None
        try:
            content = read_json(path)
            known = content if isinstance(content, dict) else {}
            record = build(_Record, known) if known.get("format") == FORMAT else None
        except (ConfigError, OSError, RecursionError):
            record = None
        if record is None:
            raise RunError(
                "the description of this search is damaged or from another vexp",
                where=str(path),
                remedy="launch the sweep again: it writes a new one",
            )
        sweep = Sweep(
            name=record.name,
            path=Path(record.path),
            base=_overrides(record.base),
            rows=(Row(name=""),),
            seeds=record.seeds,
            extra=_overrides(record.extra),
            search=record.search,
            resources=tuple(
                (Condition(asked.accepted, asked.sources), asked.resources)
                for asked in record.resources
            ),
        )
        return cls(sweep, state, record.key, record.steps, tuple(map(Path, record.config_dirs)))

    @staticmethod
    def forget(state: SweepState) -> None:
        """The sweep no longer has a search; its trials stay."""
        (home(state) / "study.json").unlink(missing_ok=True)

    def points(self, trials: Iterable[tuple[int, dict[str, Any]]]) -> list[Point]:
        """The points of trials, given by number and settings; each with every seed.

        Raises:
            ConfigError: if the config does not take the settings.
        """
        settings = dict(trials)
        rows = tuple(self.row(number, params) for number, params in settings.items())
        if not rows:
            return []
        found = points(single(self.sweep, rows), config_dirs=self.config_dirs)
        return [
            TrialPoint(
                p.row,
                settings[trial_number(p.row)],
                p.seed,
                p.overrides,
                p.run,
                p.identity,
                p.resources,
            )
            for p in found
        ]

    def row(self, number: int, params: dict[str, Any]) -> Row:
        return Row(name=f"trial {number}", overrides=settings_of(self.sweep, params))


def record_of(state: SweepState, number: int) -> Path | None:
    """The file of a trial of the saved study; None if the sweep has no search."""
    study = Study.load(state)
    return study.trials_dir / f"{number:04d}.json" if study else None


def trial_number(row: Row) -> int:
    return int(row.name.rpartition(" ")[2])


def home(state: SweepState) -> Path:
    return state.folder / "search"


def single(sweep: Sweep, rows: tuple[Row, ...]) -> Sweep:
    """The sweep with these rows and no search."""
    from dataclasses import replace

    return replace(sweep, rows=rows, axes=(), exclude=(), search=None, table=None)


def settings_of(sweep: Sweep, params: dict[str, Any]) -> tuple[Override, ...]:
    """The overrides that set a trial's keys, each with where the space names it."""
    found = []
    for key, value in params.items():
        origin = sweep.table_origins.get(("search", "space", key))
        where = str(origin) if origin else f"{sweep.path.name}: search"
        found.append(Override(f"{key}={grammar(value)}", where))
    return tuple(found)


def study_key(sweep: Sweep, corner: RunSpec, corner_hash: str) -> str:
    """What decides a trial's values, in twelve hex digits. `corner` is any run of the space."""
    from vexp.runs.evaluations import units

    search = sweep.search
    assert search is not None
    scored = {unit.label: unit.key for unit in units(corner, "")}
    return digest(
        {
            "run": corner_hash,
            "space": {key: to_dict(d) for key, d in sorted(search.distributions().items())},
            "seeds": list(sweep.seeds),
            "objectives": [
                [o.metric, o.direction, scored.get(o.evaluator, "")] for o in search.objectives
            ],
        }
    )


def _pairs(overrides: Iterable[Override]) -> tuple[tuple[str, str], ...]:
    return tuple((masking.by_name(each.text), masking.by_name(each.source)) for each in overrides)


def _overrides(pairs: Iterable[tuple[str, str]]) -> tuple[Override, ...]:
    return tuple(Override(text, source) for text, source in pairs)
