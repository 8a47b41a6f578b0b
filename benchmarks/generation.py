"""Tokens per second of every way to generate: our engines, plain `generate`, and TRL's trainer.

The same tiny twin, prompts and response lengths, the end of the sequence never sampled. Each side
is a process that is held between its turns; they generate in turn, and every turn begins with new
weights. Of TRL, only the part of its step that generates is counted. What is not installed (vLLM,
TRL) is left out and named.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.engine_side import AT_ONCE, GROUPS, Settings
from benchmarks.machine import describe
from benchmarks.step_vs_trl import trl_settings, trl_worker
from benchmarks.worker import Step, Worker, alternate
from benchmarks.workload import Workload, prepare

TRL = "TRL"
NEEDS = {"vllm": "vllm", TRL: "trl"}  # side: the package it needs
SIDES = ("hf", GROUPS, AT_ONCE, "vllm", TRL)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    lengths: tuple[int, ...] = (24, 256)
    timed: int = 5
    warm: int = 1
    prompts: int = 16
    group_size: int = 8
    threads: int = 2

    def workload(self, length: int) -> Workload:
        return Workload(
            length=length,
            steps=self.warm + self.timed + 1,
            prompts=self.prompts,
            group_size=self.group_size,
            threads=self.threads,
        )


QUICK = Plan(lengths=(6,), timed=1, prompts=2, group_size=4, threads=1)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything, as the JSON object that is printed."""
    sides = [name for name in SIDES if importlib.util.find_spec(NEEDS.get(name, "vexp"))]
    return {
        "settings": asdict(plan) | {"precision": "float32", "machine": describe()},
        "left_out": {name: f"{NEEDS[name]} is not installed" for name in set(SIDES) - set(sides)},
        "lengths": {str(length): _measured(plan, length, sides) for length in plan.lengths},
    }


def _measured(plan: Plan, length: int, sides: list[str]) -> dict[str, Any]:
    workload = plan.workload(length)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        suppress = prepare(workload, Path(name))
        workers = [_worker(side, workload, Path(name), suppress) for side in sides]
        for worker in workers:
            stack.enter_context(worker)
        steps = alternate(workers, warm=plan.warm, timed=plan.timed)
        memory = {worker.name: round(worker.peak_memory_mb) for worker in workers}
    expected = {length * workload.prompts * workload.group_size}
    if {step.facts["tokens"] for side in steps.values() for step in side} != expected:
        raise RuntimeError("the sides did not generate equally many tokens")
    tokens = expected.pop()
    return {
        side: _summary(taken, steps["hf"], tokens, memory[side]) for side, taken in steps.items()
    }


def _worker(side: str, workload: Workload, folder: Path, suppress: list[int]) -> Worker:
    if side == TRL:
        return trl_worker(TRL, trl_settings(workload, folder, suppress))
    settings = Settings(
        way=side,
        folder=str(folder),
        suppress=suppress,
        length=workload.length,
        turns=workload.steps,
        prompts=workload.prompts,
        group_size=workload.group_size,
        threads=workload.threads,
    )
    return Worker(side, "benchmarks.engine_side", asdict(settings), workload.threads)


def _summary(taken: list[Step], hf: list[Step], tokens: int, memory: int) -> dict[str, Any]:
    """Medians, and the time over that of `hf` within each turn."""
    seconds = [step.phases["generate"] for step in taken]
    ratios = [own / step.phases["generate"] for own, step in zip(seconds, hf, strict=True)]
    return {
        "tokens_per_s": tokens / statistics.median(seconds),
        "over_hf": statistics.median(ratios),
        "over_hf_range": [min(ratios), max(ratios)],
        "peak_memory_mb": memory,
        "seconds": [round(one, 4) for one in seconds],
    }


def as_text(found: Mapping[str, Any]) -> str:
    """One line per side and length."""
    lines = [f"{name} is left out: {why}" for name, why in found["left_out"].items()]
    for length, one in found["lengths"].items():
        lines += [
            f"{length:>4} tokens  {name:32}{side['tokens_per_s']:8.0f} tokens/s  "
            f"{side['over_hf']:5.2f} times the time of hf "
            f"({side['over_hf_range'][0]:.2f}-{side['over_hf_range'][1]:.2f})"
            f"{side['peak_memory_mb']:>7} MB"
            for name, side in one.items()
        ]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="See that it works.")
def main(as_object: bool, quick: bool) -> None:
    """Measure short and long responses."""
    found = measure(QUICK if quick else Plan())
    click.echo(json.dumps(found) if as_object else as_text(found))


if __name__ == "__main__":
    main()
