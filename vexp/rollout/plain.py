"""Responses sampled from the policy on the image as it is."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.registry import register
from vexp.rollout.base import RolloutMethod


@register("rollout", "plain")
@dataclass(frozen=True, kw_only=True)
class Plain(RolloutMethod):
    """`group_size` independent responses per prompt, all from the current policy."""
