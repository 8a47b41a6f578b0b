"""About how much memory a run needs, from shapes alone, and which config keys lower it.

An estimate: the allocator's waste, kernels' workspaces and what the framework itself holds are not
in it. Activations are counted as what a decoder layer keeps for its backward pass (after
Korthikanti et al., arXiv:2205.05198, table 2, with attention that keeps no scores).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

When = Literal["always", "generation", "update"]
# Tensors of a layer's width that its backward pass reads: inputs and results of both norms, of the
# attention and of its projections, and the two sums.
WIDTHS_KEPT = 10
CHECKPOINTING = "compute.gradient_checkpointing=true"
MLP_WIDTHS_KEPT = 4  # gate, its activation, the other half, and their product


@dataclass(frozen=True)
class Part:
    """Bytes that one thing takes, when it takes them, and the keys that lower them."""

    name: str
    bytes: int
    when: When
    keys: tuple[str, ...]


@dataclass(frozen=True)
class MemoryEstimate:
    """What a process needs at its worst."""

    parts: tuple[Part, ...]

    def at(self, moment: Literal["generation", "update"]) -> int:
        return sum(part.bytes for part in self.parts if part.when in ("always", moment))

    @property
    def peak(self) -> int:
        return max(self.at("generation"), self.at("update"))

    def to_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.peak,
            "generation": self.at("generation"),
            "update": self.at("update"),
            "parts": [asdict(part) for part in self.parts],
        }


@dataclass(frozen=True)
class Shapes:
    """The sizes of a language model that decide its memory."""

    parameters: int  # of the whole model
    layers: int
    hidden: int
    kv_hidden: int  # heads for keys and values, times their width
    intermediate: int
    vocabulary: int
    vision_layers: int
    kept_per_image_token: int  # numbers that one layer of the vision tower keeps

    @classmethod
    def of(cls, parameters: int, config: Any) -> Shapes:
        """From transformers' configuration of the whole model."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            parameters=parameters,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            kv_hidden=(getattr(text, "num_key_value_heads", None) or heads) * head,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            vision_layers=_first(config.vision_config, "depth", "num_hidden_layers"),
            kept_per_image_token=_kept_by_vision(config.vision_config),
        )

    @property
    def kept_per_token(self) -> int:
        """Numbers that one layer keeps of one token for its backward pass."""
        own = WIDTHS_KEPT * self.hidden + MLP_WIDTHS_KEPT * self.intermediate
        return own + 4 * self.kv_hidden


def _first(config: Any, *names: str) -> Any:
    """The first of these settings that a configuration has; families name them differently."""
    return next((v for v in (getattr(config, n, None) for n in names) if v is not None), 0)


def _kept_by_vision(vision: Any) -> int:
    """Of the patches that make one image token."""
    width = _first(vision, "embed_dim", "hidden_size")
    ratio = _first(vision, "mlp_ratio")
    inner = _first(vision, "intermediate_size") or int(ratio * width)
    patches = (_first(vision, "spatial_merge_size") or 2) ** 2
    return int(patches * (WIDTHS_KEPT * width + MLP_WIDTHS_KEPT * inner))


def estimate(
    run: RunSpec, shapes: Shapes, prompt_tokens: int, image_tokens: int = 0
) -> MemoryEstimate:
    """Memory of one process of a run whose longest prompts have `prompt_tokens` tokens.

    `image_tokens` of them are their image's.
    """
    found = _parts(run, shapes, prompt_tokens, image_tokens)
    parts = [part for part in found if part.bytes]
    return MemoryEstimate(tuple(replace(part, keys=_there(run, part.keys)) for part in parts))


def _there(run: RunSpec, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that this run's backbone has; a twin limits its images in tokens."""
    found = []
    for key in keys:
        name = key.removeprefix("backbone.").partition("=")[0]
        if not key.startswith("backbone.") or hasattr(run.backbone, name):
            found.append(key)
        elif name == "max_pixels" and hasattr(run.backbone, "max_image_tokens"):
            found.append("backbone.max_image_tokens")
    return tuple(found)


def _parts(run: RunSpec, shapes: Shapes, prompt_tokens: int, image_tokens: int) -> Iterator[Part]:
    weights = shapes.parameters * run.backbone.bytes_per_parameter
    lighter = (
        ("backbone.weights=bf16",)
        if run.compute.precision == "bf16"
        else ("backbone.weights=bf16 with compute.precision=bf16",)
    )
    if not run.stages:
        yield Part("weights", weights, "always", lighter)
        return
    freeze, spread = ("rl.freeze=[vision]",), _spread(run)
    yield Part("weights", weights // _shares(run), "always", (*lighter, *spread))
    yield from _moments(run, shapes, (*freeze, *spread))
    gradients = weights // _shares(run, "gradients")
    yield Part("gradients", gradients, "update", (*lighter, *freeze, *spread))
    if _shares(run) > 1:
        yield from _gathered(run, shapes, weights, lighter)
    else:
        yield from _whole(run, weights, lighter)
    if any("reference_logprobs" in c.required() for _, c in run.components()) or (
        "rl" in run.stages and run.algorithm.kl_coef
    ):
        less = ("algorithm.kl_coef=0",)
        yield Part("reference model", weights // _shares(run), "always", (*less, *spread))
        if _shares(run) > 1:  # after the keys and values are gone, but counted beside them
            yield Part("reference model, gathered", weights, "generation", less)
    number = 4 if run.compute.precision == "fp32" else 2
    if number == 2 and run.backbone.bytes_per_parameter == 4:
        yield Part("weights cast to bf16", shapes.parameters * 2, "generation", lighter)
    if "rl" in run.stages:
        yield from _generation(run, shapes, prompt_tokens, number)
    yield _activations(run, shapes, prompt_tokens, number)
    yield _of_vision(run, shapes, image_tokens, number)
    yield _scores(run, shapes)


def _moments(run: RunSpec, shapes: Shapes, keys: tuple[str, ...]) -> Iterator[Part]:
    """What AdamW remembers of a weight, as `optimizer_bf16` does of one in bfloat16."""
    half = run.backbone.bytes_per_parameter == 2 and not run.backbone.lora.rank
    each = 6 if half else 2 * run.backbone.bytes_per_parameter
    shares = _shares(run, "moments")
    yield Part("moments of AdamW", each * shapes.parameters // shares, "always", keys)
    if half:  # together with the weights they are float32 numbers
        low = 2 * shapes.parameters // shares
        yield Part("second halves of the weights", low, "always", keys)


SHARDED_BY = {
    "weights": ("fsdp2",),
    "gradients": ("fsdp2", "zero2"),
    "moments": ("fsdp2", "zero1", "zero2"),
}


def _shares(run: RunSpec, what: Literal["weights", "gradients", "moments"] = "weights") -> int:
    """In how many parts something lies."""
    return run.processes if run.compute.shard in SHARDED_BY[what] else 1


def _spread(run: RunSpec) -> tuple[str, ...]:
    if run.processes == 1:
        return ()
    return ("compute.processes",) if _shares(run) > 1 else ("compute.shard=fsdp2",)


def _whole(run: RunSpec, weights: int, lighter: tuple[str, ...]) -> Iterator[Part]:
    """What there is beside whole weights: DeepSpeed's part of them, and a second gradient.

    The passes over responses and prompts both have to go back through a layer before its gradient
    is added to that of the micro-batches before, or with stage 2 of ZeRO to a process's part.
    """
    if run.compute.shard != "none":
        copy = weights // run.processes
        yield Part("weights that DeepSpeed updates", copy, "always", ("compute.processes",))
    if run.compute.shard == "zero2" or _several_micro_batches(run):
        yield Part("gradients before they are summed", weights, "update", lighter)


def _several_micro_batches(run: RunSpec) -> bool:
    """Whether a process has more than one in an update of the last stage."""
    if "rl" in run.stages:
        prompts = run.rl.prompts_per_update or run.rl.prompts_per_step
        rows = prompts * run.rollout.group_size
    else:
        rows = getattr(run, run.stages[-1]).batch_size
    return rows > run.compute.micro_batch_size * run.processes


def _gathered(
    run: RunSpec, shapes: Shapes, weights: int, lighter: tuple[str, ...]
) -> Iterator[Part]:
    """What is whole for a while of what lies in shards.

    In an update: the embeddings at both ends, a layer and the one after it. A layer's gradient is
    summed when the pass over the responses and that over their prompts have both gone back through
    it; the first of the two comes to an end before the second begins.
    """
    yield Part("weights, gathered", weights, "generation", lighter)
    ends = min(2 * shapes.vocabulary * shapes.hidden, shapes.parameters)
    layers = 2 * (shapes.parameters - ends) // shapes.layers
    size = (ends + layers) * run.backbone.bytes_per_parameter
    yield Part("weights, gathered for a layer", size, "update", lighter)
    yield Part("gradients before they are summed", weights, "update", lighter)


def _generation(run: RunSpec, shapes: Shapes, prompt_tokens: int, number: int) -> Iterator[Part]:
    """A whole rollout batch is decoded at once; responses share their prompt's keys and values."""
    prompts = math.ceil(run.rl.prompts_per_step / run.processes)
    rows = prompts * run.rollout.group_size
    tokens = prompts * prompt_tokens + rows * run.rollout.max_response_length
    keys = ("rl.prompts_per_step", "rollout.group_size", "rollout.max_response_length")
    cache = 2 * shapes.layers * shapes.kv_hidden * tokens * number
    yield Part("keys and values", cache, "generation", (*keys, "backbone.max_pixels"))
    logits = 3 * rows * shapes.vocabulary * 4
    yield Part("next-token distributions", logits, "generation", keys[:2])


def _activations(run: RunSpec, shapes: Shapes, prompt_tokens: int, number: int) -> Part:
    """Of one micro-batch: its responses, and each of its prompts once."""
    rows, prompts = _micro_batch(run)
    tokens = prompts * prompt_tokens + rows * run.rollout.max_response_length
    keys = ["compute.micro_batch_size", "rollout.max_response_length", "backbone.max_pixels"]
    if run.compute.gradient_checkpointing:
        kept = shapes.layers * shapes.hidden + shapes.kept_per_token
    else:
        kept = shapes.layers * shapes.kept_per_token
        keys.insert(1, CHECKPOINTING)
    return Part("activations", tokens * kept * number, "update", tuple(keys))


def _of_vision(run: RunSpec, shapes: Shapes, image_tokens: int, number: int) -> Part:
    """Activations of the vision tower; none where it is frozen."""
    _, prompts = _micro_batch(run)
    keys = ["compute.micro_batch_size", "rl.freeze=[vision]", "backbone.max_pixels"]
    layers = 1 if run.compute.gradient_checkpointing else shapes.vision_layers
    if not run.compute.gradient_checkpointing:
        keys.insert(1, CHECKPOINTING)
    frozen = "rl" in run.stages and "vision" in run.rl.freeze
    kept = 0 if frozen else prompts * image_tokens * layers * shapes.kept_per_image_token
    return Part("activations of the vision tower", kept * number, "update", tuple(keys))


def _scores(run: RunSpec, shapes: Shapes) -> Part:
    """Logits, log-probabilities and their gradient, of as many tokens as are scored at once."""
    from vexp.policy.policy import LOGITS_AT_ONCE

    rows, _ = _micro_batch(run)
    numbers = min(LOGITS_AT_ONCE, rows * run.rollout.max_response_length * shapes.vocabulary)
    keys = ("compute.micro_batch_size", "rollout.max_response_length")
    return Part("distributions of response tokens", 3 * 4 * numbers, "update", keys)


def _micro_batch(run: RunSpec) -> tuple[int, int]:
    """Responses of a micro-batch, and the prompts they answer."""
    rows = run.compute.micro_batch_size
    return rows, math.ceil(rows / run.rollout.group_size) if "rl" in run.stages else rows
