"""PAPO: the policy is pushed to answer differently when the image is masked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.algorithm.base import aggregation_weights, k3
from vexp.auxiliary.base import Auxiliary
from vexp.config.types import Between, Neutral, NonNegative
from vexp.distortion.base import Distortion
from vexp.errors import Problem
from vexp.registry import register, slot

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput
    from vexp.spec.run import RunSpec

TokenShare = Annotated[float, Between(0, 1, low_open=True)]


@register("auxiliary", "papo")
@dataclass(frozen=True, kw_only=True)
class Papo(Auxiliary):
    """-coef mean_tok(kl_p) + eta mean_tok(-lp) + eta mean_tok(-lp_cf), PAPO (arXiv 2507.06448).

    kl_p = exp(lp_cf - lp) - (lp_cf - lp) - 1 on the sampled tokens (k3, at most 10): the implicit
    perception loss, which is maximised; the two entropy terms (`entropy_coef`, the paper's eta) are
    minimised, on the clean and on the masked image ("double entropy"). lp_cf comes from the
    experience pass and carries no gradient, as in the released code; the masked entropy term then
    has none either. With `cf_grad` it is computed anew in every update, with gradient. Responses
    without an image have no term, and count in the mean.

    PAPO-G adds this to GRPO (coef 0.02), PAPO-D to DAPO (coef 0.01, entropy_coef 0.03). The
    released code averages each micro-batch by itself; here the mean is over the update. Acts on
    groups of equal reward as well. `token_share` is the code's token mask (its `top_p`): below the
    1 - token_share quantile of its response's kl_p a token has no perception term, and still counts
    in the mean; the entropy terms keep all tokens.

    Breaks without bound: k3 can be driven up for ever; keep coef small.
    """

    coef: NonNegative = 0.01
    entropy_coef: NonNegative = 0.0  # weight of both entropy terms in the loss
    distortion: Distortion = slot("distortion", "patch_black")  # the masked image
    token_share: Annotated[TokenShare, Neutral(1.0)] = 1.0  # of the tokens, those of largest kl_p
    cf_grad: bool = False  # whether the gradient also flows through the masked image

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.entropy_coef and not self.coef:
            yield Problem(
                "entropy_coef has no effect at coef=0: the whole term is scaled by coef",
                where="entropy_coef",
                remedy="use `auxiliary=entropy_penalty` for an entropy term alone",
            )

    def required(self) -> tuple[str, ...]:
        return () if self.cf_grad else ("counterfactual_logprobs",)

    @property
    def live(self) -> tuple[str, ...]:
        return ("counterfactual_logprobs",) if self.cf_grad else ()

    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token]
        weights = aggregation_weights(experience.mask, "token-mean", 1)
        if experience.has_image is not None:
            weights = weights * experience.has_image.unsqueeze(1)
        return weights

    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        logprobs = output.logprobs
        if self.cf_grad:
            masked = output.counterfactual[self.distortion]
        else:
            masked = batch.counterfactual[self.distortion].logprobs
        loss = -k3(logprobs, masked)
        if self.token_share < 1:
            loss = loss * _largest(-loss.detach(), batch.mask, self.token_share)
        if self.entropy_coef and self.coef:
            loss = loss - (self.entropy_coef / self.coef) * (logprobs + masked)
        return loss.masked_fill(~batch.mask, 0.0)


def _largest(values: Tensor, mask: Tensor, share: float) -> Tensor:  # [rollout, token] bool
    """True from the 1 - share quantile of a response's values on, interpolated linearly."""
    valid = values.masked_fill(~mask, float("nan"))
    return values >= valid.nanquantile(1 - share, dim=1, keepdim=True)
