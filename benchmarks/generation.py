"""Tokens per second of the engines `hf` and `vllm`, on the same prompts and weights.

Needs vLLM (`make setup-vllm`): `.venv-vllm/bin/python -m benchmarks.generation`. Both engines draw
the same tokens, so both do the same work. They take turns, and every turn begins with new weights,
as a training step does; giving them to vLLM is part of its time.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import click
import torch

from benchmarks.machine import describe
from vexp.config.compose import resolve
from vexp.engine.base import Engine, Sampling
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.train.collect import draw
from vexp.train.policy import Policy
from vexp.train.prompts import PromptBatch

ENGINES: dict[str, Engine] = {
    "hf": HF(),
    "vllm": VLLM(max_length=1024, cache_gb=0.5, max_sequences=256),
}


@dataclass(frozen=True)
class Took:
    """One call of an engine."""

    tokens: int
    seconds: float
    cpu_seconds: float  # less moved by what else the machine does


def call(engine: Engine, policy: Policy, prompts: PromptBatch, sampling: Sampling) -> Took:
    """A group of responses to every prompt, each of the full length."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = engine.generate(policy, prompts, prompts.item_ids, sampling)
    tokens = int(found.mask.sum())
    return Took(tokens, time.perf_counter() - wall, time.process_time() - cpu)


def measure(prompts: int, group: int, length: int, turns: int) -> dict[str, list[Took]]:
    """`turns` calls of each engine in turn, after one that nobody counts."""
    run = resolve(["compute.threads=1"])
    policy = run.backbone.load()
    batch = policy.encode(draw(run.mix, 0, prompts, seed=1), run.prompt)
    taken: dict[str, list[Took]] = {name: [] for name in ENGINES}
    for turn in range(turns + 1):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.0001)
        sampling = Sampling(
            group_size=group, max_response_length=length, step=turn, ignore_eos=True
        )
        names = list(ENGINES) if turn % 2 else list(ENGINES)[::-1]
        for name in names:
            took = call(ENGINES[name], policy, batch, sampling)
            if turn:
                taken[name].append(took)
    return taken


def summary(taken: dict[str, list[Took]]) -> dict[str, Any]:
    """Medians over the turns, and vLLM's share of the time of `hf` turn by turn."""
    found: dict[str, Any] = {
        name: {
            "tokens_per_s": statistics.median(t.tokens / t.seconds for t in calls),
            "tokens_per_cpu_s": statistics.median(t.tokens / t.cpu_seconds for t in calls),
        }
        for name, calls in taken.items()
    }
    pairs = zip(taken["hf"], taken["vllm"], strict=True)
    found["hf_over_vllm_s"] = statistics.median(hf.seconds / v.seconds for hf, v in pairs)
    return found


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--quick", is_flag=True, help="See that it works.")
def main(as_json: bool, quick: bool) -> None:
    """Measure short and long responses."""
    prompts, group, turns = (2, 2, 1) if quick else (16, 8, 5)
    machine = describe()
    found: dict[str, Any] = {"machine": machine, "prompts": prompts, "group_size": group}
    found["lengths"] = {
        length: summary(measure(prompts, group, length, turns))
        for length in ((8,) if quick else (24, 256))
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for length, one in found["lengths"].items():
        for name in ENGINES:
            speed, cpu = one[name]["tokens_per_s"], one[name]["tokens_per_cpu_s"]
            click.echo(f"{length:4} tokens  {name:5}{speed:10.0f} tokens/s {cpu:10.0f} per CPU s")


if __name__ == "__main__":
    main()
