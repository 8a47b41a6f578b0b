"""How long a GRPO step takes, beside TRL's: the same twin, prompts, rewards and settings.

Each side is a process that runs its own training loop and is held between steps; they step in turn.
The ratio is TRL's time over ours, the median of the ratios within each turn; the one quoted is the
worst over response lengths, and over TRL as ours is set and TRL at the best of its own settings.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.differences import Difference
from benchmarks.machine import describe
from benchmarks.quiet import quiet
from benchmarks.trl_side import TrlSettings
from benchmarks.worker import Step, Worker, WorkerError, alternate
from benchmarks.workload import Workload, prepare

TARGET = 1.5
VEXP, SAME, BEST = "vexp", "TRL, same settings", "TRL, best settings"

# TRL's own choices that may make it faster; each is tried alone, then all that helped together.
CANDIDATES: dict[str, dict[str, Any]] = {
    "micro-batch 16": {"micro_batch": 16},
    "micro-batch 32": {"micro_batch": 32},
    "micro-batch 128": {"micro_batch": 128},
    "static cache": {"cache": "static"},
    "eager attention": {"attention": "eager"},
    "torch.compile": {"compiled": True},
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    lengths: tuple[int, ...] = (12, 64, 256)
    timed: int = 20
    warm: int = 3
    probes: int = 1  # timed steps per candidate
    candidates: tuple[str, ...] = tuple(CANDIDATES)
    prompts: int = 16
    group_size: int = 8
    micro_batch: int = 64
    threads: int = 2

    def workload(self, length: int) -> Workload:
        """The step of this length, with prompts enough for every worker."""
        return Workload(
            length=length,
            steps=self.warm + max(self.timed, self.probes) + 1,
            prompts=self.prompts,
            group_size=self.group_size,
            micro_batch=self.micro_batch,
            threads=self.threads,
        )


QUICK = Plan(
    lengths=(6,),
    timed=2,
    warm=1,
    probes=1,
    candidates=("static cache",),
    prompts=2,
    group_size=4,
    micro_batch=4,
    threads=1,
)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything, as the JSON object that is printed."""
    lengths = {str(length): measure_length(plan, length) for length in plan.lengths}
    ratios = {
        f"{length} tokens, {name}": side["ratio"]
        for length, found in lengths.items()
        for name, side in found["sides"].items()
        if name != VEXP
    }
    worst = min(ratios.values())
    return {
        "ratio": worst,
        "ratios": ratios,
        "target": TARGET,
        "ok": worst >= TARGET,
        "lengths": lengths,
        "differences": [asdict(one) | {"loss": one.loss, "ok": one.ok} for one in on_one_batch()],
        "settings": asdict(plan) | common_settings(plan) | {"machine": describe()},
    }


def common_settings(plan: Plan) -> dict[str, Any]:
    """What holds on both sides besides the plan."""
    workload = plan.workload(plan.lengths[0])
    return {
        "precision": "float32",
        "device": "cpu",
        "gradient_checkpointing": False,
        "beta": 0.0,
        "updates_per_step": 1,
        "optimizer": "fused AdamW, betas 0.9 and 0.999, no weight decay, gradient norm 1",
        "learning_rate": workload.learning_rate,
        "end_of_sequence": "never sampled",
        "logging": "off",
        "saving": "off",
        "overrides": [o for o in workload.overrides() if not o.startswith("plugins")],
    }


def measure_length(plan: Plan, length: int) -> dict[str, Any]:
    """Find TRL's best setting at this length, then let the sides step in turn."""
    workload = plan.workload(length)
    with tempfile.TemporaryDirectory() as name:
        same = trl_settings(workload, Path(name), prepare(workload, Path(name)))
        tried, best = best_of(plan, same)
        settings = {SAME: same} | ({BEST: best} if best != same else {})
        with ExitStack() as stack:
            workers = [Worker(VEXP, "benchmarks.vexp_side", asdict(workload), plan.threads)]
            workers += [trl_worker(label, chosen) for label, chosen in settings.items()]
            for worker in workers:
                stack.enter_context(worker)
            steps = alternate(workers, warm=plan.warm, timed=plan.timed)
            memory = {worker.name: worker.peak_memory_mb for worker in workers}
    expected = {length * workload.prompts * workload.group_size}
    if {step.facts["tokens"] for side in steps.values() for step in side} != expected:
        raise RuntimeError("the sides did not generate equally many tokens")
    sides = {side: summary(taken, steps[VEXP], memory[side]) for side, taken in steps.items()}
    return {"sides": sides, "trl_best": own_choices(best), "trl_tried": tried}


def trl_settings(workload: Workload, folder: Path, suppress: list[int]) -> TrlSettings:
    """TRL on this workload, set as ours is."""
    return TrlSettings(
        folder=str(folder),
        length=workload.length,
        steps=workload.steps,
        prompts=workload.prompts,
        group_size=workload.group_size,
        threads=workload.threads,
        learning_rate=workload.learning_rate,
        suppress=suppress,
        micro_batch=workload.micro_batch,
    )


def own_choices(settings: TrlSettings) -> dict[str, Any]:
    """TRL's settings that are not part of the workload."""
    names = {name for candidate in CANDIDATES.values() for name in candidate}
    return {name: getattr(settings, name) for name in sorted(names)}


def trl_worker(name: str, settings: TrlSettings) -> Worker:
    """A process of TRL's."""
    return Worker(name, "benchmarks.trl_side", asdict(settings), settings.threads)


def best_of(plan: Plan, same: TrlSettings) -> tuple[dict[str, Any], TrlSettings]:
    """Seconds of a step with each candidate, and the fastest setting.

    Each candidate steps in turn with the plain setting, so that a busy machine slows both; what
    counts is the ratio. None stands for a candidate that does not run here.
    """
    ratios: dict[str, float | None] = {}
    batch = same.prompts * same.group_size
    for label in plan.candidates:
        changes = CANDIDATES[label]
        if changes.get("micro_batch", same.micro_batch) <= batch:
            ratios[label] = probe(plan, same, replace(same, **changes))
    helped = sorted((r, label) for label, r in ratios.items() if r is not None and r < 1)
    together: dict[str, Any] = {}
    for _, label in helped:
        together = CANDIDATES[label] | together  # the faster of two micro-batches stays
    best = replace(same, **CANDIDATES[helped[0][1]]) if helped else same
    if len(together) > 1:
        ratios["all that helped"] = ratio = probe(plan, same, replace(same, **together))
        if ratio is not None and ratio < helped[0][0]:
            best = replace(same, **together)
    return ratios, best


def probe(plan: Plan, same: TrlSettings, changed: TrlSettings) -> float | None:
    """Time of a step with a changed setting, relative to the plain one; None if it fails."""
    click.echo(f"{same.length} tokens: trying {own_choices(changed)}", err=True)
    try:
        with trl_worker(SAME, same) as plain, trl_worker(BEST, changed) as other:
            steps = alternate([plain, other], warm=1, timed=plan.probes)
    except WorkerError as error:
        click.echo(f"  does not run: {error}", err=True)
        return None
    return paired(steps[BEST], steps[SAME])


def paired(these: list[Step], those: list[Step], field: str = "seconds") -> float:
    """Median over turns of the time of `these` over that of `those`."""
    ratios: list[float] = [
        getattr(a, field) / getattr(b, field) for a, b in zip(these, those, strict=True)
    ]
    return statistics.median(ratios)


def summary(taken: list[Step], ours: list[Step], memory: float) -> dict[str, Any]:
    """One side: medians in seconds, phases, and the time over ours within each turn."""
    ratios = [a.seconds / b.seconds for a, b in zip(taken, ours, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "ratio_cpu": paired(taken, ours, "cpu_seconds"),
        "median_s": statistics.median(step.seconds for step in taken),
        "phases_s": {
            phase: statistics.median(step.phases[phase] for step in taken)
            for phase in ("generate", "score", "update")
        },
        "peak_memory_mb": round(memory),
        "seconds": [round(step.seconds, 4) for step in taken],
    }


def on_one_batch() -> list[Difference]:
    """Both sides' losses and gradients on one batch of responses."""
    from benchmarks import same_responses

    workload = Workload(length=64, steps=1, prompts=4, micro_batch=32)
    with quiet(), tempfile.TemporaryDirectory() as name:
        suppress = prepare(workload, Path(name))
        return list(same_responses.compare(Path(name), suppress, workload))


def as_text(found: Mapping[str, Any]) -> str:
    """Settings, one line per side and length, the differences, and the ratio."""
    lines = [f"{key}: {value}" for key, value in found["settings"].items()]
    head = f"{'tokens':>6}  {'':22}{'step':>9}{'generate':>10}{'score':>8}{'update':>9}"
    lines += ["", f"{head}{'memory':>10}   over ours (quartiles; CPU time)"]
    for length, one in found["lengths"].items():
        for name, side in one["sides"].items():
            times = "".join(
                f"{side['phases_s'][phase]:>{width}.3f}"
                for phase, width in (("generate", 10), ("score", 8), ("update", 9))
            )
            low, high = side["ratio_quartiles"]
            ratio = f"{side['ratio']:.2f} ({low:.2f}-{high:.2f}; {side['ratio_cpu']:.2f})"
            lines.append(
                f"{length:>6}  {name:22}{side['median_s']:>9.3f}{times}"
                f"{side['peak_memory_mb']:>7} MB   {'' if name == VEXP else ratio}"
            )
        tried = ", ".join(
            f"{label} {'does not run' if r is None else format(r, '.2f')}"
            for label, r in one["trl_tried"].items()
        )
        lines.append(f"        TRL's time with (without: 1): {tried}")
    lines += ["", "on one batch of responses, each side in its own way:"]
    for row in found["differences"]:
        numbers = f"loss {row['loss']:.1e}, gradient {row['gradient']:.1e}"
        lines.append(f"  {row['name']}: {numbers}, log-probs {row['logprobs']:.1e} apart")
    verdict = "reached" if found["ok"] else "missed"
    lines += ["", f"ratio {found['ratio']:.2f} (worst); {found['target']:g} is {verdict}"]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="A few tiny steps, to see that it works.")
@click.option("--lengths", default="12,64,256", show_default=True, help="Response tokens.")
@click.option("--steps", default=20, show_default=True, help="Timed steps of each side.")
@click.option("--threads", default=2, show_default=True, help="CPU threads of each side.")
def main(as_object: bool, quick: bool, lengths: str, steps: int, threads: int) -> None:
    """Measure and print; exit 1 below the target (never with --quick)."""
    chosen = tuple(int(length) for length in lengths.split(","))
    plan = QUICK if quick else Plan(lengths=chosen, timed=steps, threads=threads)
    found = measure(plan)
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
