"""TRL's side of the step benchmark: `GRPOTrainer.train()` itself, held between its steps.

A callback waits at the end of each optimiser step; nothing else of the trainer's loop is changed.
The timers around two of its methods only read the clock. Nothing of vexp is imported here.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reward import content_score
from benchmarks.worker import Seat

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from trl import GRPOTrainer


@dataclass(frozen=True, kw_only=True)
class TrlSettings:
    """What TRL is asked to do; the first block is the workload, the second TRL's own choices."""

    folder: str  # model/ and prompts.jsonl, as `benchmarks.workload.prepare` writes them
    length: int  # response tokens
    steps: int
    prompts: int
    group_size: int
    threads: int
    learning_rate: float
    suppress: list[int]  # token ids that are never sampled, the end of the sequence among them

    micro_batch: int
    cache: str | None = None  # cache_implementation of generate
    attention: str = "sdpa"
    compiled: bool = False  # torch_compile of the training forward pass
    options: dict[str, Any] = field(default_factory=lambda: {"loss_type": "grpo"})  # of GRPOConfig


def load_model(folder: Path, attention: str) -> Qwen2_5_VLForConditionalGeneration:
    """The twin, float32."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )


def load_processor(folder: Path) -> Qwen2_5_VLProcessor:
    """The twin's processor without its video half, which transformers has for torchvision only."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.processing_utils import ProcessorMixin

    class ImageProcessorOnly(Qwen2_5_VLProcessor):
        # The names of the parameters tell ProcessorMixin which parts a processor has.
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            parts: Any = ProcessorMixin
            parts.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return ImageProcessorOnly(images, tokenizer, tokenizer.chat_template)


def load_prompts(folder: Path) -> Dataset:
    """Conversations and images (PNG bytes, decoded when used), as TRL's documentation has them."""
    from datasets import Dataset, Features, Image, Value

    messages = [{"role": Value("string"), "content": Value("string")}]
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = {"bytes": (folder / row["image"]).read_bytes(), "path": None}
    return Dataset.from_list(rows, features=Features({"prompt": messages, "image": Image()}))


def rewards(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """The shared reward of TRL's conversational completions."""
    return [content_score(completion[0]["content"]) for completion in completions]


def make_trainer(settings: TrlSettings, output: str) -> GRPOTrainer:
    """A trainer for one update per generated batch; everything that is not the step is off."""
    import torch
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(settings.threads)
    batch = settings.prompts * settings.group_size
    config = GRPOConfig(
        output_dir=output,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=batch // settings.micro_batch,
        steps_per_generation=batch // settings.micro_batch,
        num_generations=settings.group_size,
        max_completion_length=settings.length,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        weight_decay=0.0,
        beta=0.0,
        use_bias_correction_kl=False,  # the plain k3 term of the GRPO paper, as ours
        temperature=1.0,
        cache_implementation=settings.cache,
        generation_kwargs={"suppress_tokens": settings.suppress},
        torch_compile=settings.compiled,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings.options,
    )
    folder = Path(settings.folder)
    return GRPOTrainer(
        model=load_model(folder / "model", settings.attention),
        reward_funcs=rewards,
        args=config,
        train_dataset=load_prompts(folder),
        processing_class=load_processor(folder / "model"),
    )


def hold_between_steps(trainer: GRPOTrainer, seat: Seat) -> None:
    """Make the trainer wait for the parent before each step, and report each step."""
    from transformers import TrainerCallback

    tokens: list[int] = []

    class Hold(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not seat.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seat.report({"tokens": tokens.pop()}, rest="update")
            control.should_training_stop = not seat.wait()

    def scored(started: float, output: Any) -> None:
        seat.spend("score", time.perf_counter() - started - seat.spent("generate"))
        tokens.append(int(output["completion_mask"].sum()))

    def generated(started: float, _output: Any) -> None:
        seat.spend("generate", time.perf_counter() - started)

    _timed(trainer, "_generate_and_score_completions", scored)
    _timed(trainer, "_generate_single_turn", generated)
    trainer.add_callback(Hold)


def _timed(trainer: GRPOTrainer, name: str, done: Callable[[float, Any], None]) -> None:
    """Call `done(start, result)` after each call of a method of this trainer."""
    method = getattr(trainer, name)

    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = method(*args, **kwargs)
        done(started, result)
        return result

    setattr(trainer, name, timed)


def main() -> None:
    """Serve steps until the parent closes the pipe."""
    import tempfile

    seat = Seat()
    settings = TrlSettings(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as output:
        trainer = make_trainer(settings, output)
        hold_between_steps(trainer, seat)
        trainer.train()


if __name__ == "__main__":
    main()
