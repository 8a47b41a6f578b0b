"""The one batch type of training: finished responses with everything an update may look at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.probe.layout import Layout

if TYPE_CHECKING:
    from vexp.dataset.base import Box, Item
    from vexp.distortion.base import Distortion
    from vexp.layer.base import Layer
    from vexp.policy.lora import Untrained
    from vexp.policy.policy import Policy, PolicyOutput, Reading
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import Prompt

_PER_TOKEN = (
    "tokens",
    "mask",
    "sampling_logprobs",
    "old_logprobs",
    "reference_logprobs",
    "entropy",
    "advantages",
    "weights",
    "similarity",
)
PER_ROLLOUT = ("rewards", "accuracies", "has_image", "place", "outcome", "replayed", "slot")
_PER_PROMPT = ("items", "ordinals", "boxes", "evidence", "layouts")


@dataclass(frozen=True)
class Counterfactual:
    """The same responses, scored by the policy that sampled them, with a distorted image."""

    logprobs: Tensor  # [rollout, token]
    kl: Tensor | None = None  # [rollout, token] exact KL(p(.|image) || p(.|distorted)) in nats


@dataclass(frozen=True)
class ImageAttention:
    """What each response token attends to in one decoder layer; 0 without an image.

    `image` and `evidence` are shares of all attention (softmax over every key), means over heads;
    `share` and `pooled` condition on the image (softmax over image keys only, per head,
    then the mean over heads). A token is evidence if its cell's centre lies in a box.
    """

    image: Tensor  # [rollout, token] attention on all image tokens
    evidence: Tensor  # [rollout, token] attention on evidence tokens
    share: Tensor  # [rollout, token] conditional attention on evidence tokens
    pooled: Tensor  # [rollout, image token] conditional attention, mean over the response's tokens
    image_tokens: Tensor  # [rollout] how many image tokens there are
    evidence_tokens: Tensor  # [rollout] how many of them are evidence
    # [rollout, token] attention on the response's own tokens; the rest is on the prompt's text.
    # None where the kernel does not tell the two apart.
    response: Tensor | None = None

    def select(self, index: Tensor, width: int) -> ImageAttention:
        """Some rollouts, cut to `width` tokens."""
        return ImageAttention(
            image=self.image[index, :width],
            evidence=self.evidence[index, :width],
            share=self.share[index, :width],
            pooled=self.pooled[index],
            image_tokens=self.image_tokens[index],
            evidence_tokens=self.evidence_tokens[index],
            response=None if self.response is None else self.response[index, :width],
        )


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Responses to `prompts`; all responses with one `group` index answer that prompt.

    Nothing in it carries a gradient. What no component needs stays None.
    """

    prompts: PromptBatch
    group: Tensor  # [rollout] int64, index into prompts
    tokens: Tensor  # [rollout, token] int64, right-padded
    mask: Tensor  # [rollout, token] bool: true up to and including the end of the sequence
    rewards: Tensor  # [rollout] float64
    sampling_logprobs: Tensor  # [rollout, token] as reported by the engine
    old_logprobs: Tensor | None = (
        None  # [rollout, token]; None: one update, so those of that update
    )
    reference_logprobs: Tensor | None = None  # [rollout, token]
    entropy: Tensor | None = None  # [rollout, token] in nats, of the policy that sampled
    accuracies: Tensor | None = None  # [rollout] float64, 0 or 1 as judged
    has_image: Tensor | None = None  # [rollout] bool
    boxes: tuple[tuple[Box, ...], ...] | None = None  # [prompt]: the evidence, in pixels
    # [prompt]: the valid boxes, clipped, in shares of the image's width and height
    evidence: tuple[tuple[Box, ...], ...] | None = None
    layouts: tuple[Layout, ...] | None = None  # [prompt]: where its image tokens lie; empty: none
    # [rollout, token] cosine of the token's last hidden state and the mean one of the image tokens
    similarity: Tensor | None = None
    counterfactual: Mapping[Distortion, Counterfactual] = field(default_factory=dict)
    attention: Mapping[int, ImageAttention] = field(default_factory=dict)  # by decoder layer
    layers: int = 0  # decoder layers of the backbone
    # ids of the special tokens that responses may contain besides the end, by what they spell
    emitted: Mapping[str, int] = field(default_factory=dict)
    items: tuple[Item, ...] | None = None  # [prompt]: what the prompts were made from
    ordinals: tuple[int, ...] | None = None  # [prompt]: which draws of the mix they were
    prompt_of: Prompt | None = None  # how items became prompts
    place: Tensor | None = None  # [rollout] int64, index within the group
    outcome: Tensor | None = None  # [rollout] float64: the advantage of the whole response
    # [rollout] bool: of a former step, with its outcome and old log-probs; None: there are none
    replayed: Tensor | None = None
    # [rollout] int64: place in the step's updates, one per group of a step; None: the group's index
    slot: Tensor | None = None
    # [rollout, token] weights of each auxiliary loss, by its name in the config
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    advantages: Tensor | None = None  # [rollout, token]
    weights: Tensor | None = None  # [rollout, token]: the loss of an update is their weighted sum

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def select(self, rows: Sequence[int]) -> Experience:
        """The given rollouts with only their prompts, cut to the longest of the responses."""
        if list(rows) == list(range(len(self))):
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.tokens.device)
        mask = self.mask.index_select(0, index)
        width = max(1, int(mask.sum(dim=1).max()))
        kept, group = torch.unique(self.group.index_select(0, index), return_inverse=True)
        prompts = kept.tolist()

        def cut(value: Any) -> Any:
            return None if value is None else value[index, :width]

        found: dict[str, Any] = {name: cut(getattr(self, name)) for name in _PER_TOKEN}
        for name in PER_ROLLOUT:
            value = getattr(self, name)
            found[name] = None if value is None else value[index]
        for name in _PER_PROMPT:
            value = getattr(self, name)
            found[name] = None if value is None else tuple(value[i] for i in prompts)
        found["counterfactual"] = {
            distortion: Counterfactual(cut(known.logprobs), cut(known.kl))
            for distortion, known in self.counterfactual.items()
        }
        found["attention"] = {layer: a.select(index, width) for layer, a in self.attention.items()}
        found["auxiliary"] = {name: cut(weights) for name, weights in self.auxiliary.items()}
        return dataclasses.replace(self, prompts=self.prompts.select(kept), group=group, **found)

    def attended(self, layer: Layer) -> ImageAttention:
        """What the response tokens attend to in a layer that a component asked for."""
        return self.attention[layer.index(self.layers)]


def micro_batches(group: Sequence[int], rows: Iterable[int], size: int) -> list[list[int]]:
    """`rows` in portions of at most `size`, whole groups together where they fit.

    A group that stays together has its prompt encoded once. One larger than `size` is split.
    """
    rows_of: dict[int, list[int]] = {}
    for row in rows:
        rows_of.setdefault(group[row], []).append(row)
    portions: list[list[int]] = [[]]
    for members in rows_of.values():
        for start in range(0, len(members), size):
            piece = members[start : start + size]
            if len(portions[-1]) + len(piece) > size:
                portions.append([])
            portions[-1].extend(piece)
    return [portion for portion in portions if portion]


def even_micro_batches(
    group: Sequence[int], rows: Sequence[int], size: int, shares: int
) -> list[list[int]]:
    """As `micro_batches`, but in as many portions as `shares` processes can do at a time.

    They get smaller for it, never larger than `size`, and as few more as whole groups allow.
    """
    if shares == 1 or not rows:
        return micro_batches(group, rows, size)
    wanted = shares * math.ceil(len(rows) / (size * shares))
    smaller = math.ceil(len(rows) / wanted)
    while smaller < size and len(micro_batches(group, rows, smaller)) > wanted:
        smaller += 1
    return micro_batches(group, rows, smaller)


def forward(
    policy: Policy | Untrained,
    batch: Experience,
    temperature: float,
    reading: Reading | None = None,
) -> PolicyOutput:
    """Log-probs of the responses under `policy`, each prompt encoded once."""
    arguments = (reading,) if reading is not None else ()
    output: PolicyOutput = policy(
        batch.prompts, batch.tokens, batch.mask, batch.group, temperature, *arguments
    )
    return output
