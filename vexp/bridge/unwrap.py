"""What of a response a scorer is given: the one place where thoughts and answer tags are removed.

lmms-eval's command line removes `<think>` blocks by default and its API does not; its plain tasks
compare the whole response, its `*_reasoning` tasks look for the answer themselves. So the catalogue
says for each benchmark what its scorer is given, and lmms-eval itself removes nothing.
"""

from __future__ import annotations

import re

from vexp.evaluator.benchmarks import Unwrap
from vexp.response.format import extract_answer

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_WORDS = re.compile(r"\s*\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}\s*")


def unwrapped(response: str, how: Unwrap) -> str:
    """`none`: the response. `thoughts`: what is no thought; one that never ends is all thought.

    `answer`: the answer in the box, the answer tag or the last line `Answer: …`, without the LaTeX
    that makes words of it; where there is none of these, what is no thought.
    """
    if how == "none":
        return response
    spoken = _THOUGHTS.sub("", response).strip()
    if how == "thoughts":
        return spoken
    answer = extract_answer(spoken)
    if answer is None:
        return spoken
    words = _WORDS.fullmatch(answer)
    return words[1].strip() if words else answer
