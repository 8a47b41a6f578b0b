"""Faithful-MR1's anchor: the attention of a focus token has to cover the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.auxiliary.base import Auxiliary
from vexp.config.types import NonNegative
from vexp.errors import Problem
from vexp.gate.base import Gate
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.target.base import Target

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput
    from vexp.spec.run import RunSpec

FOCUS = "<Focus>"
DELTA = 1e-8  # in the denominator, for updates in which no response has a focus token


@register("auxiliary", "focus_anchor")
@dataclass(frozen=True, kw_only=True)
class FocusAnchor(Auxiliary):
    """L = sum_i g_i mean_{t in F_i} KL(q_i || p[i,t]) / (sum_i g_i + 1e-8): a reconstruction.

    F_i are the places of `<Focus>` in response i, p[i,t] the attention of such a token over the
    image tokens: softmax over image keys in each head of `layer`, then the mean over heads; the row
    is the token's own. q_i is the target made of the evidence boxes. The direction covers: all
    evidence has to be attended to. g_i is 1 for responses that pass the gate and have a focus
    token, an image and a valid box; the others add nothing and do not count in the mean. The sums
    run over the responses of an optimiser step. The gradient flows into queries and keys of `layer`
    and everything below it.

    Used by the stage `anchor`, where demonstrations are the responses and all are right, or in
    `auxiliary` beside the policy gradient. Faithful-MR1's abstract alone was at hand: a dedicated
    token's attention is supervised directly against image regions. Form, direction, layer and
    weight are ours.

    Breaks in RL without the stage `anchor`: a policy that never writes the token is never
    supervised (see the metric `without_focus`).
    """

    needs = ("boxes",)
    emits = (FOCUS,)
    emits_like = ("focus", "look", "see", "image")

    coef: NonNegative = 0.1
    target: Target = slot("target", "gaussian_mixture")  # boxes -> distribution over image tokens
    layer: Layer = slot("layer", "two_thirds")  # the decoder layer that is supervised
    gate: Gate = slot("gate", "reward")  # which responses are

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        in_rl = any(term is self for term in run.auxiliary.values())
        if in_rl and run.rl.row_alignment != "own":
            yield Problem(
                "the focus token's own attention is supervised, and rl.row_alignment="
                f"{run.rl.row_alignment} reads that of the position before it",
                where="rl.row_alignment",
                accepted="rl.row_alignment=own",
            )

    @property
    def live(self) -> tuple[str, ...]:
        return ("attention",)

    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token]
        from vexp.auxiliary._attention import with_evidence

        gate = self.gate.open(experience) & with_evidence(experience)
        chosen = _focus(experience) & gate.unsqueeze(1)
        counts = chosen.sum(dim=1, keepdim=True)
        return chosen / counts.clamp(min=1) / ((counts > 0).sum() + DELTA)

    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        from vexp.auxiliary._attention import divergence, per_token, targets

        found = output.attention[self.layer.index(batch.layers)]
        target = targets(self.target, batch, found.logits.shape[-1])
        # No floor: where q is 0 it adds nothing in this direction.
        values = divergence(found.logits, target, "target_to_model", 0.0)
        return per_token(values, output, batch)

    def metrics(self, experience: Experience) -> dict[str, float]:
        """Responses that could not be supervised, and why; one may count in both."""
        from vexp.auxiliary._attention import with_evidence

        return {
            "without_focus": int((~_focus(experience).any(dim=1)).sum()),
            "without_evidence": int((~with_evidence(experience)).sum()),
        }


def _focus(experience: Experience) -> Tensor:  # [rollout, token] bool
    """Where the responses have a focus token."""
    return experience.mask & (experience.tokens == experience.emitted[FOCUS])
