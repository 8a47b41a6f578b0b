"""Ids of samples: the question, and the number of the response where several were drawn to it.

An evaluation that draws several responses to each question ends its ids in `#0`, `#1`, and so on.
A question's own id may hold the sign as well, so its protocol says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from vexp.records import Results


def are_numbered(results: Results) -> bool:
    """True where the ids of an evaluation end in a response's number."""
    protocol = results.protocol
    if results.evaluator == "imported":
        return False
    drawn = protocol.get("drawn")
    of_benchmark = drawn.get("k") if isinstance(drawn, Mapping) else None
    several = isinstance(of_benchmark, int) and of_benchmark > 1
    return several or "k" in protocol or "group_size" in protocol


def split_id(sample_id: str, *, numbered: bool) -> tuple[str, str]:
    """The id of the question, and the number of the response; empty where there is none."""
    if not numbered:
        return sample_id, ""
    question, _, number = sample_id.rpartition("#")
    return question, number
