"""The places that a sweep spans: every row, at every choice of the axes that apply, per seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vexp.config.interpolation import value_of
from vexp.errors import ConfigError, Problem
from vexp.spec.composer import Composer
from vexp.sweeps.conditions import ABSENT, Condition
from vexp.sweeps.overrides import Override
from vexp.sweeps.schema import Axis, Row, Sweep

Chosen = tuple[tuple[Axis, int], ...]  # axes with the number of the choice
Complain = Callable[[Iterable[Problem], Row], None]


@dataclass(frozen=True)
class Combination:
    """One combination, before anything is resolved."""

    sweep: Sweep
    row: Row
    chosen: Chosen
    seed: int | None = None

    @functools.cached_property
    def axes(self) -> dict[str, Any]:
        """The value of every axis of the sweep, in order; ABSENT where one does not apply."""
        values: dict[str, Any] = {key: ABSENT for axis in self.sweep.axes for key in axis.keys}
        for axis, index in self.chosen:
            values.update(zip(axis.keys, axis.choices[index], strict=True))
        return values

    @functools.cached_property
    def overrides(self) -> tuple[Override, ...]:
        """In the order in which they apply: the last one wins."""
        axes = (override for axis, index in self.chosen for override in axis.overrides[index])
        seeds: tuple[Override, ...] = ()
        if self.seed is not None:
            seeds = (Override(f"seed={self.seed}", f"{self.sweep.shown}: seeds"),)
        return (*self.sweep.base, *self.row.overrides, *axes, *seeds, *self.sweep.extra)


@dataclass
class Expansion:
    """Spans one sweep; conditions on keys of the config are asked of what is composed so far."""

    sweep: Sweep
    composer: Composer
    complain: Complain
    _known: dict[tuple[Override, ...], Mapping[str, Any] | None] = field(default_factory=dict)

    def places(self) -> Iterator[Combination]:
        """In the order of declaration: rows, then axes, then seeds; without the excluded ones."""
        seeds: tuple[int | None, ...] = self.sweep.seeds or (None,)
        for row in (row for row in self.sweep.rows if row.runs):
            for chosen in self._choices(row):
                axes = Combination(self.sweep, row, chosen).axes
                for seed in seeds:
                    place = Combination(self.sweep, row, chosen, seed)
                    vars(place)["axes"] = axes  # one for all seeds
                    if not any(self._holds(entry, place) for entry in self.sweep.exclude):
                        yield place

    def resources(self, place: Combination) -> dict[str, Any]:
        """What the place's run asks of the launcher."""
        asked: dict[str, Any] = {}
        for when, resources in self.sweep.resources:
            if self._holds(when, place):
                asked |= resources.asked()
        return asked

    def _choices(self, row: Row) -> Iterator[Chosen]:
        found: list[Chosen] = [()]
        for axis in self.sweep.axes:
            longer: list[Chosen] = []
            for chosen in found:
                if self._holds(axis.when, Combination(self.sweep, row, chosen)):
                    longer += [(*chosen, (axis, index)) for index in range(len(axis.choices))]
                else:
                    longer.append(chosen)
            found = longer
        yield from found

    def _holds(self, condition: Condition, place: Combination) -> bool:
        return condition.holds(functools.partial(self._value_at, place))

    def _value_at(self, place: Combination, key: str, source: str) -> Any:
        if key == "row":
            return place.row.name
        if key == "seed" and self.sweep.seeds:
            return place.seed
        if key in place.axes:
            return place.axes[key]
        values = self._composed(place)
        if values is None:
            return ABSENT
        try:
            return value_of(key, values)
        except KeyError:
            what = f"the run has no key {key!r} that a condition could look at"
            self.complain([Problem(what, where=source)], place.row)
        return ABSENT

    def _composed(self, place: Combination) -> Mapping[str, Any] | None:
        overrides = place.overrides
        if overrides not in self._known:
            try:
                values: Mapping[str, Any] | None = self.composer.values(
                    [override.text for override in overrides],
                    [override.source for override in overrides],
                )
            except ConfigError as error:
                self.complain(error.problems, place.row)
                values = None
            self._known[overrides] = values
        return self._known[overrides]
