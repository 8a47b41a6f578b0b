"""What generating while updating saves: a step's time with rl.staleness=1 over that with 0.

The same tiny training twice, each with a vLLM in a process of its own, one thread for the trainer
and one for vLLM; steps are made in turn, one side at a time. Needs vLLM.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.worker import Step, Worker, alternate
from benchmarks.workload import Workload

STALENESS = ("0", "1")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    length: int = 64
    timed: int = 9
    warm: int = 2
    prompts: int = 8
    group_size: int = 8

    def workload(self, staleness: str) -> Workload:
        engine = ("engine=vllm", "engine.separate=true", "engine.max_length=1024")
        return Workload(
            length=self.length,
            steps=self.warm + self.timed + 2,
            prompts=self.prompts,
            group_size=self.group_size,
            threads=1,
            extra=(*engine, "engine.cache_gb=0.3", f"rl.staleness={staleness}"),
        )


QUICK = Plan(length=8, timed=1, warm=1, prompts=2, group_size=4)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything, as the JSON object that is printed."""
    with ExitStack() as stack:
        workers = [
            Worker(f"staleness {one}", "benchmarks.vexp_side", asdict(plan.workload(one)), 1)
            for one in STALENESS
        ]
        for worker in workers:
            stack.enter_context(worker)
        steps = alternate(workers, warm=plan.warm, timed=plan.timed)
    at_once, late = (steps[worker.name] for worker in workers)
    ratios = [one.seconds / other.seconds for one, other in zip(late, at_once, strict=True)]
    return {
        "settings": asdict(plan) | {"threads": "1 and 1", "machine": describe()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "sides": {name: _summary(taken) for name, taken in steps.items()},
    }


def _summary(taken: list[Step]) -> dict[str, Any]:
    phases = {name for step in taken for name in step.phases}
    return {
        "seconds": [round(step.seconds, 4) for step in taken],
        "trainer_cpu_s": statistics.median(step.cpu_seconds for step in taken),
        "phases_s": {
            name: statistics.median(step.phases.get(name, 0.0) for step in taken)
            for name in sorted(phases)
        },
        "tokens": statistics.median(step.facts["tokens"] for step in taken),
    }


def as_text(found: Mapping[str, Any]) -> str:
    """The ratio, and where the time of each side goes."""
    low, high = found["ratio_range"]
    lines = [
        f"a step one update late takes {found['ratio']:.2f} times as long ({low:.2f}-{high:.2f})"
    ]
    for name, side in found["sides"].items():
        spent = ", ".join(f"{phase} {time:.3f} s" for phase, time in side["phases_s"].items())
        middle = statistics.median(side["seconds"])
        lines.append(f"{name}: {middle:.3f} s; {spent}; {side['tokens']:.0f} tokens")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="See that it works.")
def main(as_object: bool, quick: bool) -> None:
    """Measure both."""
    found = measure(QUICK if quick else Plan())
    click.echo(json.dumps(found) if as_object else as_text(found))


if __name__ == "__main__":
    main()
