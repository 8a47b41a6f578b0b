"""Accuracy on questions that were never trained on, with greedy decoding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from vexp.config.types import UNHASHED, PositiveInt
from vexp.dataset.base import Dataset
from vexp.engine.base import Generated, Sampling
from vexp.errors import DataError, Problem
from vexp.evaluator.base import Evaluator, Sample
from vexp.registry import register
from vexp.response.format import is_well_formed
from vexp.verifier.pool import judge

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec

SMALLEST = 1e-6  # mean that a ratio may have as its denominator; a negative one has none
Place = tuple[str, int]  # dataset name, item index


@dataclass(frozen=True)
class SampleExtras:
    """What else is recorded of an answer."""

    values: Mapping[str, float] = field(default_factory=dict)
    gallery: Mapping[str, Any] = field(default_factory=dict)


@register("evaluator", "heldout")
@dataclass(frozen=True, kw_only=True)
class Heldout(Evaluator):
    """Greedy answers to the first `size` held-out questions of each dataset, judged.

    Metrics: accuracy, accuracy/<tag>, format, length, truncated, and unjudged (no verdict could be
    reached: a bad gold answer, an answer that the verifier does not read, a time-out, a crash;
    these count as wrong). With several datasets, also <dataset>/accuracy and
    <dataset>/accuracy/<tag>.
    """

    produces: ClassVar[tuple[str, ...]] = (
        "accuracy", "accuracy/*", "*/accuracy", "*/accuracy/*",
        "format", "length", "truncated", "unjudged",
    )  # fmt: skip

    split: Literal["dev", "test"] = "test"  # dev is for tuning, test for results
    size: PositiveInt = 1_000  # questions per dataset; fewer if the split is smaller
    max_response_length: PositiveInt | None = None  # tokens; null: as in training
    batch_size: Annotated[PositiveInt, UNHASHED] = 100  # questions per generation batch
    datasets: dict[str, Dataset] = field(default_factory=dict)  # asked; empty: those of the mix

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if not self._datasets(run):
            yield Problem(
                "there is no dataset to evaluate on",
                where="mix.datasets",
                remedy="name one, e.g. mix.datasets.main=digits_vqa",
            )
        for name, dataset in self._datasets(run).items():
            try:
                empty = not dataset.size(self.split)
            except DataError:  # the dataset reports that itself
                continue
            if empty:
                yield Problem(
                    f"dataset {name!r} has no {self.split} item",
                    where="datasets" if self.datasets else f"mix.datasets.{name}",
                    remedy="choose another split, or give the dataset one",
                )

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        from vexp.config.hashing import plain

        datasets = {
            name: {
                "dataset": plain(dataset),
                "held_out": dict(dataset.held_out_content(self.split)),
                "items": min(self.size, dataset.size(self.split)),
            }
            for name, dataset in sorted(self._datasets(run).items())
        }
        return {
            "split": self.split,
            "size": sum(entry["items"] for entry in datasets.values()),
            "datasets": datasets,
            "prompt": plain(run.prompt),
            "verifier": plain(run.verifier),
            "engine": plain(run.engine),
            "compute": plain(run.compute),
            "max_response_length": self._limit(run),
            "decoding": "greedy",
        }

    def samples(self, policy: Policy, run: RunSpec, start: int = 0) -> Iterator[Sample]:
        places, each = self._places(run), self._sampling(run).group_size
        first = start // each - start // each % self.batch_size
        for begin in range(first, len(places), self.batch_size):
            batch = self._score(policy, run, places[begin : begin + self.batch_size])
            yield from batch[max(0, start - begin * each) :]

    def metrics(self, samples: list[Sample]) -> dict[str, dict[str, float | None]]:
        if not samples:
            return {}
        found = accuracies([(s.dataset, s.tag, s.correct) for s in samples])
        unjudged = ("bad_gold", "unreadable", "timeout", "crashed")
        found["format"] = mean([float(sample.well_formed) for sample in samples])
        found["length"] = mean([float(sample.length) for sample in samples])
        found["truncated"] = mean([float(sample.truncated) for sample in samples])
        found["unjudged"] = mean([float(sample.status in unjudged) for sample in samples])
        return found

    def _sampling(self, run: RunSpec) -> Sampling:
        """How a question is answered."""
        return Sampling(
            group_size=1,
            max_response_length=self._limit(run),
            greedy=True,
            purpose="evaluation",
        )

    def _datasets(self, run: RunSpec) -> Mapping[str, Dataset]:
        return self.datasets or run.mix.datasets

    def _limit(self, run: RunSpec) -> int:
        return self.max_response_length or run.rollout.max_response_length

    def _places(self, run: RunSpec) -> list[Place]:
        return [
            (name, index)
            for name, dataset in sorted(self._datasets(run).items())
            for index in range(min(self.size, dataset.size(self.split)))
        ]

    def _score(self, policy: Policy, run: RunSpec, places: Sequence[Place]) -> list[Sample]:
        """One batch: answer, judge, and keep a record of each answer."""
        items = [self._datasets(run)[name].item(self.split, index) for name, index in places]
        ids = [f"{name}/{item.id}" for (name, _), item in zip(places, items, strict=True)]
        sampling = self._sampling(run)
        prompts = policy.encode(items, run.prompt).to(policy.device)
        generated = run.engine.generate(policy, prompts, ids, sampling)
        each = sampling.group_size
        items = [item for item in items for _ in range(each)]
        places = [place for place in places for _ in range(each)]
        if each > 1:
            ids = [f"{name}#{number}" for name in ids for number in range(each)]
        texts = policy.decode(generated.tokens, generated.mask)
        judged = [policy.opening + text for text in texts]
        verdicts = judge(run.verifier, judged, [item.answer for item in items])
        looked = self._looked(policy, run, places, items, prompts, generated)
        lengths: list[int] = generated.mask.sum(dim=1).tolist()
        finished: list[bool] = generated.finished.tolist()
        return [
            Sample(
                id=ids[i],
                question=items[i].question,
                answer=items[i].answer,
                response=texts[i],
                extracted=verdicts[i].extracted,
                correct=verdicts[i].correct,
                tag=items[i].tag,
                status=verdicts[i].status,
                length=lengths[i],
                dataset=places[i][0],
                well_formed=is_well_formed(
                    judged[i], run.prompt.response_format, tuple(policy.emits)
                ),
                truncated=not finished[i],
                values=looked[i].values,
                gallery=looked[i].gallery,
            )
            for i in range(len(items))
        ]

    def _looked(
        self,
        policy: Policy,
        run: RunSpec,
        places: Sequence[Place],
        items: Sequence[Item],
        prompts: PromptBatch,
        generated: Generated,
    ) -> Sequence[SampleExtras]:
        """What else is recorded of each answer; nothing here."""
        return [SampleExtras() for _ in items]


def mean(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, its standard error and n.

    The error is the sample standard deviation over sqrt(n); for a share p that is
    sqrt(p (1 - p) / (n - 1)). A single value has none.
    """
    n = len(values)
    value = math.fsum(values) / n
    spread = math.fsum((x - value) ** 2 for x in values)
    stderr = math.sqrt(spread / (n - 1) / n) if n > 1 else None
    return {"value": value, "stderr": stderr, "n": n}


def ratio(
    name: str, above: Sequence[float], below: Sequence[float]
) -> dict[str, dict[str, float | None]]:
    """The metric `name`: the ratio of the means of two paired lists; none if the second is about 0.

    Its standard error is that of the first-order expansion (delta method).
    """
    n, bottom = len(below), math.fsum(below)
    if not n or bottom <= SMALLEST * n:
        return {}
    value = math.fsum(above) / bottom
    spread = math.fsum((x - value * y) ** 2 for x, y in zip(above, below, strict=True))
    stderr = math.sqrt(spread / (n - 1) * n) / bottom if n > 1 else None
    return {name: {"value": value, "stderr": stderr, "n": n}}


def accuracies(scores: Sequence[tuple[str, str, float]]) -> dict[str, dict[str, float | None]]:
    """Accuracy of all, by tag, and with several datasets of each: from dataset, tag and score."""
    found = _by_tag(scores, "")
    datasets = sorted({dataset for dataset, _, _ in scores})
    if len(datasets) > 1:
        for name in datasets:
            found |= _by_tag([score for score in scores if score[0] == name], f"{name}/")
    return found


def _by_tag(
    scores: Sequence[tuple[str, str, float]], prefix: str
) -> dict[str, dict[str, float | None]]:
    found = {f"{prefix}accuracy": mean([score for _, _, score in scores])}
    for wanted in sorted({tag for _, tag, _ in scores if tag}):
        found[f"{prefix}accuracy/{wanted}"] = mean([s for _, tag, s in scores if tag == wanted])
    return found
