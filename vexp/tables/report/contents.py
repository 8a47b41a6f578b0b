"""A sweep's report as data: what is there, what is missing, and what is damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from vexp.errors import VexpError
from vexp.runs.engine_switch import MIXED
from vexp.runs.store import RunStore
from vexp.sweeps.plan import Plan
from vexp.tables.cells import Measurements
from vexp.tables.collect import collect
from vexp.tables.frame import Frame, build_frame
from vexp.tables.latex import latex
from vexp.tables.render_text import sheet_of
from vexp.tables.rendered import Sheet
from vexp.tables.report.charts import Chart, Section
from vexp.tables.report.curves import curves
from vexp.tables.report.diagnostics import diagnostics
from vexp.tables.report.gallery import Gallery, gallery
from vexp.tables.report.lines import Line, lines_of
from vexp.tables.report.sensitivity import sensitivity

NO_TABLE = (
    "the sweep declares no table: add e.g.  table: {columns: [{metric: accuracy, scale: percent}]}"
)


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    name: str
    argument: str  # what a command takes to mean the sweep
    title: str
    description: str
    counts: Mapping[str, int]  # state -> runs
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    sheet: Sheet | None
    latex: str
    no_table: str  # why there is none
    curves: Section
    sensitivity: Section
    diagnostics: Section
    gallery: Gallery
    problems: tuple[str, ...]  # results that are damaged or do not count, by name

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Those that are shown without being asked for."""
        return (*self.curves.charts, *self.sensitivity.charts, *self.diagnostics.charts)


def report_of(plan: Plan) -> Report:
    """Read the results of a sweep's finished runs. What is damaged is named, not raised."""
    store = RunStore(plan.state.results_dir)
    lines = lines_of(plan.sweep, plan.points)
    columns = plan.sweep.table.columns if plan.sweep.table else ()
    results = collect(plan.runs, costs=any(column.cost for column in columns))
    lines = [_told(line, results) for line in lines]
    frame, why = _frame(plan, results)
    sheet = sheet_of(frame) if frame else None
    found_curves, found_gallery = curves(lines, store), gallery(lines, store)
    remarks = {remark: None for found in results.values() for remark in found.remarks}
    damage = {name: wrong for found in results.values() for name, wrong in found.damage.items()}
    problems = (f"{name}: {wrong}" for name, wrong in damage.items())
    named = [*problems, *found_curves.problems, *found_gallery.problems, *remarks]
    table = plan.sweep.table
    return Report(
        name=plan.sweep.name,
        argument=plan.sweep.argument,
        title=(table.title if table else "") or plan.sweep.name,
        description=plan.sweep.description,
        counts=plan.counts(),
        seeds=plan.sweep.seeds,
        lines=tuple(lines),
        sheet=sheet,
        latex=latex(sheet) if sheet else "",
        no_table=why,
        curves=found_curves,
        sensitivity=sensitivity(plan.sweep, frame, lines) if frame else Section(),
        diagnostics=diagnostics(lines, results),
        gallery=found_gallery,
        problems=tuple(dict.fromkeys(named)),
    )


def _told(line: Line, results: Mapping[str, Measurements]) -> Line:
    """The line, called mixed where one of its runs went on with another engine."""
    found = (results.get(point.identity.hash) for point in line.runs)
    mixed = any(measured and measured.mixed for measured in found)
    return dataclasses.replace(line, label=f"{line.label} ({MIXED})") if mixed else line


def _frame(plan: Plan, results: Mapping[str, Measurements]) -> tuple[Frame | None, str]:
    if plan.sweep.table is None:
        return None, NO_TABLE
    try:
        return build_frame(plan.sweep, plan.points, results), ""
    except VexpError as error:
        return None, str(error)
