"""Judging many responses, in this process or, under a time limit, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from vexp.verifier.base import Verdict, Verifier
from vexp.verifier.pool.golds import gold_problems
from vexp.verifier.pool.parent import close_all, pool_for

__all__ = ["close_all", "gold_problems", "judge"]


def judge(verifier: Verifier, responses: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
    """The verdict on each response, in order.

    A verifier without a time limit judges here. One with a limit judges in worker processes that
    stay for the next call; a verdict that takes too long is 0 with status "timeout", and one that
    ends or breaks its worker is 0 with status "crashed".

    Raises:
        ValueError: if the two lists differ in length.
        VexpError: if the workers of this verifier cannot start; says why.
    """
    pairs = list(zip(responses, golds, strict=True))
    if not pairs:
        return []
    if verifier.time_limit_s is None:
        return [verifier.verdict(response, gold) for response, gold in pairs]
    return pool_for(verifier).judge(pairs)
