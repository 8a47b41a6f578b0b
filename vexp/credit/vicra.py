"""VICRA: more credit to the tokens that the image made likelier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vexp.config.types import Finite
from vexp.credit._pieces import masked, share, token_mean, with_image
from vexp.credit.base import CreditMethod
from vexp.distortion.base import Distortion
from vexp.errors import ConfigError, Problem
from vexp.registry import register, slot

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@register("credit", "vicra")
@dataclass(frozen=True, kw_only=True)
class Vicra(CreditMethod):
    """A'[i, t] = A[i] psi[i, t] with psi[i, t] = 1 + w[i, t] - mean over t of w[i, t].

    "Don't Lose Sight: Visually-Grounded Credit Assignment for Multimodal Reasoning" (VICRA), eq. 5
    and 6. The score w [rollout, token] compares the policy that sampled with itself on the
    distorted image, and carries no gradient:

        prob_difference   w = p(o_t | image) - p(o_t | distorted), eq. 4, in [-1, 1]
        kl                w = KL(p(. | image) || p(. | distorted)) in nats, the paper's table 8

    psi sums to the response's length, so the sum of its advantages stays. Without an image w is 0
    and psi is 1. The paper's listing (appendix C) clamps the sum of w to at least 1e-8 before it
    takes the mean, which loses that property where the image lowers the probabilities, and then
    hands the unshaped advantage to the loss. Here the true sum is divided, and psi is used.

    Breaks with a psi below 0, which eq. 6 does not rule out: such a token is pushed against its
    response's outcome. It is rare with prob_difference; with kl every token without a KL of its own
    has it once the response's mean KL exceeds 1. `psi_clip` prevents it, at the price of the
    preserved sum. psi also enlarges the penalty on grounded tokens of wrong answers.
    """

    score: Literal["prob_difference", "kl"] = "prob_difference"  # how the two are compared
    distortion: Distortion = slot("distortion", "discard")  # what the image is compared with
    psi_clip: tuple[Finite, Finite] | None = None  # bounds of psi around 1; null: none

    def __post_init__(self) -> None:
        if self.psi_clip is not None and not self.psi_clip[0] <= 1 <= self.psi_clip[1]:
            low, high = self.psi_clip
            raise ConfigError(
                Problem(
                    f"psi_clip [{low:g}, {high:g}] leaves out 1, the mean of psi",
                    where="psi_clip",
                    accepted="expected a bound of at most 1 and one of at least 1",
                    remedy="[0, 2] keeps every token's sign; null is the paper's form",
                )
            )

    def required(self) -> tuple[str, ...]:
        if self.score == "kl":
            return ("counterfactual_kl",)
        return ("old_logprobs", "counterfactual_logprobs")

    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        psi = self._psi(self._scores(experience), experience)
        shaped = outcome.detach().double()[:, None] * psi
        return masked(shaped, experience.mask).to(outcome.dtype)

    def metrics(self, experience: Experience) -> dict[str, float]:
        """Share of all tokens with psi < 0."""
        negative = self._psi(self._scores(experience), experience) < 0
        return {"credit/negative_share": share(negative, experience.mask)}

    def _scores(self, experience: Experience) -> Tensor:  # [rollout, token]
        distorted = experience.counterfactual[self.distortion]
        if self.score == "kl":
            assert distorted.kl is not None
            scores = distorted.kl
        else:
            assert experience.old_logprobs is not None
            scores = experience.old_logprobs.double().exp() - distorted.logprobs.double().exp()
        return masked(scores, experience.mask & with_image(experience)[:, None])

    def _psi(self, scores: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        psi = 1 + scores - token_mean(scores, experience.mask)
        return psi if self.psi_clip is None else psi.clamp(*self.psi_clip)
