"""1 for a response that keeps to the format it was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.registry import register
from vexp.response.format import keep_format
from vexp.reward.base import RewardTerm, Scored


@register("reward", "format")
@dataclass(frozen=True, kw_only=True)
class Format(RewardTerm):
    """1 if the whole response keeps to `prompt.response_format`, else 0."""

    def values(self, scored: Scored) -> list[float]:
        return [float(kept) for kept in keep_format(scored)]
