"""SAYO: attention to the evidence, at the tokens that were hard to decide, is rewarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import Between, Positive
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.reward.base import ObservedReward

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience

Share = Annotated[float, Between(0, 1, low_open=True)]


@register("reward", "attention")
@dataclass(frozen=True, kw_only=True)
class AttentionReward(ObservedReward):
    """r_v = tanh(log((a_q + eps) / (v_q + eps))) in (-1, 1), SAYO.

    a[t] is the mean attention of response token t on an evidence token, v[t] that on any image
    token: softmax over all keys of `layer`, mean over heads, own row of the token. a_q and v_q are
    their means over the `share` of the response's tokens with the largest entropy; the ratio comes
    after the mean. With x = (a_q + eps) / (v_q + eps) this is (x^2 - 1) / (x^2 + 1): 0 where the
    evidence gets its fair share, and never more than a box covering the image allows. No gradient
    flows through the attention: it is an ordinary reward.

    Responses without an image or a valid box get the neutral 0. The released code reads rows during
    generation, without a mask over padding and with an image offset that ignores left padding; here
    they come from the experience pass. Its layer is hard-coded; ours is the last one by default.

    Breaks length control: nothing here depends on the response's length. The released code
    multiplies its format reward by length factors; the paper has none, and neither has `format`.
    """

    needs = ("attention", "entropy", "boxes")

    layer: Layer = slot("layer", "last")  # whose attention is read
    share: Share = 0.3  # of the response's tokens, by entropy; 1 takes all
    eps: Positive = 1e-8  # added to both means

    def observed(self, experience: Experience) -> Tensor:  # [rollout] float64
        from vexp.diagnostics.measures import attention_ratio, top_share

        found = experience.attended(self.layer)
        if experience.entropy is None:
            raise ValueError("the attention reward needs the entropy of every token")
        chosen = top_share(experience.entropy, experience.mask, self.share)
        counts = (found.image_tokens, found.evidence_tokens)
        value = attention_ratio(found.image, found.evidence, *counts, chosen, self.eps)
        undefined = (found.evidence_tokens == 0) | ~chosen.any(dim=1)
        return value.masked_fill(undefined, 0.0)
