"""avg@k: several sampled answers to each held-out question."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from vexp.config.types import UNHASHED, Between, Count, Positive, PositiveInt
from vexp.engine.base import Sampling
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout, accuracies, mean
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("evaluator", "avg_at_k")
@dataclass(frozen=True, kw_only=True)
class AvgAtK(Heldout):
    """`k` sampled answers to each of the first `size` held-out questions, judged.

    The metrics of `heldout`, where accuracy is that of an answer, averaged over the k of a question
    and then over questions; its standard error is over questions, since answers to one question are
    alike. Beside them

        pass       share of questions with a right answer among the k: pass@k
        run_std    sample standard deviation of the accuracies of the first, second, … answers: the
                   spread printed behind avg@8 by VICRA, table 3 (temperature 1)

    `run_std` is what sampling alone does to a score; it says nothing of other seeds of training.
    """

    produces = (*Heldout.produces, "pass", "run_std")

    k: Annotated[PositiveInt, Between(2)] = 8  # answers to a question
    temperature: Positive = 1.0  # of the draws
    top_p: Annotated[Positive, Between(0, 1)] = 1.0  # share of the probability drawn from
    seed: Count = 0  # of the draws
    batch_size: Annotated[PositiveInt, UNHASHED] = 16  # questions per generation batch

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        found = super().protocol(run)
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return {**found, "size": found["size"] * self.k, "k": self.k, "decoding": drawn}

    def metrics(self, samples: list[Sample]) -> dict[str, dict[str, float | None]]:
        if not samples:
            return {}
        by_question: dict[tuple[str, str, str], list[float]] = {}
        by_place: dict[str, list[float]] = {}
        for sample in samples:
            question, _, place = sample.id.rpartition("#")
            key = (sample.dataset, sample.tag, question)
            by_question.setdefault(key, []).append(sample.correct)
            by_place.setdefault(place, []).append(sample.correct)
        found = super().metrics(samples)
        shares = [(d, tag, statistics.fmean(right)) for (d, tag, _), right in by_question.items()]
        found |= accuracies(shares)
        found["pass"] = mean([float(max(right) == 1) for right in by_question.values()])
        each = [statistics.fmean(right) for right in by_place.values()]
        if len(each) > 1:
            spread = statistics.stdev(each)
            error = spread / math.sqrt(2 * (len(each) - 1))  # of normal values
            found["run_std"] = {"value": spread, "stderr": error, "n": len(each)}
        return found

    def _sampling(self, run: RunSpec) -> Sampling:
        return Sampling(
            group_size=self.k,
            max_response_length=self._limit(run),
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            purpose="evaluation",
        )
