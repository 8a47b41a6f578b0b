"""VPPO: learn only from the tokens that depend on the image, most from responses that do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from vexp.config.types import Between, Fraction
from vexp.credit._pieces import ROUNDING, masked, share, token_mean, with_image
from vexp.credit.base import CreditMethod
from vexp.distortion.base import Distortion
from vexp.registry import register, slot

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience

LOG_RATIO_LIMIT = 20.0  # log-ratios are clamped to this before exp
DEPENDENCY_LIMIT = 10.0  # and one token's k3 estimate to this
SAME_DEPENDENCY = 1e-6  # a batch whose responses differ by no more than this is not reweighted

KeptShare = Annotated[float, Between(0, 1, low_open=True)]


@register("credit", "vppo")
@dataclass(frozen=True, kw_only=True)
class Vppo(CreditMethod):
    """A'[i, t] = A[i] f[i] M[i, t]: a factor per response and a mask of its tokens.

    Huang et al. 2025, "Spotlight on Token Perception for Multimodal Reinforcement Learning" (VPPO,
    arXiv 2510.09285). A token's dependency S [rollout, token] on the image, under the policy that
    sampled, with d = log p(o_t | distorted) - log p(o_t | image), clamped to 20 either way:

        exact   S = KL(p(. | image) || p(. | distorted)), the paper's definition
        k3      S = exp(d) - d - 1, at most 10: the released code's estimate from the sampled token

    With S[i] the mean of S over the response's tokens and x[i] its place between the smallest (0)
    and the largest (1) in the batch,

        f[i] = b_min + x[i] (b_max - b_min),  b_max = b_min + (1 - b_min) / (mean of x + 1e-8),

    so that the mean of f is 1; f = 1 if the S[i] are within 1e-6. M is 1 for the ceil(rho n) tokens
    with the largest S of a response of n tokens, the earlier of equals, and 0 for the others.

    A response without an image has no dependency to rank by: it keeps uniform credit, f = 1 and
    all its tokens, and it and an empty response take no part in the smallest, largest and mean.
    These are those of the whole step, so that micro-batches do not matter; the released code takes
    the first two over a worker's mini-batch and the mean over a micro-batch. VPPO averages the loss
    over all valid tokens, its fork in the VGPO code over the selected ones (`normalise=selected`:
    scaled by valid / selected tokens of the step), which makes gradients about 1 / rho times as
    large. VPPO's entropy penalty is a term of the loss, no credit, and is left out here.

    Breaks when most tokens have the same dependency, as with a distortion that changes little: the
    mask is then an accident. It also makes a group's credit depend on the other groups of the step.
    """

    distortion: Distortion = (
        slot(  # the compared image: half of its patches, per rollout [released]
            "distortion", "patch_black", mask_ratio=0.5, per="rollout"
        )
    )
    rho: KeptShare = 0.4  # share of a response's tokens that are learned from
    b_min: Fraction = 0.9  # factor of the response that depends least on the image
    estimator: Literal["k3", "exact"] = "k3"  # of a token's dependency
    normalise: Literal["valid", "selected"] = "valid"  # tokens that the loss is averaged over

    def required(self) -> tuple[str, ...]:
        if self.estimator == "exact":
            return ("counterfactual_kl",)
        return ("old_logprobs", "counterfactual_logprobs")

    @property
    def across_groups(self) -> bool:
        return True

    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        dependency = self._dependency(experience)
        kept = self._kept(dependency, experience)
        factor = self._factor(dependency, experience)
        shaped = (outcome.detach().double() * factor)[:, None] * kept
        if self.normalise == "selected":
            shaped = shaped * (experience.mask.sum().double() / kept.sum().clamp(min=1))
        return masked(shaped, experience.mask).to(outcome.dtype)

    def metrics(self, experience: Experience) -> dict[str, float]:
        """Share of all tokens that are learned from."""
        kept = self._kept(self._dependency(experience), experience)
        return {"credit/kept_share": share(kept, experience.mask)}

    def _dependency(self, experience: Experience) -> Tensor:  # [rollout, token]
        distorted = experience.counterfactual[self.distortion]
        if self.estimator == "exact":
            assert distorted.kl is not None
            found = distorted.kl
        else:
            assert experience.old_logprobs is not None
            d = distorted.logprobs.double() - experience.old_logprobs.double()
            d = d.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
            found = (d.expm1() - d).clamp(0.0, DEPENDENCY_LIMIT)
        return masked(found, experience.mask & with_image(experience)[:, None])

    def _factor(self, dependency: Tensor, experience: Experience) -> Tensor:  # [rollout]
        ranked = with_image(experience)
        factor = dependency.new_ones(len(dependency))
        means = token_mean(dependency, experience.mask)[:, 0][ranked]
        if not len(means) or float(means.max() - means.min()) <= SAME_DEPENDENCY:
            return factor
        place = (means - means.min()) / (means.max() - means.min())
        b_max = self.b_min + (1 - self.b_min) / (place.mean() + 1e-8)
        return factor.masked_scatter(ranked, self.b_min + place * (b_max - self.b_min))

    def _kept(self, dependency: Tensor, experience: Experience) -> Tensor:  # [rollout, token] bool
        mask, ranked = experience.mask, with_image(experience)[:, None]
        count = (self.rho * mask.sum(dim=1, keepdim=True).double() - ROUNDING).ceil()
        last = dependency.masked_fill(~mask, float("-inf"))
        order = last.sort(dim=1, descending=True, stable=True).indices
        return mask & ((order.argsort(dim=1) < count) | ~ranked)
