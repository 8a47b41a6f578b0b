"""Reading gold answers before anything is judged by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vexp.verifier.base import Verifier
from vexp.verifier.pool.parent import pool_for

MOST_SLOW = 400  # distinct gold answers that are read in worker processes; spread over all

_REASONS = {
    "bad_gold": "the verifier cannot read it",
    "timeout": "reading it takes longer than the verifier's time limit",
    "crashed": "reading it ends the verifier's process",
}


def gold_problems(verifier: Verifier, golds: Iterable[str]) -> Mapping[str, str]:
    """The gold answers that a verifier cannot read, each with the reason as a clause.

    Most are read at once in this process. Of those that may take long, `MOST_SLOW` are read in
    worker processes, evenly spread.

    Raises:
        VexpError: if the workers of this verifier cannot start.
    """
    distinct = dict.fromkeys(golds)
    bounded = verifier.time_limit_s is not None
    slow = [gold for gold in distinct if bounded and verifier.may_take_long(gold)]
    problems = {}
    for gold in distinct.keys() - set(slow):
        if reason := verifier.gold_problem(gold):
            problems[gold] = reason
    every = -(-len(slow) // MOST_SLOW) or 1
    pairs = [(f"\\boxed{{{gold}}}", gold) for gold in slow[::every]]
    if pairs:
        for (_, gold), verdict in zip(pairs, pool_for(verifier).judge(pairs), strict=True):
            if verdict.status in _REASONS:
                problems[gold] = _REASONS[verdict.status]
    return problems
