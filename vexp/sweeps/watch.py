"""Showing a sweep while its workers are at it. Watching may end at any time: the runs go on.

It decides nothing, unless it is given what takes over from the dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from vexp.launcher.base import Launcher
from vexp.sweeps.plan import Plan, Planned, refreshed
from vexp.sweeps.show import counts_line, progress_table
from vexp.sweeps.status import SweepProgress, foremost, progress
from vexp.sweeps.takeover import Takeover

# So long may nobody be at a sweep that has work left, before watching gives up: a worker needs a
# moment to start.
_GRACE_S = 15.0


def watch(
    plan: Plan,
    launcher: Launcher,
    console: Console,
    *,
    interval_s: float = 1.0,
    takeover: Takeover | None = None,
) -> Plan:
    """Show progress until nothing is left to do or nobody is left to do it; the last plan.

    On a terminal a table is redrawn; elsewhere each change of a state is one line.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        lines = _Lines(console)
        return _follow(plan, launcher, lines.show, interval_s, takeover)
    with Live(console=console, auto_refresh=False) as live:

        def draw(now: Plan) -> None:
            shown = foremost(now.runs, console.height - 6)
            live.update(progress_table(now, progress(now, shown)), refresh=True)

        return _follow(plan, launcher, draw, interval_s, takeover)


def settled(plan: Plan) -> bool:
    """Whether workers have nothing left to do: all is done or has failed, or the rest is held."""
    retries = plan.state.retries()
    if plan.held is not None:
        return not any(run.state == "running" for run in plan.runs)
    if plan.search and plan.search.open:
        return False
    return all(_settled(run, retries.get(run.name, 0)) for run in plan.runs)


def _settled(run: Planned, retry_until: int) -> bool:
    if run.state == "failed" and run.status is not None:
        return run.status.attempts > retry_until
    if run.state == "damaged" and run.status is not None:
        return not run.status.mends
    states = {unit.state for unit in run.units.declared.values()}
    return run.complete or (run.state == "done" and states <= {"done", "failed", "damaged"})


def _follow(
    plan: Plan,
    launcher: Launcher,
    show: Callable[[Plan], None],
    interval_s: float,
    takeover: Takeover | None,
) -> Plan:
    idle_since: float | None = None
    while True:
        plan = refreshed(plan)
        show(plan)
        if settled(plan):
            return plan
        workers = launcher.alive(plan.state.folder)
        taken_over = takeover is not None and takeover.look(plan, workers)
        if taken_over or workers or any(run.state == "running" for run in plan.runs):
            idle_since = None
        elif idle_since is None:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > _GRACE_S:
            return plan
        time.sleep(interval_s)


class _Lines:
    """Changes of states, one line each, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def show(self, plan: Plan) -> None:
        changed = [run for run in plan.runs if self._shown.get(run.name, "new") != run.state]
        self._shown.update({run.name: run.state for run in plan.runs})
        for row in progress(plan, (run for run in changed if run.state != "new")):
            self._console.print(_line(row, plan), markup=False, highlight=False, soft_wrap=True)


def _line(row: SweepProgress, plan: Plan) -> str:
    values = {"reward": row.metrics.get("reward"), "accuracy": row.accuracy}
    numbers = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
    if row.run.state != "done":
        numbers = []
    told = ", ".join([row.run.state, *numbers, *([row.remark] if row.remark else [])])
    return f"{row.run.training.label}: {told}   ({counts_line(plan)})"
