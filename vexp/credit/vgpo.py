"""VGPO: more credit to tokens, and to responses, that look like the image; late ones above all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vexp.config.types import Fraction, NonNegative, Positive
from vexp.credit._pieces import (
    ROUNDING,
    group_mean,
    group_min_max,
    masked,
    min_max,
    token_mean,
    with_image,
)
from vexp.credit.base import CreditMethod
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience

RELEASED_INTRA = (0.1, 2.0)  # the released code clamps 1 + psi to this
RELEASED_INTER = (0.9, 2.0)  # and 1 + phi to this


@register("credit", "vgpo")
@dataclass(frozen=True, kw_only=True)
class Vgpo(CreditMethod):
    """A'[i, t] = A[i] (1 + psi[i, t]) (1 + phi[i]), with places t = 1 ... n of a response.

    Wang et al. 2026, "Visually-Guided Policy Optimization for Multimodal Reasoning" (VGPO,
    arXiv 2604.09349), eq. 4 to 12. S [rollout, token] is the cosine between a token's last hidden
    state and the mean one of the image tokens, of the policy that sampled:

        rho  = (S + 1) / 2
        gate = 1 if t > (1 - gamma) n and rho >= the k-th largest rho of that tail, otherwise 0,
               with k = max(1, floor(kappa |tail|)); equal ones pass
        w    = rho (1 + gate beta t / n)
        what = (w - min w) / (max w - min w + eps) over the response;  psi = what - mean of what
        s    = sum of w over the response
        shat = (s - min s) / (max s - min s + eps) over the group;     phi = shat - mean of shat

    `schedule` replaces beta t / n: step is beta from t / n = step_at on, exponential is
    beta (t / n)^power. A response without an image has the factor 1; it and an empty one take no
    part in the group's shat and phi. Groups are prompts.

    `compat=released` follows the released code where that is well defined: rho is the min-max of S
    over all response tokens of the step; t / n is (t - 1) / (n - 1), 0 if n = 1; 1 + psi is clamped
    to [0.1, 2] and 1 + phi to [0.9, 2]; s sums the normalised what if `intra` is on, and the
    min-max of the plain rho over the response if it is off. Not copied: groups of eight neighbours
    in a shuffled micro-batch, which are no prompts; ranges that include padding and change with
    the micro-batch; the cosine of the policy being updated, in training mode, in place of the one
    that sampled; a tail given by where it starts (gamma is the paper's, its share, here as there
    0.5); a second start, of the schedule, which fails at all values but 0.

    Breaks in that s is a sum, so long responses win (`inter_reduce=mean`), in that the min-max
    stretches differences of any size to [0, 1], and with compat=released in that a group's
    credit depends on the other groups of the step.
    """

    needs = ("similarity",)

    beta: NonNegative = 0.3  # how much a gated token at the very end gains
    gamma: Fraction = 0.5  # share of a response that is its tail
    kappa: Fraction = 0.2  # share of the tail that passes the gate
    eps: Positive = 1e-8  # added to the ranges of the min-max
    intra: bool = True  # whether tokens of a response differ
    inter: bool = True  # whether responses of a group differ
    schedule: Literal["linear", "step", "exponential"] = "linear"  # how the gain grows with t / n
    step_at: Fraction = 0.5  # t / n from which schedule=step gains
    power: Positive = 2.0  # exponent of schedule=exponential
    scope: Literal["late", "full"] = "late"  # full: the whole response is the tail, as gamma = 1
    inter_reduce: Literal["sum", "mean"] = "sum"  # of a response's weights
    compat: Literal["paper", "released"] = "paper"  # whose formulas, where the two differ

    def content(self) -> dict[str, Any]:
        # The number is raised where equal settings give other credit than before.
        return {"maths": 2} if self.compat == "released" and self.inter and not self.intra else {}

    @property
    def across_groups(self) -> bool:
        return self.compat == "released"

    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        assert experience.similarity is not None
        seen = with_image(experience)
        mask = experience.mask & seen[:, None]
        focus = self._focus(experience.similarity.detach().double(), mask)
        weights = self._compensated(focus, mask)
        normalised = min_max(weights, mask, self.eps)
        shaped = outcome.detach().double()[:, None] * experience.mask
        if self.intra:
            shaped = shaped * self._intra(normalised, mask)
        if self.inter:
            if self.compat == "released":
                weights = normalised if self.intra else min_max(focus, mask, self.eps)
            shaped = shaped * self._inter(weights, mask, experience.group, seen)[:, None]
        return shaped.to(outcome.dtype)

    def _focus(self, similarity: Tensor, mask: Tensor) -> Tensor:  # [rollout, token]
        """rho; 0 outside the mask."""
        if self.compat == "paper":
            return masked((similarity + 1) / 2, mask)
        low = similarity.masked_fill(~mask, float("inf")).min()
        high = similarity.masked_fill(~mask, float("-inf")).max()
        return masked((similarity - low) / (high - low + self.eps), mask)

    def _compensated(self, focus: Tensor, mask: Tensor) -> Tensor:  # [rollout, token]
        """w; 0 outside the mask."""
        place = mask.cumsum(dim=1).double()
        length = mask.sum(dim=1, keepdim=True).double()
        if self.compat == "released":
            over = (place - 1) / (length - 1).clamp(min=1)
        else:
            over = place / length.clamp(min=1)
        if self.schedule == "linear":
            gain = over
        elif self.schedule == "step":
            gain = (over >= self.step_at).double()
        else:
            gain = over.clamp(min=0) ** self.power
        return focus * (1 + self._gate(focus, mask, place, length).double() * self.beta * gain)

    def _gate(self, focus: Tensor, mask: Tensor, place: Tensor, length: Tensor) -> Tensor:
        share = 1.0 if self.scope == "full" else self.gamma
        before = ((1 - share) * length + ROUNDING).floor()
        tail = mask & (place > before)
        best = (self.kappa * (length - before) + ROUNDING).floor().clamp(min=1).long()
        ordered = focus.masked_fill(~tail, float("-inf")).sort(dim=1, descending=True).values
        return tail & (focus >= ordered.gather(1, best - 1))

    def _intra(self, normalised: Tensor, mask: Tensor) -> Tensor:  # [rollout, token]
        factor = 1 + masked(normalised - token_mean(normalised, mask), mask)
        return factor.clamp(*RELEASED_INTRA) if self.compat == "released" else factor

    def _inter(self, weights: Tensor, mask: Tensor, group: Tensor, seen: Tensor) -> Tensor:
        mean = self.inter_reduce == "mean"
        total = token_mean(weights, mask)[:, 0] if mean else weights.sum(dim=1)
        normalised = group_min_max(total, group, seen, self.eps)
        factor = 1 + normalised - group_mean(normalised, group, seen)
        return factor.clamp(*RELEASED_INTER) if self.compat == "released" else factor
