"""Faithful-MR1, reinforcing stage: right answers earn more where attention and effect agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vexp.config.types import NonNegative, Positive
from vexp.distortion.base import Distortion
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.reward.base import ObservedReward

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@register("reward", "counterfactual")
@dataclass(frozen=True, kw_only=True)
class CounterfactualReward(ObservedReward):
    """accuracy * f with f = sum_t c~[t] e[t] in [0, 1]. A reconstruction of Faithful-MR1.

    c[t] is how much token t depends on the evidence: relu(lp_old - lp_cf), the evidence taken out
    of the image, or the exact KL; c~ is c over its sum within the response. e[t] is the share of
    the image attention of token t that lies on evidence, softmax over image keys of `layer`, mean
    over heads. A response whose dependence sums to less than `least` has f = 0, and so has one
    without an image or a valid box.

    Only the paper's abstract was at hand: right answers are rewarded for attending to the image
    where an intervention shows that it matters. Form, layer and weight are ours.
    """

    needs = ("attention", "boxes")

    weight: NonNegative = 0.5
    score: Literal["logprob", "kl"] = "logprob"  # what depends on the image: c
    distortion: Distortion = slot("distortion", "evidence_black")  # the intervention
    layer: Layer = slot("layer", "two_thirds")  # whose attention is read
    least: Positive = 1e-3  # nats over the whole response

    def required(self) -> tuple[str, ...]:
        if self.score == "kl":
            return (*self.needs, "counterfactual_kl")
        return (*self.needs, "old_logprobs", "counterfactual_logprobs")

    def observed(self, experience: Experience) -> Tensor:  # [rollout] float64
        known, old = experience.counterfactual[self.distortion], experience.old_logprobs
        if self.score == "kl":
            effect = known.kl
        else:
            effect = None if old is None else (old - known.logprobs).clamp(min=0)
        if effect is None or experience.accuracies is None:
            raise ValueError("the counterfactual reward needs accuracies and an effect per token")
        effect = effect.double().masked_fill(~experience.mask, 0.0)
        total = effect.sum(dim=1)
        attended = experience.attended(self.layer)
        faith = (effect * attended.share).sum(dim=1) / total.clamp(min=self.least)
        faith = faith.masked_fill((total < self.least) | (attended.evidence_tokens == 0), 0.0)
        return experience.accuracies * faith
