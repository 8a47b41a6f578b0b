"""From finished responses to rewards: the judge, the terms, and their weighted sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.errors import VexpError
from vexp.reward.base import ObservedReward, RewardTerm, Scored

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@dataclass(frozen=True)
class Rewards:
    """Rewards of the responses of one batch; all lists have one entry per response."""

    total: list[float]  # the weighted sum: what the policy is trained on
    terms: dict[str, list[float]]  # unweighted
    accuracies: list[float]  # 0 or 1 as judged, whatever the terms make of it
    statuses: Counter[str]  # how many verdicts had each status


def reward(terms: Mapping[str, RewardTerm], scored: Scored) -> Rewards:
    """Evaluate all terms and add them up.

    Raises:
        VexpError: names the term that returned a number that is none, or too few of them.
    """
    values = {name: _values(name, term, scored) for name, term in terms.items()}
    weighted = [[term.weight * value for value in values[name]] for name, term in terms.items()]
    return Rewards(
        total=[math.fsum(parts) for parts in zip(*weighted, strict=True)],
        terms=values,
        accuracies=[verdict.correct for verdict in scored.verdicts],
        statuses=Counter(verdict.status for verdict in scored.verdicts),
    )


def with_observed(terms: Mapping[str, RewardTerm], experience: Experience) -> Tensor:  # [rollout]
    """The rewards of the texts, and what the terms that look at signals add to them.

    Raises:
        VexpError: names the term that returned a number that is not finite.
    """
    total = experience.rewards
    for name, term in terms.items():
        if isinstance(term, ObservedReward):
            value = term.observed(experience).to(total.dtype)
            if not bool(value.isfinite().all()):
                raise VexpError(
                    "a reward term returned a number that is not finite",
                    where=f"reward.terms.{name} ({term.name})",
                )
            total = total + term.weight * value
    return total


def _values(name: str, term: RewardTerm, scored: Scored) -> list[float]:
    values = [float(value) for value in term.values(scored)]
    where = f"reward.terms.{name} ({term.name})"
    if len(values) != len(scored.texts):
        raise VexpError(
            f"a reward term returned {len(values)} values for {len(scored.texts)} responses",
            where=where,
            remedy="`values` has to return one number per response",
        )
    for value, text in zip(values, scored.texts, strict=True):
        if not math.isfinite(value):
            raise VexpError(
                f"a reward term returned {value} for the response {_shown(text)}",
                where=where,
                accepted="expected a finite number",
            )
    return values


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, summed exactly, so that it does not depend on the order."""
    return math.fsum(values) / len(values)
