"""The first half of a step: prompts, responses, rewards, and the groups that may train."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.dataset.base import Item
from vexp.engine.base import Generated
from vexp.experience.batch import Experience
from vexp.experience.build import of_prompts
from vexp.mix.base import Mix
from vexp.policy import parallel, stopping
from vexp.response.format import keep_format
from vexp.reward._total import Rewards, reward
from vexp.reward.base import Scored
from vexp.rollout.base import Continuing
from vexp.train import sampling
from vexp.train.rethinking import Rethought, rethought
from vexp.train.sampling import generate, widened
from vexp.train.timing import Clock
from vexp.verifier.base import Verdict
from vexp.verifier.pool import judge

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec


@dataclass(frozen=True)
class Rollouts:
    """One rollout batch: a group of responses to each of some prompts, scored."""

    items: list[Item]  # one per prompt
    prompts: PromptBatch | None  # None: this process has encoded only its share of them
    generated: Generated
    lengths: list[int]  # tokens, per response
    finished: list[bool]
    well_formed: list[bool]
    rewards: Rewards
    kept: list[int]  # prompts whose group may train
    rethought: Rethought | None = None  # what forced rethinking did to the responses


@dataclass(frozen=True)
class Answered:
    """The judged responses to some items."""

    prompts: PromptBatch | None
    generated: Generated
    scored: Scored
    rethought: Rethought | None = None


@dataclass
class Collected:
    """The batches generated for one step."""

    cursor: int  # prompts drawn from the mix so far
    batches: list[Rollouts] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return sum(len(batch.kept) for batch in self.batches)


def collect(run: RunSpec, policy: Policy, *, step: int, cursor: int, clock: Clock) -> Collected:
    """Generate and score batches until enough groups pass the filter, or its limit is reached."""
    collected = Collected(cursor)
    seen: Counter[str] = Counter()
    for _ in range(run.group_filter.max_batches):
        stopping.check_together()
        with clock("generate_s"):
            items = draw(run.mix, collected.cursor, run.rl.prompts_per_step, seed=run.seed)
            keys = distinct([item.id for item in items], seen)
        found = answered_by_all(run, policy, items, keys, step, clock)
        with clock("score_s"):
            batch = rewarded(run, items, found.prompts, found.generated, found.scored, step)
        collected.batches.append(dataclasses.replace(batch, rethought=found.rethought))
        collected.cursor += run.rl.prompts_per_step
        if collected.kept >= run.rl.prompts_per_step:
            break
    return collected


def prefetch(run: RunSpec, policy: Policy, *, step: int, cursor: int) -> None:
    """Have the engine begin with the first batch that `collect` will ask it for in `step`."""
    items = draw(run.mix, cursor, run.rl.prompts_per_step, seed=run.seed)
    keys = distinct([item.id for item in items], Counter())
    share = parallel.slice_of_rank(len(items))
    if items[share]:
        sampling.prefetch(run, policy, items[share], keys[share], step)


def answered_by_all(
    run: RunSpec, policy: Policy, items: list[Item], keys: list[str], step: int, clock: Clock
) -> Answered:
    """The judged responses to all items, of which every process makes those to its share."""
    if parallel.world_size() == 1:
        return answered(run, policy, items, keys, step, clock)
    share = parallel.slice_of_rank(len(items))
    own: tuple[dict[str, Tensor], Any] = {}, None
    if items[share]:
        found = answered(run, policy, items[share], keys[share], step, clock)
        second = found.rethought
        verdicts = [dataclasses.asdict(verdict) for verdict in found.scored.verdicts]
        counts = (second.tried, second.kept) if second else (0, 0)
        own = vars(found.generated), {"verdicts": verdicts, "counts": counts}
    with clock("generate_s"):
        parts = [part for part in parallel.all_gather(*own) if part[1] is not None]
    padding = {"tokens": policy.pad_id, "mask": False, "logprobs": 0.0}
    tensors = {
        name: stacked([part[name] for part, _ in parts], value) for name, value in padding.items()
    }
    tensors["finished"] = torch.cat([part["finished"] for part, _ in parts])
    generated = Generated(**{name: value.to(policy.device) for name, value in tensors.items()})
    judgements = [Verdict(**verdict) for _, plain in parts for verdict in plain["verdicts"]]
    scored = as_text(run, policy, items, generated, judgements)
    if not isinstance(run.rollout, Continuing):
        return Answered(None, generated, scored)
    tried, kept = (sum(plain["counts"][k] for _, plain in parts) for k in (0, 1))
    return Answered(None, generated, scored, Rethought(generated, scored, tried, kept))


def answered(
    run: RunSpec, policy: Policy, items: list[Item], keys: list[str], step: int, clock: Clock
) -> Answered:
    """The judged responses to items, after whatever the rollout method makes of them."""
    with clock("generate_s"):
        prompts, generated = generate(run, policy, items, keys, step)
    with clock("score_s"):
        scored = judged(run, policy, items, generated)
    if not isinstance(run.rollout, Continuing):
        return Answered(prompts, generated, scored)
    second = rethought(run, run.rollout, policy, keys, prompts, generated, scored, step, clock)
    return Answered(prompts, second.generated, second.scored, second)


def draw(mix: Mix, start: int, count: int, *, seed: int) -> list[Item]:
    """Training items number `start` to `start + count - 1`."""
    return [mix.draw(ordinal, seed=seed) for ordinal in range(start, start + count)]


def distinct(ids: Sequence[str], seen: Counter[str]) -> list[str]:
    """Keys for the noise: an item that a small dataset gives twice in a step is sampled anew."""
    keys = []
    for item_id in ids:
        seen[item_id] += 1
        keys.append(item_id if seen[item_id] == 1 else f"{item_id}#{seen[item_id]}")
    return keys


def judged(run: RunSpec, policy: Policy, items: list[Item], generated: Generated) -> Scored:
    """The responses as text, each with its verdict."""
    found = as_text(run, policy, items, generated, ())
    answers = [item.answer for item in found.items]
    texts = [found.opening + text for text in found.texts]
    return dataclasses.replace(found, verdicts=judge(run.verifier, texts, answers))


def as_text(
    run: RunSpec,
    policy: Policy,
    items: list[Item],
    generated: Generated,
    verdicts: Sequence[Verdict],
) -> Scored:
    """The responses as text, with verdicts that are known."""
    return Scored(
        texts=policy.decode(generated.tokens, generated.mask),
        lengths=generated.mask.sum(dim=1).tolist(),
        finished=generated.finished.tolist(),
        items=[item for item in items for _ in range(run.rollout.responses_per_prompt)],
        verdicts=verdicts,
        max_response_length=run.rollout.max_response_length,
        response_format=run.prompt.response_format,
        emits=tuple(policy.emits),
        opening=policy.opening,
    )


def rewards_of(run: RunSpec, scored: Scored) -> Rewards:
    """The rewards; one process finds them for all: a term may see the whole batch, or waver."""
    if parallel.world_size() == 1:
        return reward(run.reward.terms, scored)
    found = parallel.from_rank_zero(lambda: vars(reward(run.reward.terms, scored)))
    return Rewards(**{**found, "statuses": Counter(found["statuses"])})


def rewarded(
    run: RunSpec,
    items: list[Item],
    prompts: PromptBatch | None,
    generated: Generated,
    scored: Scored,
    step: int,
) -> Rollouts:
    """Reward the judged responses, and ask the filter which groups may train."""
    size = run.rollout.responses_per_prompt
    rewards = rewards_of(run, scored)
    groups = [rewards.accuracies[i : i + size] for i in range(0, len(scored.texts), size)]
    keep = run.group_filter.keep(groups, step)
    return Rollouts(
        items=items,
        prompts=prompts,
        generated=generated,
        lengths=list(scored.lengths),
        finished=list(scored.finished),
        well_formed=keep_format(scored),
        rewards=rewards,
        kept=[index for index, passed in enumerate(keep) if passed],
    )


def to_experience(run: RunSpec, policy: Policy, collected: Collected) -> Experience | None:
    """The groups that passed, cut to `prompts_per_step`; None if there are none."""
    size, room = run.rollout.responses_per_prompt, run.rl.prompts_per_step
    first = collected.cursor - room * len(collected.batches)
    items: list[Item] = []
    ordinals: list[int] = []
    parts: list[tuple[Generated, list[int]]] = []
    totals: list[float] = []
    accuracies: list[float] = []
    for number, batch in enumerate(collected.batches):
        chosen = batch.kept[: room - len(items)]
        rows = [prompt * size + k for prompt in chosen for k in range(size)]
        items += [batch.items[prompt] for prompt in chosen]
        ordinals += [first + number * room + prompt for prompt in chosen]
        totals += [batch.rewards.total[row] for row in rows]
        accuracies += [batch.rewards.accuracies[row] for row in rows]
        if rows:
            parts.append((batch.generated, rows))
    if not items:
        return None
    device = policy.device
    has_image = torch.tensor([item.image is not None for item in items], device=device)
    return Experience(
        **of_prompts(run, policy, items, _prompts(run, policy, collected, items)),
        ordinals=tuple(ordinals),
        group=torch.arange(len(items), device=device).repeat_interleave(size),
        tokens=stacked([part.tokens[rows] for part, rows in parts], policy.pad_id),
        mask=stacked([part.mask[rows] for part, rows in parts], False),
        sampling_logprobs=stacked([part.logprobs[rows] for part, rows in parts], 0.0),
        rewards=torch.tensor(totals, dtype=torch.float64, device=device),
        accuracies=torch.tensor(accuracies, dtype=torch.float64, device=device),
        has_image=has_image.repeat_interleave(size),
        place=torch.arange(size, device=device).repeat(len(items)),
    )


def _prompts(run: RunSpec, policy: Policy, collected: Collected, items: list[Item]) -> PromptBatch:
    """The prompts of `items`; encoded again when no one batch has them all."""
    first = collected.batches[0]
    if len(collected.batches) > 1 or first.prompts is None:
        return policy.encode(items, run.prompt)
    return first.prompts if len(items) == len(first.items) else first.prompts.select(first.kept)


def stacked(parts: Sequence[Tensor], padding: float) -> Tensor:  # [rollout, token]
    """[rollout, token] values of several widths, one below the other."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([widened(part, width, padding) for part in parts])
