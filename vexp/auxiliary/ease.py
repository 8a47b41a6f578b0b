"""EASE: attention to the image is pulled towards the evidence, in one layer, on right answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from vexp.auxiliary.base import Auxiliary
from vexp.config.types import Neutral, NonNegative, PositiveInt
from vexp.gate.base import Gate
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.target.base import Target

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput

DELTA = 1e-8  # in the denominator, where no response passes the gate


@register("auxiliary", "ease")
@dataclass(frozen=True, kw_only=True)
class Ease(Auxiliary):
    """L = sum_i g_i mean_t KL(p[i,t] || q_i) / (sum_i g_i + 1e-8), EASE eqs. 1-9.

    p[i,t] is the attention of response token t over the image tokens: softmax over image keys
    in each head of `layer`, then the mean over heads; the row is the token's own, not its
    predictor's. q_i is the target made of the evidence boxes, g_i the gate. Per response at
    most `rows` tokens, drawn uniformly without replacement at each step, stand for all. Responses
    without an image or a valid box are left out.

    Deviation: eq. 9 sums over the rollouts of one group; here the sums run over the responses of an
    optimiser step (`normalise=step`), so that a group with one right rollout weighs as that one
    rollout. `normalise=group` is eq. 9: one such quotient per group, averaged over the groups of
    the step, those in which no response passes included. The gradient flows into queries and keys
    of `layer` and everything below it.

    The paper's symbols for coef, layer and smoothing are stripped in the text at hand: the
    defaults are those reported for its code by third parties. Its code is said to take a
    uniform target where there is no valid box; here such responses are excluded.

    Breaks the freedom to look elsewhere: tokens that need no evidence are supervised as well.
    """

    needs = ("boxes",)

    coef: NonNegative = 1e-3
    target: Target = slot("target", "gaussian_mixture")  # boxes -> distribution over image tokens
    layer: Layer = slot("layer", "two_thirds")  # the decoder layer that is supervised
    gate: Gate = slot("gate", "reward")  # which responses are
    direction: Literal["model_to_target", "target_to_model"] = "model_to_target"  # of KL
    rows: PositiveInt = 64  # response tokens per response and step
    floor: NonNegative = 1e-8  # of q inside a logarithm, where the target is 0 away from the box
    normalise: Annotated[Literal["step", "group"], Neutral("step")] = "step"  # whose mean it is

    @property
    def live(self) -> tuple[str, ...]:
        return ("attention",)

    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token]
        from vexp.auxiliary._attention import sampled, with_evidence

        gate = self.gate.open(experience) & with_evidence(experience)
        chosen = sampled(experience.mask, draw, self.rows) & gate.unsqueeze(1)
        counts = chosen.sum(dim=1, keepdim=True)
        return chosen / counts.clamp(min=1) / self._denominator(gate, experience.group)

    def _denominator(self, gate: Tensor, group: Tensor) -> Tensor:  # scalar, or [rollout, 1]
        import torch

        if self.normalise == "step":
            return gate.sum() + DELTA
        count = int(group.max()) + 1 if group.numel() else 0
        none = torch.zeros(count, dtype=group.dtype, device=group.device)
        passed = none.index_add(0, group, gate.to(group.dtype))
        groups = (none.index_add(0, group, torch.ones_like(group)) > 0).sum()
        shares: Tensor = (passed + DELTA)[group] * groups
        return shares.unsqueeze(1)

    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        from vexp.auxiliary._attention import divergence, per_token, targets

        found = output.attention[self.layer.index(batch.layers)]
        target = targets(self.target, batch, found.logits.shape[-1])
        values = divergence(found.logits, target, self.direction, self.floor)
        return per_token(values, output, batch)
