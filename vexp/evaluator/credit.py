"""Which words get the credit: token weights of a credit method on held-out questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from vexp.config.types import UNHASHED, Count, PositiveInt
from vexp.credit.base import CreditMethod
from vexp.diagnostics.gallery import picture
from vexp.engine.base import Generated, Sampling
from vexp.errors import Problem
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout, Place, mean, ratio
from vexp.layer.base import Layer
from vexp.registry import Component, component_slots, register, slot
from vexp.response.format import is_well_formed
from vexp.response.token_classes import KINDS, kinds
from vexp.reward.base import ObservedReward, Scored
from vexp.verifier.pool import judge

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.dataset.base import Item
    from vexp.experience.batch import Experience
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec

Metrics = dict[str, dict[str, float | None]]


@register("evaluator", "credit")
@dataclass(frozen=True, kw_only=True)
class Credit(Heldout):
    """Groups of responses sampled as in training, and how much of a response's credit a word gets.

    A token's weight is its advantage over its response's, from the same code as in training; where
    the response's advantage is 0, it is what the method gives to an advantage of 1. Uniform credit
    has the weight 1 everywhere. Beside the metrics of `heldout`, here of sampled responses:

        weight/digit            mean weight on digits
        weight/color_place      on words for colours and places
        weight/connective       on all other words; markup and punctuation belong to none of these
        weight/digit_over_connective, weight/color_place_over_connective
                                ratio of two of them, over the responses that have both kinds

    Means are over responses, each the mean over its tokens of the kind. Standard errors take
    responses as independent, those of one prompt included. `vexp tokens RUN` shows the responses to
    the first `keep` questions coloured by weight.

    Says nothing about whether it helps to credit these words.
    """

    produces = (*Heldout.produces, "weight/*")

    credit: CreditMethod | None = None  # the method whose weights are taken; null: the run's own
    size: PositiveInt = 100  # questions per dataset; fewer if the split is smaller
    group_size: PositiveInt = 8  # responses per question
    # Questions per batch, as in a step: some methods compare the groups of a step.
    batch_size: PositiveInt = 16
    keep: Count = 8  # questions whose responses keep the weight of each token in samples.jsonl
    gallery: Annotated[Count, UNHASHED] = 8  # questions whose first response can be drawn
    layer: Annotated[Layer, UNHASHED] = slot("layer", "two_thirds")  # whose attention is drawn

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        method = self._method(run)
        if any("reference_logprobs" in part.required() for part in _with_parts(method)):
            yield Problem(
                f"credit {method.name!r} needs a reference policy, which a checkpoint alone lacks",
                where="credit",
                remedy="choose another credit method, or leave this evaluator out",
            )

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        from vexp.config.hashing import plain

        found = {**super().protocol(run)}
        return {
            **found,
            "size": found["size"] * self.group_size,
            "decoding": {"temperature": run.rollout.temperature, "top_p": run.rollout.top_p},
            "credit": plain(self._method(run)),
            "reward": plain(run.reward),
            "algorithm": plain(run.algorithm),
            "row_alignment": run.rl.row_alignment,
            "group_size": self.group_size,
            "batch_size": self.batch_size,
            "keep": self.keep,
        }

    def samples(self, policy: Policy, run: RunSpec, start: int = 0) -> Iterator[Sample]:
        places = self._places(run)
        whole = self.batch_size * self.group_size
        for number in range(start // whole, -(-len(places) // self.batch_size)):
            first = number * self.batch_size
            batch = self._group_scores(policy, run, places[first : first + self.batch_size], first)
            yield from batch[max(0, start - number * whole) :]

    def metrics(self, samples: list[Sample]) -> Metrics:
        if not samples:
            return {}
        found = super().metrics(samples)
        for kind in KINDS:
            known = [s.values[f"weight/{kind}"] for s in samples if f"weight/{kind}" in s.values]
            if known:
                found[f"weight/{kind}"] = mean(known)
        for kind in KINDS[:-1]:
            names = (f"weight/{kind}", f"weight/{KINDS[-1]}")
            both = [s.values for s in samples if all(name in s.values for name in names)]
            above, below = ([values[name] for values in both] for name in names)
            found |= ratio(f"weight/{kind}_over_{KINDS[-1]}", above, below)
        return found

    def _method(self, run: RunSpec) -> CreditMethod:
        return self.credit or run.credit

    def _group_scores(
        self, policy: Policy, run: RunSpec, places: Sequence[Place], first: int
    ) -> list[Sample]:
        """One batch: sample, judge, share out the credit, and keep a record of each response."""
        items = [run.mix.datasets[name].item(self.split, index) for name, index in places]
        ids = [f"{name}/{item.id}" for (name, _), item in zip(places, items, strict=True)]
        prompts, generated = self._generated(policy, run, items, ids)
        repeated = [item for item in items for _ in range(self.group_size)]
        texts = policy.decode(generated.tokens, generated.mask)
        judged = [policy.opening + text for text in texts]
        verdicts = judge(run.verifier, judged, [item.answer for item in repeated])
        scored = Scored(
            texts=texts,
            lengths=generated.mask.sum(dim=1).tolist(),
            finished=generated.finished.tolist(),
            items=repeated,
            verdicts=verdicts,
            max_response_length=self._limit(run),
            response_format=run.prompt.response_format,
            emits=tuple(policy.emits),
            opening=policy.opening,
        )
        weights, seen = self._weights(policy, run, items, prompts, generated, scored)
        drawn = {
            number * self.group_size
            for number, (_, index) in enumerate(places)
            if index < self.gallery
        }
        layer = self.layer.index(policy.layers)
        gallery = {row: picture(seen, policy, row, layer, {"credit": weights}) for row in drawn}
        return [
            self._sample(ids, places, scored, row, pieces, own, first, gallery.get(row, {}))
            for row, (pieces, own) in enumerate(_tokens(policy, generated, weights))
        ]

    def _generated(
        self, policy: Policy, run: RunSpec, items: Sequence[Item], ids: Sequence[str]
    ) -> tuple[PromptBatch, Generated]:
        prompts = policy.encode(items, run.prompt)
        sampling = Sampling(
            group_size=self.group_size,
            max_response_length=self._limit(run),
            temperature=run.rollout.temperature,
            top_p=run.rollout.top_p,
            purpose="evaluation",
        )
        return prompts, run.engine.generate(policy, prompts, ids, sampling)

    def _weights(
        self,
        policy: Policy,
        run: RunSpec,
        items: Sequence[Item],
        prompts: PromptBatch,
        generated: Generated,
        scored: Scored,
    ) -> tuple[Tensor, Experience]:  # [rollout, token] float64, and what they were found from
        from vexp.experience.batch import micro_batches
        from vexp.experience.build import answers
        from vexp.experience.observe import asked_by, observe
        from vexp.reward._total import reward, with_observed

        method, terms = self._method(run), run.reward.terms
        totals = reward(terms, scored).total or [0.0] * len(scored.texts)
        found = answers(run, policy, items, prompts, generated, totals)
        observed = [term for term in terms.values() if isinstance(term, ObservedReward)]
        asking = [part for whole in (method, *observed) for part in _with_parts(whole)]
        group = found.group.tolist()
        asked = asked_by(asking, policy.layers)
        predictor = run.rl.row_alignment == "predictor"
        seen = observe(
            found,
            policy,
            None,
            micro_batches(group, range(len(group)), run.compute.micro_batch_size),
            dataclasses.replace(asked, predictor=predictor),
            temperature=run.rollout.temperature,
            seed=0,
            step=0,
        )
        outcome = run.algorithm.advantages(with_observed(terms, seen), seen.group).double()
        outcome = outcome.masked_fill(outcome == 0, 1.0)
        return method.advantages(outcome, seen).double() / outcome[:, None], seen

    def _sample(
        self,
        ids: Sequence[str],
        places: Sequence[Place],
        scored: Scored,
        row: int,
        pieces: Sequence[str],
        weights: Sequence[float],
        first: int,
        gallery: Mapping[str, Any],
    ) -> Sample:
        question, member = divmod(row, self.group_size)
        item, verdict, text = scored.items[row], scored.verdicts[row], scored.texts[row]
        kept = zip(pieces, weights, strict=True) if first + question < self.keep else ()
        return Sample(
            id=f"{ids[question]}#{member}",
            question=item.question,
            answer=item.answer,
            response=text,
            extracted=verdict.extracted,
            correct=verdict.correct,
            tag=item.tag,
            status=verdict.status,
            length=scored.lengths[row],
            dataset=places[question][0],
            well_formed=is_well_formed(scored.opening + text, scored.response_format, scored.emits),
            truncated=not scored.finished[row],
            values=_by_kind(pieces, weights),
            tokens=tuple(kept),
            gallery=gallery,
        )


def _with_parts(component: Component) -> Iterator[Component]:
    yield component
    yield from (part for _, part in component_slots(component))


def _tokens(
    policy: Policy, generated: Generated, weights: Tensor
) -> Iterator[tuple[list[str], list[float]]]:
    """The text and the weight of each token, response by response."""
    for tokens, mask, own in zip(generated.tokens, generated.mask, weights, strict=True):
        single = [[token] for token in tokens[mask].tolist()]
        yield policy.tokenizer.batch_decode(single), own[mask].tolist()


def _by_kind(pieces: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """The mean weight on the words of each kind that the response has."""
    found: dict[str, list[float]] = {}
    for kind, weight in zip(kinds(pieces), weights, strict=True):
        if kind:
            found.setdefault(f"weight/{kind}", []).append(weight)
    return {name: sum(own) / len(own) for name, own in sorted(found.items())}
