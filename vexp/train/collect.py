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
from vexp.mix.base import Mix
from vexp.reward.base import Scored
from vexp.rollout.base import Continuing
from vexp.train.evidence import relative_boxes
from vexp.train.experience import Experience
from vexp.train.responses import is_well_formed
from vexp.train.rethinking import Rethought, rethought
from vexp.train.rewards import Rewards, reward
from vexp.train.sampling import generate, widened
from vexp.train.timing import Clock
from vexp.verifier.pool import judge

if TYPE_CHECKING:
    from vexp.spec import RunSpec
    from vexp.train.policy import Policy
    from vexp.train.prompts import PromptBatch


@dataclass(frozen=True)
class Rollouts:
    """One rollout batch: a group of responses to each of some prompts, scored."""

    items: list[Item]  # one per prompt
    prompts: PromptBatch
    generated: Generated
    lengths: list[int]  # tokens, per response
    finished: list[bool]
    well_formed: list[bool]
    rewards: Rewards
    kept: list[int]  # prompts whose group may train
    rethought: Rethought | None = None  # what forced rethinking did to the responses


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
        with clock("generate_s"):
            items = draw(run.mix, collected.cursor, run.rl.prompts_per_step, seed=run.seed)
            keys = distinct([item.id for item in items], seen)
            prompts, generated = generate(run, policy, items, keys, step)
        with clock("score_s"):
            scored = judged(run, policy, items, generated)
        second = None
        if isinstance(run.rollout, Continuing):
            second = rethought(
                run, run.rollout, policy, keys, prompts, generated, scored, step, clock
            )
            generated, scored = second.generated, second.scored
        with clock("score_s"):
            batch = rewarded(run, items, prompts, generated, scored, step)
        collected.batches.append(dataclasses.replace(batch, rethought=second))
        collected.cursor += run.rl.prompts_per_step
        if collected.kept >= run.rl.prompts_per_step:
            break
    return collected


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
    texts = policy.decode(generated.tokens, generated.mask)
    repeated = [item for item in items for _ in range(run.rollout.responses_per_prompt)]
    return Scored(
        texts=texts,
        lengths=generated.mask.sum(dim=1).tolist(),
        finished=generated.finished.tolist(),
        items=repeated,
        verdicts=judge(run.verifier, texts, [item.answer for item in repeated]),
        max_response_length=run.rollout.max_response_length,
        response_format=run.prompt.response_format,
        emits=tuple(policy.emits),
    )


def rewarded(
    run: RunSpec,
    items: list[Item],
    prompts: PromptBatch,
    generated: Generated,
    scored: Scored,
    step: int,
) -> Rollouts:
    """Reward the judged responses, and ask the filter which groups may train."""
    size = run.rollout.responses_per_prompt
    rewards = reward(run.reward.terms, scored)
    groups = [rewards.accuracies[i : i + size] for i in range(0, len(scored.texts), size)]
    keep = run.group_filter.keep(groups, step)
    return Rollouts(
        items=items,
        prompts=prompts,
        generated=generated,
        lengths=list(scored.lengths),
        finished=list(scored.finished),
        well_formed=[
            is_well_formed(text, scored.response_format, scored.emits) for text in scored.texts
        ],
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


def answers(
    run: RunSpec,
    policy: Policy,
    items: Sequence[Item],
    prompts: PromptBatch,
    generated: Generated,
    rewards: Sequence[float],
) -> Experience:
    """Responses to held-out items, groups of equal size, as the experience pass takes them."""
    device = policy.device
    group = torch.arange(len(items), device=device)
    size = len(generated.mask) // max(1, len(items))
    has_image = torch.tensor([item.image is not None for item in items], device=device)
    return Experience(
        **of_prompts(run, policy, items, prompts),
        group=group.repeat_interleave(size),
        tokens=generated.tokens,
        mask=generated.mask,
        rewards=torch.tensor(rewards, dtype=torch.float64, device=device),
        sampling_logprobs=generated.logprobs,
        has_image=has_image.repeat_interleave(size),
        place=torch.arange(size, device=device).repeat(len(items)),
    )


def of_prompts(
    run: RunSpec, policy: Policy, items: Sequence[Item], prompts: PromptBatch
) -> dict[str, Any]:
    """What an experience says about its prompts, made from `items`."""
    boxes = [relative_boxes(item.boxes, item.image.size)[0] if item.image else () for item in items]
    return {
        "prompts": prompts,
        "items": tuple(items),
        "prompt_of": run.prompt,
        "boxes": tuple(item.boxes for item in items),
        "evidence": tuple(tuple(found) for found in boxes),
        "grids": policy.grids(prompts),
        "layers": policy.layers,
        "emitted": policy.emits,
    }


def _prompts(run: RunSpec, policy: Policy, collected: Collected, items: list[Item]) -> PromptBatch:
    """The prompts of `items`; encoded again only when they come from several batches."""
    first = collected.batches[0]
    if len(collected.batches) > 1:
        return policy.encode(items, run.prompt)
    return first.prompts if len(items) == len(first.items) else first.prompts.select(first.kept)


def stacked(parts: Sequence[Tensor], padding: float) -> Tensor:  # [rollout, token]
    """[rollout, token] values of several widths, one below the other."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([widened(part, width, padding) for part in parts])
