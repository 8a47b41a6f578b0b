"""One way of generating, as a side of `benchmarks.generation`: held between its turns.

A turn begins with new weights, as a training step does, and ends with a group of responses to each
prompt; preparing prompts is part of it, and so is giving the weights to vLLM.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.trl_side import load_model, load_processor
from benchmarks.worker import Seat
from benchmarks.workload import Workload
from vexp.engine.base import Engine, Sampling
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM

Turn = Callable[[int], int]  # makes the responses of a turn; returns how many tokens they have

ENGINES: dict[str, Engine] = {
    "hf": HF(),
    "vllm": VLLM(max_length=1024, cache_gb=0.5, max_sequences=256),
}
GROUPS, AT_ONCE = "generate, each group by itself", "generate, all at once"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one side is asked to do."""

    way: str
    folder: str  # as `benchmarks.workload.prepare` writes it
    suppress: list[int]  # token ids that are never sampled, the end of the sequence among them
    length: int
    turns: int
    prompts: int
    group_size: int
    threads: int


def ours(settings: Settings) -> tuple[nn.Module, Turn]:
    """An engine of vexp."""
    workload = Workload(
        length=settings.length,
        steps=settings.turns,
        prompts=settings.prompts,
        group_size=settings.group_size,
        threads=settings.threads,
    )
    run = workload.run()
    policy = run.backbone.load()

    def turn(number: int) -> int:
        first = number * settings.prompts
        items = [run.mix.draw(first + i, seed=run.seed) for i in range(settings.prompts)]
        prompts = policy.encode(items, run.prompt)
        sampling = Sampling(
            group_size=settings.group_size,
            max_response_length=settings.length,
            step=number,
            ignore_eos=True,
        )
        ids = [item.id for item in items]
        return int(ENGINES[settings.way].generate(policy, prompts, ids, sampling).mask.sum())

    return policy, turn


def plain(settings: Settings) -> tuple[nn.Module, Turn]:
    """`generate` of transformers, for each group in turn or for all of them at once."""
    import PIL.Image

    folder = Path(settings.folder)
    model: Any = load_model(folder / "model", "sdpa")  # it comes ready to evaluate, without dropout
    processor: Any = load_processor(folder / "model")
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    size = 1 if settings.way == GROUPS else settings.prompts

    def batches(number: int) -> Iterator[Any]:
        mine = rows[number * settings.prompts : (number + 1) * settings.prompts]
        for first in range(0, len(mine), size):
            part = mine[first : first + size]
            asked = [
                [{"role": "user", "content": [
                    {"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]},
                ]}]
                for row in part
            ]  # fmt: skip
            texts = processor.apply_chat_template(asked, add_generation_prompt=True)
            images = [PIL.Image.open(folder / row["image"]) for row in part]
            yield processor(text=texts, images=images, padding=True, return_tensors="pt")

    @torch.no_grad()
    def turn(number: int) -> int:
        tokens = 0
        for inputs in batches(number):
            found: Any = model.generate(
                **inputs,
                do_sample=True,
                top_k=0,
                num_return_sequences=settings.group_size,
                max_new_tokens=settings.length,
                suppress_tokens=settings.suppress,
            )
            tokens += (found.shape[1] - inputs["input_ids"].shape[1]) * len(found)
        return tokens

    return model, turn


def main() -> None:
    """Serve turns until the parent closes the pipe."""
    seat = Seat()
    settings = Settings(**json.loads(sys.argv[1]))
    torch.set_num_threads(settings.threads)
    model, turn = (ours if settings.way in ENGINES else plain)(settings)
    number = 0
    while seat.wait():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0001)
        seat.report({"tokens": turn(number)}, rest="generate")
        number += 1
    if settings.way == "vllm":
        from vexp.engine import _vllm

        _vllm.close()


if __name__ == "__main__":
    main()
