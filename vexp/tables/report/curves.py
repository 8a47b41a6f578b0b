"""Learning curves: every metric logged while training, over the steps of RL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from vexp.errors import Damaged
from vexp.files import read_lines
from vexp.runs.claim import attempt_folder
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import METRICS
from vexp.tables.report.charts import BAND, Chart, Section, Values, series, slug, without
from vexp.tables.report.lines import Line

POINTS = 60  # of a curve; more steps than that are averaged
# metric -> title and unit, in the order of the page
MAIN = {
    "reward": ("Reward", "mean reward"),
    "accuracy": ("Accuracy of the sampled responses", "share"),
    "response_length": ("Response length", "tokens"),
    "entropy": ("Entropy", "nats per token"),
    "entropy/grounded": ("Entropy of grounded tokens", "nats per token"),
    "entropy/other": ("Entropy of all other tokens", "nats per token"),
}
# What to do where no run has logged it.
REMEDIES = {
    "entropy": "set rl.log_entropy=true",
    "entropy/grounded": "set rl.log_entropy=true with a component that distorts the image, "
    "such as credit=vicra",
    "entropy/other": "as for grounded tokens",
}

Logged = dict[str, dict[int, float]]  # metric -> step -> value


class _Run(NamedTuple):
    metrics: Logged
    problem: str


def curves(lines: Sequence[Line], store: RunStore) -> Section:
    """The curves of the published attempts; what is damaged is named and ends its curve there."""
    runs = [list(_runs(line, store)) for line in lines]
    metrics = list(dict.fromkeys(name for line in runs for run in line for name in run.metrics))
    labels = [line.label for line in lines]
    steps = [step for line in runs for run in line for m in run.metrics.values() for step in m]
    width = max(1, math.ceil(max(steps, default=1) / POINTS))
    others = [name for name in metrics if name not in MAIN]
    missing = [
        f"“{title}” was not logged" + (f": {REMEDIES[name]}" if name in REMEDIES else "")
        for name, (title, _) in MAIN.items()
        if name not in metrics
    ]
    return Section(
        charts=tuple(_chart(name, runs, labels, width) for name in MAIN if name in metrics),
        more=tuple(_chart(name, runs, labels, width) for name in sorted(others)),
        missing=tuple(missing) if metrics else ("no finished run has trained with RL",),
        problems=tuple(run.problem for line in runs for run in line if run.problem),
    )


def _chart(name: str, runs: Sequence[Sequence[_Run]], labels: Sequence[str], width: int) -> Chart:
    title, unit = MAIN.get(name, (name, name))
    found = [series(n, _binned([run.metrics.get(name, {}) for run in r], width)) for n, r in
             enumerate(runs)]  # fmt: skip
    there = tuple(each for each in found if each is not None)
    each_point = f"; a point is the mean of {width} steps" if width > 1 else ""
    notes = (BAND + each_point, *without(there, labels, "not logged by"))
    return Chart(f"curve-{slug(name)}", title, "step of RL", unit, there, notes=notes)


def _binned(seeds: Sequence[Mapping[int, float]], width: int) -> Values:
    """The mean of each seed over portions of `width` steps, at the portion's middle."""
    found: dict[float, list[float]] = {}
    for values in seeds:
        bins: dict[int, list[float]] = {}
        for step, value in values.items():
            bins.setdefault((step - 1) // width, []).append(value)
        for number, members in bins.items():
            middle = number * width + (width + 1) / 2
            found.setdefault(middle, []).append(math.fsum(members) / len(members))
    return found


def _runs(line: Line, store: RunStore) -> Iterator[_Run]:
    for point in line.runs:
        folder = store.find(point.identity)
        try:
            attempt = folder.published() if folder is not None else None
        except Damaged:  # named with the run's results
            continue
        if folder is not None and attempt is not None:
            yield _read(folder, attempt)


def _read(folder: RunFolder, attempt: int) -> _Run:
    try:
        rows, damaged = read_lines(attempt_folder(folder.folder, attempt) / METRICS)
    except Damaged as error:
        return _Run({}, f"run {folder.name}: {error}")
    found: Logged = {}
    for row in rows:
        step = row.get("step")
        if type(step) is not int or step < 1:
            damaged = damaged or 1
            continue
        for name, value in row.items():
            if name != "step" and type(value) in (int, float) and math.isfinite(value):
                found.setdefault(name, {})[step] = float(value)
    problem = f"{METRICS} of run {folder.name} is damaged at line {damaged}" if damaged else ""
    return _Run(found, problem)
