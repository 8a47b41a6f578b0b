"""What a method costs beside plain DAPO: whole training steps, in turn, as a user would run them.

Every side is `vexp.train.stages.train` in a process of its own (the same code as `step_vs_trl`). An
image has 256 tokens, a response 256; `x` is a method's time over DAPO's, the median of the ratios
within each turn. What counts is the step without generation, at four updates per batch: at one
update plain DAPO needs no experience pass at all, so that a method that reads signals pays for it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.worker import Step, Worker, alternate
from benchmarks.workload import Workload

DAPO = "DAPO"
# Each method on the same algorithm; EASE with its gate open, so that all its rows are paid for.
METHODS: dict[str, tuple[str, ...]] = {
    DAPO: (),
    "VGPO": ("credit=vgpo",),
    "SAYO": ("+reward.terms.attention={name: attention, weight: 0.1}",),
    "EASE": ("+auxiliary.ease={name: ease, gate: always}",),
    "VICRA": ("credit=vicra",),
    "DAPO, eager": ("compute.attention=eager",),
}
BARS = {"VGPO": 1.03, "SAYO": 1.05, "EASE": 1.05, "VICRA": 1.12}  # at the most updates


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    length: int = 256
    image_size: int = 448  # 16 x 16 image tokens
    prompts: int = 8
    group_size: int = 4
    micro_batch: int = 16
    threads: int = 2
    timed: int = 12
    warm: int = 2
    updates: tuple[int, ...] = (1, 4)

    def workload(self, updates: int, extra: tuple[str, ...]) -> Workload:
        """A step of one method."""
        return Workload(
            length=self.length,
            steps=self.warm + self.timed + 1,
            prompts=self.prompts,
            group_size=self.group_size,
            micro_batch=self.micro_batch,
            threads=self.threads,
            extra=(
                "algorithm=dapo",
                f"mix.datasets.main.image_size={self.image_size}",
                f"rl.prompts_per_update={self.prompts // updates}",
                *extra,
            ),
        )


QUICK = Plan(length=6, image_size=56, prompts=4, group_size=2, timed=1, warm=1, threads=1)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything, as the JSON object that is printed."""
    found = {str(updates): measure_updates(plan, updates) for updates in plan.updates}
    last = found[str(plan.updates[-1])]
    ratios = {name: last[name]["without_generation"] for name in BARS}
    return {
        "ratios": ratios,
        "bars": BARS,
        "ok": all(ratios[name] <= bar for name, bar in BARS.items()),
        "updates": found,
        "settings": asdict(plan) | {"machine": describe()},
    }


def measure_updates(plan: Plan, updates: int) -> dict[str, Any]:
    """All methods at one number of updates per batch."""
    with ExitStack() as stack:
        workers = []
        for name, extra in METHODS.items():
            settings = asdict(plan.workload(updates, extra))
            worker = Worker(name, "benchmarks.vexp_side", settings, plan.threads)
            workers.append(stack.enter_context(worker))
        steps = alternate(workers, warm=plan.warm, timed=plan.timed)
        memory = {worker.name: round(worker.peak_memory_mb) for worker in workers}
    return {
        name: {
            "whole": over(taken, steps[DAPO], whole),
            "without_generation": over(taken, steps[DAPO], without_generation),
            "seconds": statistics.median(map(whole, taken)),
            "seconds_without_generation": statistics.median(map(without_generation, taken)),
            "peak_memory_mb": memory[name],
        }
        for name, taken in steps.items()
    }


def whole(step: Step) -> float:
    """Seconds of the step."""
    return step.seconds


def without_generation(step: Step) -> float:
    """Seconds of scoring, the experience pass and the updates."""
    return step.seconds - step.phases["generate"]


def over(these: list[Step], those: list[Step], seconds: Callable[[Step], float]) -> float:
    """Median over turns of the time of `these` over that of `those`."""
    return statistics.median(seconds(a) / seconds(b) for a, b in zip(these, those, strict=True))


def as_text(found: dict[str, Any]) -> str:
    """One line per method and number of updates."""
    lines = [f"{key}: {value}" for key, value in found["settings"].items()]
    head = f"{'updates':>7}  {'':12}{'step':>9}{'x':>7}{'no gen.':>10}{'x':>7}{'memory':>10}"
    lines += ["", head]
    for updates, methods in found["updates"].items():
        for name, one in methods.items():
            lines.append(
                f"{updates:>7}  {name:12}{one['seconds']:>9.3f}{one['whole']:>7.3f}"
                f"{one['seconds_without_generation']:>10.3f}{one['without_generation']:>7.3f}"
                f"{one['peak_memory_mb']:>7} MB"
            )
    bars = ", ".join(f"{name} {found['ratios'][name]:.3f} (<= {bar})" for name, bar in BARS.items())
    return "\n".join([*lines, "", f"{bars}: {'reached' if found['ok'] else 'missed'}"])


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="A few tiny steps, to see that it works.")
@click.option("--steps", default=Plan.timed, show_default=True, help="Timed steps of each side.")
@click.option("--threads", default=2, show_default=True, help="CPU threads of each side.")
def main(as_object: bool, quick: bool, steps: int, threads: int) -> None:
    """Measure and print; exit 1 above a bar (never with --quick)."""
    found = measure(QUICK if quick else Plan(timed=steps, threads=threads))
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
