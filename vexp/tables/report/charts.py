"""Charts as data: drawn by the page, by matplotlib, and read out as a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vexp.names import LONGEST, hashed_name

BAND = "lines: mean over seeds; bands: from the lowest to the highest seed"
DOTS = "dots: mean over seeds; bars: from the lowest to the highest seed"


@dataclass(frozen=True)
class Series:
    """The values of one line of the report, as the mean over its seeds with their range."""

    line: int  # its place among the report's lines
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int  # most seeds behind a value


@dataclass(frozen=True)
class Chart:
    """One chart. `dots` shows one value per line, one below the other, along the x axis."""

    name: str  # a file's name
    title: str
    x: str  # what the axis shows, with its unit
    y: str
    series: tuple[Series, ...]
    kind: Literal["lines", "dots"] = "lines"
    log_x: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Charts under one heading; `missing` says what is not there and how to get it."""

    charts: tuple[Chart, ...] = ()
    more: tuple[Chart, ...] = ()  # shown on request
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())  # damaged results, by name


_WORDS = re.compile(r"[A-Za-z0-9]+(?:[ ._/-][A-Za-z0-9]+)*")

# What reading a damaged file by its keys may raise.
DAMAGE = (AttributeError, KeyError, OverflowError, TypeError, ValueError)

Values = Mapping[float, Sequence[float]]  # x -> the values of the seeds that have one there


def series(line: int, values: Values) -> Series | None:
    """The series of one line; None without values."""
    places = sorted(x for x, found in values.items() if found)
    if not places:
        return None
    return Series(
        line=line,
        x=tuple(places),
        mean=tuple(math.fsum(values[x]) / len(values[x]) for x in places),
        low=tuple(min(values[x]) for x in places),
        high=tuple(max(values[x]) for x in places),
        n=max(len(values[x]) for x in places),
    )


def slug(text: str) -> str:
    """A file's name made of a metric's or a key's; with a hash where that name is not clear."""
    shown = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "chart"
    clear = _WORDS.fullmatch(text) and len(shown) <= LONGEST
    return shown if clear else hashed_name(shown, text)


def without(series: Iterable[Series], labels: Sequence[str], what: str) -> tuple[str, ...]:
    """A note that names the lines which have none of it."""
    there = {each.line for each in series}
    lacking = [label for number, label in enumerate(labels) if number not in there]
    return (f"{what}: {', '.join(lacking)}",) if lacking else ()
