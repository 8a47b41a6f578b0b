"""What both sides of the step benchmark are given: one twin, one list of prompts, one setting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

PLUGIN = Path(__file__).with_name("components.py")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One GRPO step: sample a group per prompt, score it, update once."""

    length: int  # response tokens; no response is shorter
    steps: int  # how many may be asked for
    prompts: int = 16
    group_size: int = 8
    micro_batch: int = 64  # responses per forward and backward pass
    threads: int = 2
    learning_rate: float = 1e-5
    seed: int = 1
    extra: tuple[str, ...] = ()  # overrides behind all others, for vexp's side only

    def overrides(self) -> list[str]:
        """The run as a user would write it."""
        return [
            f"plugins=['{PLUGIN}']",
            f"seed={self.seed}",
            "stages=[rl]",
            "engine=hf_full_length",
            "algorithm=grpo",
            "algorithm.kl_coef=0",
            "reward.terms={content: {name: content_score}}",
            f"rl.steps={self.steps}",
            f"rl.prompts_per_step={self.prompts}",
            f"rl.learning_rate={self.learning_rate}",
            "rl.ramp_steps=0",
            "rl.max_grad_norm=1.0",
            f"rollout.group_size={self.group_size}",
            f"rollout.max_response_length={self.length}",
            "rollout.temperature=1.0",
            f"compute={{device: cpu, precision: fp32, threads: {self.threads}}}",
            f"compute.micro_batch_size={self.micro_batch}",
            f"checkpoint.every={self.steps}",
            *self.extra,
        ]

    def run(self) -> RunSpec:
        """The resolved run."""
        from vexp.spec.resolve import resolve

        return resolve(self.overrides())


def prepare(workload: Workload, folder: Path) -> list[int]:
    """Write what TRL's side starts from: the twin's folder, and the prompts in the order of use.

    Returns the ids of the tokens that may never be sampled, the end of the sequence among them.
    """
    run = workload.run()
    policy = run.backbone.load()
    policy.save(folder / "model")
    (folder / "images").mkdir()
    rows = []
    for ordinal in range(workload.steps * workload.prompts):
        item = run.mix.draw(ordinal, seed=run.seed)
        if item.image is None:
            raise ValueError(f"item {item.id!r} has no image; the benchmark is about images")
        image = f"images/{ordinal}.png"
        item.image.save(folder / image)
        rows.append({"prompt": [{"role": "user", "content": item.question}], "image": image})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    banned: list[int] = policy.banned.nonzero().flatten().tolist()
    return sorted({*banned, policy.eos_id})
