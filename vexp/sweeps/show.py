"""Plans and progress as text for a terminal, and as plain data for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vexp.launcher.base import SILENT, Worker
from vexp.records import plain
from vexp.runs.heartbeat import DEFAULT, duration, silence
from vexp.sweeps.disk import Need, total
from vexp.sweeps.plan import Plan
from vexp.sweeps.status import Failures, SweepProgress
from vexp.sweeps.worker import is_silent

if TYPE_CHECKING:  # those who want JSON need no rich
    from rich.console import Group
    from rich.text import Text

    from vexp.sweeps.search.plan import Searching

_COLOURS = {
    "done": "green", "pruned": "blue", "running": "cyan", "failed": "red", "damaged": "red",
    "stopped": "yellow", "new": "dim",
}  # fmt: skip


def counts_line(plan: Plan) -> str:
    """`6 declared: 2 done, 1 running, 3 new`."""
    runs = f"{len(plan.runs)} declared: {_listed(plan.counts())}"
    return f"{runs}; {trials_line(plan.search)}" if plan.search else runs


def trials_line(search: Searching) -> str:
    """`20 trials: 5 complete, 2 pruned, 4 live, 9 to be proposed`."""
    counts = search.counts()
    counts["to be proposed"] = counts.pop("open")
    return f"{search.study.search.total} trials: {_listed(counts)}"


def failed_trials(search: Searching | None, most: int = 10) -> list[str]:
    """Trials that failed although their runs did not, and records that are damaged."""
    from vexp.sweeps.search.trials import damaged_files

    if search is None:
        return []
    reasons = search.reasons()
    lines = [f"trial {number} failed: {why}" for number, why in [*reasons.items()][:most]]
    if len(reasons) > most:
        lines.append(f"… and {len(reasons) - most} trials more failed; --json has them all")
    return [*lines, *map(str, damaged_files(search.study))]


def evaluations_line(plan: Plan) -> str:
    """The same for evaluation units."""
    counts = plan.evaluation_counts()
    return f"{sum(counts.values())} declared: {_listed(counts)}"


def progress_table(plan: Plan, rows: Sequence[SweepProgress], hint: str = "") -> Group:
    """One line per run of `rows`: state, step, reward, accuracy, time left.

    How many of the plan's runs are not among them is said below, with `hint`.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading, justify in (
        ("run", "left"), ("state", "left"), ("stage", "left"), ("step", "right"),
        ("reward", "right"), ("accuracy", "right"), ("time left", "right"), ("note", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        state = Text(row.run.state, style=_COLOURS[row.run.state])
        table.add_row(Text(row.run.training.label), state, *map(Text, _cells(row)))
    title = Text(f"{plan.sweep.name}: {counts_line(plan)}")
    left = len(plan.runs) - len(rows)
    more = [Text(f"… {left:,} more{hint}")] if left else []
    return Group(title, table, *more)


def failures_text(groups: Sequence[Failures]) -> Text:
    """Each group of failures with the end of one traceback and the way to its log."""
    from rich.text import Text

    text = Text()
    for group in groups:
        text.append(f"{_counted(group)} failed ({group.kind}): {group.signature}\n", style="red")
        text.append(f"  {', '.join(group.runs)}\n")
        for line in group.traceback:
            text.append(f"  | {line}\n", style="dim")
        text.append(f"  log: {group.log}\n")
    return text


def _counted(group: Failures) -> str:
    noun = "evaluation" if all(run.startswith("evaluation ") for run in group.runs) else "run"
    return f"{len(group.runs)} {noun}{'s' * (len(group.runs) > 1)}"


def held_text(plan: Plan, told: str) -> str:
    """Why nothing more starts, and what to do; empty if nothing is held. `told` as in the cli."""
    if plan.held is None:
        return ""
    rest = sum(run.state in ("new", "stopped") for run in plan.runs)
    failed = plan.counts()["failed"]
    return (
        f"held: the first {failed} runs all failed with {plan.held!r}; {rest} more are held back\n"
        f"  mend it and use `{told.format('retry')}`, or `{told.format('launch')} --release`\n"
    )


def silent_lines(plan: Plan) -> list[str]:
    """Runs whose owner looks silent: a stale claim, a machine that hangs, or clocks that differ."""
    return [
        f"{run.training.label} is claimed by {run.status.owner}, {silence(run.status.silent_s)}: "
        f"the next launch watches it, and takes it over when no heartbeat comes for "
        f"{duration(run.status.owner.expiry_s or DEFAULT.expiry_s)}"
        for run in plan.runs
        if run.status is not None and run.status.owner is not None
        and run.state == "running" and is_silent(run.status)
    ]  # fmt: skip


def lost_lines(rows: Sequence[SweepProgress]) -> list[str]:
    """How runs were lost that go on by themselves, each with the way to its log if there is one."""
    return [f"{row.run.training.label}: {row.lost}" for row in rows if row.lost]


def progress_data(row: SweepProgress) -> dict[str, Any]:
    """One run for `--json`."""
    status = row.run.status
    first = row.run.training.points[0]
    return {
        "run": row.run.name,
        "row": first.row.name,
        "axes": dict(first.axes),
        "seeds": [point.seed for point in row.run.training.points],
        "state": row.run.state,
        "attempts": status.attempts if status else 0,
        "stage": row.stage or None,
        "step": row.step,
        "total": row.total,
        "metrics": dict(row.metrics),
        "left_s": row.left_s,
        "evaluations": {name: unit.state for name, unit in row.run.units.declared.items()},
        "failure": plain(status.failure) if status and status.failure else None,
        "problem": str(status.problem) if status and status.problem else None,
        "mixed": row.mixed or None,
        "remark": row.remark or None,
        "lost": row.lost or None,
    }


def disk_lines(found: Sequence[Need]) -> list[str]:
    """What the missing runs need on the disk, by backbone, and how that is known."""
    lines = []
    for need in found:
        runs = f"{need.runs} run{'s' * (need.runs > 1)} of {need.backbone}"
        each = "" if need.bytes_each is None else f", {size(need.bytes_each)} each"
        about = "" if need.total is None else f"about {size(need.total)} for "
        lines.append(f"{about}{runs}{each} ({need.basis})")
    return lines


def plan_data(plan: Plan, disk: Sequence[Need]) -> dict[str, Any]:
    """A plan for `--json`."""
    return {
        "sweep": plan.sweep.name,
        "file": str(plan.sweep.path),
        "points": len(plan.points),
        "trainings": {"declared": len(plan.runs), **plan.counts(), "orphaned": len(plan.orphans)},
        "trials": plan.search.counts() if plan.search else None,
        "evaluations": evaluations_data(plan),
        "held": plan.held,
        "damaged": {name: str(problem) for name, problem in plan.damage().items()},
        "shared_with": plan.shared_with(),
        "bytes_needed": total(disk),
        "disk": [asdict(need) for need in disk],
        "collapsed": list(plan.collapsed),
        "notes": list(plan.notes()),
        "unknown": [str(problem) for problem in plan.unknown()],
        "orphans": [{"run": name, "state": state} for name, state in plan.orphans],
        "runs": [
            {
                "run": run.name,
                "state": run.state,
                "evaluations": {name: unit.state for name, unit in run.units.declared.items()},
                "points": [
                    {"row": p.row.name, "axes": dict(p.axes), "seed": p.seed,
                     "overrides": list(p.overrides)}
                    for p in run.training.points
                ],
            }
            for run in plan.runs
        ],
    }  # fmt: skip


def evaluations_data(plan: Plan) -> dict[str, int]:
    """Evaluation units by state, for `--json`."""
    counts = plan.evaluation_counts()
    orphaned = plan.orphaned_evaluations
    return {"declared": sum(counts.values()), **counts, "orphaned": orphaned}


def failure_data(group: Failures) -> dict[str, Any]:
    """A group of failures for `--json`."""
    return {
        "signature": group.signature,
        "kind": group.kind,
        "message": group.message,
        "runs": list(group.runs),
        "traceback": list(group.traceback),
        "log": str(group.log),
    }


def workers_lines(workers: Sequence[Worker], labels: Mapping[str, str]) -> list[str]:
    """Who works at what, and which jobs wait for what."""
    silent = [worker for worker in workers if worker.state == SILENT]
    lines = [
        f"worker {worker.name} ({worker.reason}): another takes its place at the next launch, when "
        f"no heartbeat comes for {duration(DEFAULT.expiry_s)}"
        for worker in silent
    ]
    workers = [worker for worker in workers if worker not in silent]
    busy = [worker for worker in workers if worker.node or not worker.reason]
    for worker in busy:
        if worker.run is not None:
            node = f" on {worker.node}" if worker.node else ""
            label = labels.get(worker.run, worker.run)
            lines.append(f"job {worker.name} {worker.state}{node}: {label}, log {worker.log}")
    if len(lines) - len(silent) < len(busy):
        lines.append(f"{len(busy)} at work; logs in {busy[0].log.parent}")
    reasons = Counter(worker.reason for worker in workers if worker not in busy)
    for reason, count in reasons.most_common():
        names = [w.name for w in workers if w not in busy and w.reason == reason]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        lines.append(f"{count} queued ({reason}): {shown}")
    return lines


def worker_data(worker: Worker) -> dict[str, Any]:
    """One worker for `--json`."""
    return {
        "id": worker.name,
        "run": worker.run,
        "state": worker.state,
        "node": worker.node or None,
        "reason": worker.reason or None,
        "log": str(worker.log),
    }


def size(count: int) -> str:
    """Bytes for people: `3.4 MB`."""
    scaled = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 1000:
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1000
    return f"{scaled:.1f} TB"


def _cells(row: SweepProgress) -> list[str]:
    running = row.run.state not in ("done", "pruned")
    step = "" if row.step is None or not running else f"{row.step}/{row.total or '?'}"
    return [
        row.stage if running else "",
        step,
        _number(row.metrics.get("reward")),
        _number(row.accuracy),
        "" if row.left_s is None else duration(row.left_s),
        row.remark,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
