"""The sweep file: a set of runs, declared, and the table they are for.

Example::

    at:                      # overrides of one scale only, also within a row
      ease_paper: [backbone=qwen3_vl_4b]
    base:                    # overrides of every run, as on the command line, or nested settings
      - warm_start.seed=${seed}
    rows:                    # named variants; each a list of overrides or nested settings
      base: {label: Warm start, stages: [warm_start]}
      dapo: [experiment=dapo]
    axes:                    # key -> values; the product of all axes with all rows
      rollout.group_size: [4, 8]
      algorithm.clip_high: {values: [0.2, 0.28], when: {row: dapo}}  # only there
    zip:                     # axes that move together
      - rl.steps: [100, 200]
        rl.learning_rate: [2e-6, 1e-6]
    seeds: [1, 2]            # sets `seed`
    exclude:                 # points that match all keys of an entry are left out
      - {row: base, rollout.group_size: 8}
    evaluation:              # evaluators of every run, by name
      heldout: {size: 500}
    launcher: {workers: 2}   # where and how many at a time
    resources:               # what the launcher asks for; later entries win
      - {gpus: 1}
      - {when: {rollout.group_size: 8}, gpus: 4}
    hold_after: 3            # so many first runs that fail alike hold the rest; 0: never
    table:
      columns:
        - {metric: accuracy, label: All, scale: percent}

A `search:` (see docs/search.md) proposes the points instead of rows and axes.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp import masking
from vexp.config.schema import Origin
from vexp.launcher.base import Resources
from vexp.names import file_name, hashed_name
from vexp.search.base import Search
from vexp.sweeps.circuit_breaker import HOLD_AFTER
from vexp.sweeps.conditions import Condition
from vexp.sweeps.overrides import Override
from vexp.sweeps.table import Column, Scale, TableSpec, Test

__all__ = ["Axis", "Column", "Row", "Sweep", "TableSpec", "default_name", "variant_name"]

COMMAND_LINE = "command line"  # source of overrides given beside the file


@dataclass(frozen=True, kw_only=True)
class Row:
    """A named variant of the base."""

    name: str
    overrides: tuple[Override, ...] = ()
    label: str = ""
    line: int = 0
    group: str = ""  # rows of one group stand under its name
    external: bool = False  # a constant of the published table: nothing is run
    proposed: bool = False  # a point that the paper does not state
    reference: str = ""  # its row in the published table; empty: the row of the same name
    metric: str = ""  # instead of the columns' metric, for tables whose rows are metrics
    scale: Scale | None = None  # of that metric
    compares: tuple[str, ...] = ()  # two rows: this one shows the p-values of their difference
    # Between which scores: paired over training seeds, or the sampled runs of one seed (avg@k).
    test: Test = "seeds"
    note: str = ""  # printed below the table

    @property
    def runs(self) -> bool:
        """Whether the row stands for runs."""
        return not self.external and not self.compares

    @property
    def heading(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Keys that take values together (one key, or several zipped), where a condition holds."""

    keys: tuple[str, ...]
    choices: tuple[tuple[Any, ...], ...]  # each with one value per key
    overrides: tuple[tuple[Override, ...], ...]  # of each choice
    when: Condition = field(default_factory=Condition)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, read and checked as far as that is possible without composing its runs."""

    name: str
    path: Path
    description: str = ""
    base: tuple[Override, ...] = ()
    rows: tuple[Row, ...] = ()  # one nameless row when only axes are declared
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] = ()
    exclude: tuple[Condition, ...] = ()
    resources: tuple[tuple[Condition, Resources], ...] = ()  # later ones win
    hold_after: int = HOLD_AFTER  # first runs that fail alike and so hold the rest; 0: never
    table: TableSpec | None = None
    table_origins: Mapping[tuple[str, ...], Origin] = field(default_factory=dict)
    extra: tuple[Override, ...] = ()  # overrides given beside the file
    search: Search | None = None  # proposes the points, in the place of rows and axes

    @functools.cached_property
    def shown(self) -> str:
        """The file as the user would write it."""
        return shown_path(self.path)

    @property
    def argument(self) -> str:
        """What a command takes to mean this sweep: `ease/table3 rl.steps=3`.

        It ends up in tables that are passed on, so it has no folders of this machine.
        """
        file = "/".join(_below_sweeps(self.path))
        if not file or "=" in file:  # which would be read as an override
            file = self.path.name if Path(self.shown).is_absolute() else self.shown
        given = [override.text for override in self.extra if not _NEUTRAL.match(override.text)]
        return shlex.join([file, *map(masking.mask, given)])


def _below_sweeps(path: Path) -> tuple[str, ...]:
    """The parts of a path after its last folder `sweeps`, without the suffix; empty without one."""
    parts = path.resolve().with_suffix("").parts
    known = "sweeps" in parts[:-1]
    return parts[len(parts) - parts[::-1].index("sweeps") :] if known else ()


def default_name(path: Path) -> str:
    """The file's name, after the folders below `sweeps`: sweeps/ease/table3.yaml is ease-table3."""
    return "-".join(_below_sweeps(path) or (path.stem,))


def variant_name(name: str, extra: Sequence[str]) -> str:
    """The name of a sweep whose runs are changed from the command line: that of no other variant.

    Overrides that can be read back from the name make it up; other ones are hashed. Their order
    counts where one key is set twice.
    """
    changing = [text for text in extra if not _NEUTRAL.match(text)]
    if not changing:
        return name
    keys = {text.partition("=")[0].lstrip("+") for text in changing}
    repeated = len(keys) < len(changing)
    listed = changing if repeated else sorted(changing)
    shown = list(map(masking.mask, listed))
    joined = "-".join([name, *shown])
    if repeated or shown != listed or not all(map(_READ_BACK.fullmatch, listed)):
        return hashed_name(joined, json.dumps([name, *listed]))
    return file_name(joined)


# Keys that change where and how a sweep runs, not what it computes.
_NEUTRAL = re.compile(
    r"\+*(launcher|results_dir|tracker"
    r"|compute\.(device|threads|micro_batch_size|gradient_checkpointing))\b"
)
# An override of which `-` and `=` tell where it begins and ends within a name.
_READ_BACK = re.compile(r"\+*[A-Za-z0-9_.]+=[A-Za-z0-9._+-]*")


def shown_path(path: Path) -> str:
    """A path as the user would write it from here."""
    resolved, here = path.resolve(), Path.cwd()
    return str(resolved.relative_to(here) if resolved.is_relative_to(here) else path)
