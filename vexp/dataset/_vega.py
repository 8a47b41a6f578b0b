"""The real tables that the package vega_datasets ships, cut into panels that belong to one split.

A panel is what one chart shows a part of: the weather of a week, the yields of a site. Panels, or
where a table is one large panel its rows, are shared out to the splits once and for all, so that no
row of a table that is shown in training is ever seen in a held-out chart, whatever the seed.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vexp.errors import DataError

if TYPE_CHECKING:
    from vexp.dataset.base import Split

Shape = Literal["bar", "line", "scatter"]
Row = Mapping[str, Any]
HELD_OUT = 0.15  # share of a table's groups in dev, and again in test; at least one each
FEWEST = 5  # labels of a panel
LONGEST = 18  # characters of a label
SHA256 = {  # of the files of vega_datasets 0.9.0
    "airports.csv": "903c7169e6d558eefb95295fe2947ec8503135fbb855ea5c737cf4a90ea603ad",
    "barley.json": "800faf5a0524e2145822a72af7821e153b80ad3433631f4bd30100b24c9fa2bc",
    "cars.json": "f686a53678b21f4231e2f6a5ba7ce5761d9d39204fccdea1caa29fb8c460e319",
    "driving.json": "25a7e2d987372c77db93a85b68ffc58c20be09870378478b2faa4d9209910c15",
    "seattle-temps.csv": "c220666521ff4bec4ffb6f0d9acfdc5c1056564b1aad6f78d3b06aa0a0c8b085",
    "seattle-weather.csv": "62f0609f787158128aa2bd102967173a4953122dd4f872bf1d502cae1037df0b",
    "sf-temps.csv": "3f91699707cfed43ef551394bebef4c2ebe5505157b9be7bff9558eea2fbaaec",
    "stocks.csv": "f9953ac6693e587476b4ebf2f0b00d9bb95371ca8c39da4cc6155077b3e417cd",
    "us-employment.csv": "0fa5366929bf738ac420509b84ed120155f740b0fa9c265ca309dad4057d1b1b",
    "wheat.json": "f81aca0a91d8f60ea04526d03d7e878fce3dd01847e02e409cab63776b9a41b4",
}


@dataclass(frozen=True)
class Panel:
    """Values by measure for labels that are unique within it; `rows` say where they come from."""

    title: str
    noun: str  # what a label is, e.g. "car"
    shape: Shape
    labels: tuple[str, ...]
    measures: Mapping[str, tuple[float, ...]]  # in one unit if it is a line chart
    rows: tuple[str, ...]  # "file:row" of each label


@dataclass(frozen=True)
class _Source:
    """How one file becomes panels of one shape."""

    shape: Shape
    noun: str
    files: tuple[str, ...]
    label: Callable[[Row], str]
    measures: Mapping[str, str]  # name of a measure: its column
    group: Callable[[Row], str]  # rows of a group belong to one split
    title: Callable[[Row], str]  # of a panel, from its first row
    merged: bool = False  # one panel per split, not one per group


@functools.cache
def panels(split: Split, shape: Shape) -> tuple[tuple[Panel, ...], ...]:
    """The panels of a split by source; each of the sources has at least one.

    Raises:
        DataError: if vega_datasets is missing or ships other tables.
    """
    return tuple(_panels(source, split) for source in _SOURCES if source.shape == shape)


def _panels(source: _Source, split: Split) -> tuple[Panel, ...]:
    groups: dict[str, list[tuple[str, Row]]] = {}
    for place, row in _rows(source):
        groups.setdefault(source.group(row), []).append((place, row))
    chosen = [groups[name] for name in _of_split(list(groups), source, split)]
    if source.merged:
        chosen = [[entry for group in chosen for entry in group]]
    found = [_panel(source, entries) for entries in chosen]
    return tuple(panel for panel in found if len(panel.labels) >= FEWEST)


def _of_split(groups: Sequence[str], source: _Source, split: Split) -> list[str]:
    """The groups of a split, in the file's order."""
    key = "+".join(source.files)  # charts of one file share its groups, whatever their shape
    ranked = sorted(groups, key=lambda g: hashlib.blake2b(f"{key}/{g}".encode()).digest())
    held_out = max(1, round(HELD_OUT * len(ranked)))
    parts = {
        "test": ranked[:held_out],
        "dev": ranked[held_out : 2 * held_out],
        "train": ranked[2 * held_out :],
    }
    mine = set(parts[split])
    return [group for group in groups if group in mine]


def _panel(source: _Source, entries: Iterable[tuple[str, Row]]) -> Panel:
    kept: dict[str, tuple[str, Row]] = {}
    for place, row in entries:
        label = source.label(row)
        if len(label) <= LONGEST and all(row.get(c) is not None for c in source.measures.values()):
            kept.setdefault(label, (place, row))
    rows = [row for _, row in kept.values()]
    return Panel(
        title=source.title(rows[0]) if rows else "",
        noun=source.noun,
        shape=source.shape,
        labels=tuple(kept),
        measures={n: tuple(float(r[c]) for r in rows) for n, c in source.measures.items()},
        rows=tuple(place for place, _ in kept.values()),
    )


def _rows(source: _Source) -> Iterable[tuple[str, Row]]:
    """Rows with their places; two files of the same hours are joined by their order."""
    name = source.files[0]
    rows: Sequence[Row] = _table(name)
    if len(source.files) == 2:
        both = zip(rows, _table(source.files[1]), strict=True)
        rows = [{**first, "other": second["temp"]} for first, second in both]
    if name == "us-employment.csv":
        rows = [
            {"month": row["month"], "sector": sector, "jobs": row[column]}
            for row in rows
            for sector, column in _SECTORS.items()
        ]
    if name == "stocks.csv":
        rows = _stocks(rows)
    return [(f"{name}:{number}", row) for number, row in enumerate(rows)]


def _stocks(rows: Sequence[Row]) -> list[Row]:
    months: dict[datetime.date, dict[str, Any]] = {}
    for row in rows:
        date = datetime.datetime.strptime(row["date"], "%b %d %Y").date()
        months.setdefault(date, {"date": date})[row["symbol"]] = row["price"]
    return [months[date] for date in sorted(months)]


@functools.cache
def _table(name: str) -> list[dict[str, Any]]:
    content = _file(name).read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(
            "this table of vega_datasets is not the one that the charts are defined by",
            where=str(_file(name)),
            remedy="pip install vega_datasets==0.9.0",
        )
    if name.endswith(".json"):
        rows: list[dict[str, Any]] = json.loads(content)
        return rows
    read = csv.DictReader(io.StringIO(content.decode("utf-8")))
    return [{key: value or None for key, value in row.items()} for row in read]


def _file(name: str) -> Path:
    spec = importlib.util.find_spec("vega_datasets")  # importing it would import pandas
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the tables are missing: vega_datasets is not installed",
            where="dataset charts_vqa",
            remedy="pip install vega_datasets==0.9.0",
        )
    return Path(spec.submodule_search_locations[0]) / "_data" / name


def _date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text[:10].replace("/", "-"))


def _week(row: Row) -> str:
    year, week, _ = _date(row["date"]).isocalendar()
    return f"{year}-{week:02d}"


def _day(row: Row) -> str:
    return f"{_date(row['date']):%b %d}"


def _hour(row: Row) -> str:
    return str(row["date"])[11:16]


def _always(text: str) -> Callable[[Row], str]:
    return lambda _: text


_SECTORS = {
    "Mining": "mining_and_logging",
    "Construction": "construction",
    "Durable goods": "durable_goods",
    "Nondurable goods": "nondurable_goods",
    "Wholesale": "wholesale_trade",
    "Retail": "retail_trade",
    "Transport": "transportation_and_warehousing",
    "Utilities": "utilities",
    "Information": "information",
    "Finance": "financial_activities",
    "Education, health": "education_and_health_services",
    "Leisure": "leisure_and_hospitality",
    "Other services": "other_services",
    "Government": "government",
}
_CAR = {
    "fuel economy (miles per gallon)": "Miles_per_Gallon",
    "power (hp)": "Horsepower",
    "displacement (cubic inches)": "Displacement",
    "weight (lbs)": "Weight_in_lbs",
}
_SOURCES = (
    _Source(
        "bar", "car", ("cars.json",),
        label=lambda row: str(row["Name"]), measures=_CAR,
        group=lambda row: str(row["Name"]), title=_always("Cars"), merged=True,
    ),
    _Source(
        "bar", "variety", ("barley.json",),
        label=lambda row: str(row["variety"]), measures={"yield (bushels per acre)": "yield"},
        group=lambda row: f"{row['site']}, {row['year']}",
        title=lambda row: f"Barley in {row['site']}, {row['year']}",
    ),
    _Source(
        "bar", "sector", ("us-employment.csv",),
        label=lambda row: str(row["sector"]), measures={"jobs (thousands)": "jobs"},
        group=lambda row: str(row["month"]),
        title=lambda row: f"US employment, {str(row['month'])[:7]}",
    ),
    _Source(
        "bar", "year", ("wheat.json",),
        label=lambda row: str(row["year"]), measures={"price of wheat (shillings)": "wheat"},
        group=lambda row: str(row["year"]), title=_always("Wheat in England"), merged=True,
    ),
    _Source(
        "line", "day", ("seattle-weather.csv",),
        label=_day, measures={"daily high": "temp_max", "daily low": "temp_min"},
        group=_week, title=lambda row: f"Temperature in Seattle, {row['date'][:4]} (°C)",
    ),
    _Source(
        "line", "hour", ("seattle-temps.csv", "sf-temps.csv"),
        label=_hour, measures={"Seattle": "temp", "San Francisco": "other"},
        group=lambda row: str(row["date"])[:10],
        title=lambda row: f"Normal temperature, {_day(row)} (°F)",
    ),
    _Source(
        "line", "month", ("stocks.csv",),
        label=lambda row: f"{row['date']:%b}",
        measures={name: name for name in ("MSFT", "AMZN", "IBM", "AAPL")},
        group=lambda row: str(row["date"].year),
        title=lambda row: f"Stock prices, {row['date'].year} (USD)",
    ),
    _Source(
        "scatter", "car", ("cars.json",),
        label=lambda row: str(row["Name"]), measures=_CAR,
        group=lambda row: str(row["Name"]), title=_always("Cars"), merged=True,
    ),
    _Source(
        "scatter", "airport", ("airports.csv",),
        label=lambda row: str(row["iata"]),
        measures={"longitude (°)": "longitude", "latitude (°)": "latitude"},
        group=lambda row: str(row["state"]), title=lambda row: f"Airports in {row['state']}",
    ),
    _Source(
        "scatter", "year", ("driving.json",),
        label=lambda row: str(row["year"]),
        measures={"mileage (miles per person)": "miles", "gas price (USD)": "gas"},
        group=lambda row: str(row["year"]), title=_always("Driving in the US"), merged=True,
    ),
)  # fmt: skip
