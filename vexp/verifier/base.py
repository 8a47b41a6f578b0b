"""A verifier: the judge of whether a response's answer equals the gold answer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vexp.registry import Component

Status = Literal["ok", "no_answer", "unreadable", "bad_gold", "timeout", "crashed"]


@dataclass(frozen=True)
class Verdict:
    """`correct` is 0 or 1. `status` says why it is 0 when the answers were never compared.

    no_answer: the response states none. unreadable: it states one that the verifier does not read.
    bad_gold: the gold answer cannot be read. timeout, crashed: the verifier gave none.
    """

    correct: float
    extracted: str | None = None  # the answer found in the response
    status: Status = "ok"


@dataclass(frozen=True, kw_only=True)
class Verifier(Component):
    """Judges one response. A verifier with a `time_limit_s` runs in a worker process.

    `version` is raised whenever equal answers get other verdicts: rewards and scores change with
    them, so it enters the ids of runs and the keys of evaluations.
    """

    kind: ClassVar[str] = "verifier"
    version: ClassVar[int] = 1
    # Whether an answer counts only in a box, in `<answer>` tags or in a line "Answer: ...", which a
    # prompt then has to ask for. False for a verifier that reads the response in another way.
    reads_format: ClassVar[bool] = True

    def content(self) -> dict[str, Any]:
        return {} if self.version == 1 else {"version": self.version}

    @property
    def time_limit_s(self) -> float | None:
        """Seconds one verdict may take; None for a verifier that cannot hang (runs in process)."""
        return None

    def prepare(self) -> None:
        """Import what a verdict needs; called once per worker process, outside the time limit."""

    @abstractmethod
    def verdict(self, response: str, gold: str) -> Verdict:
        """Judge the text of a response. A gold answer that cannot be parsed gives 0, `bad_gold`."""

    def gold_problem(self, gold: str) -> str | None:
        """Reason why a gold answer cannot be read, as a clause; None if it can.

        Called for every gold answer before training, in this process unless it `may_take_long`.
        """
        status = self.verdict(f"\\boxed{{{gold}}}", gold).status
        return "the verifier cannot read it" if status == "bad_gold" else None

    def may_take_long(self, gold: str) -> bool:
        """True if a gold answer has to be read in a worker process, under the time limit."""
        return self.time_limit_s is not None
