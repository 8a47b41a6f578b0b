"""KL_prcp: the divergence from the policy without its image, as a bonus in the objective."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.auxiliary.papo import Papo
from vexp.config.types import NonNegative
from vexp.distortion.base import Distortion
from vexp.registry import register, slot


@register("auxiliary", "kl_prcp")
@dataclass(frozen=True, kw_only=True)
class KlPrcp(Papo):
    """J = J_GRPO + coef * KL(p(.|I,q) || p(.|q)), the alternative that VICRA's table 5 names.

    The perception term of PAPO without entropy terms, against the prompt without its image
    (`discard`). The weight is not stated in VICRA; 0.01 is ours.
    """

    coef: NonNegative = 0.01
    distortion: Distortion = slot("distortion", "discard")  # no image at all
