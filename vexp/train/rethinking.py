"""Forced rethinking in a rollout batch: take up, continue, judge again, and keep what is better.

What is taken up and what is kept is for `rollout.rethink` to say; the tokens are made here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from vexp.engine.base import Generated, Sampling
from vexp.policy.randomness import derive
from vexp.response.format import answer_start
from vexp.reward.base import Scored
from vexp.rollout.base import Continuation, Continuing, SecondThought
from vexp.train.sampling import widened
from vexp.train.timing import Clock
from vexp.verifier.pool import judge

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec
    from vexp.verifier.base import Verdict

T = TypeVar("T")
PURPOSE = "rethink"


@dataclass(frozen=True)
class Rethought:
    """A rollout batch in which some responses took the places of others."""

    generated: Generated
    scored: Scored
    tried: int  # responses that were taken up again
    kept: int  # of which the continued version is in the batch


@dataclass(frozen=True)
class _Begun:
    """A response that is to go on."""

    row: int  # of the rollout batch
    old: list[int]  # tokens of it that stay
    trigger: list[int]  # tokens set after them
    limit: int  # tokens that may follow

    @property
    def tokens(self) -> list[int]:
        return [*self.old, *self.trigger]


def rethought(
    run: RunSpec,
    method: Continuing,
    policy: Policy,
    keys: Sequence[str],
    prompts: PromptBatch,
    generated: Generated,
    scored: Scored,
    step: int,
    clock: Clock,
) -> Rethought:
    """The rollout batch after forced rethinking; every choice is a function of a row's own key."""
    with clock("generate_s"):
        begun = _taken_up(run, method, policy, keys, generated, scored, step)
        if not begun:
            return Rethought(generated, scored, 0, 0)
        found = _continued(run, method, policy, keys, prompts, begun, step)
        whole = _whole(policy, generated, begun, found)
    with clock("score_s"):
        texts = policy.decode(whole.tokens, whole.mask)
        answers = [scored.items[one.row].answer for one in begun]
        verdicts = judge(run.verifier, [policy.opening + text for text in texts], answers)
        chosen = _kept(method, policy, begun, found, verdicts)
    if chosen:
        whole = _rows(whole, chosen)
        rows = [begun[index].row for index in chosen]
        with clock("generate_s"):
            logprobs = _with_triggers(
                run, policy, prompts, whole, [begun[index] for index in chosen]
            )
        generated = _replaced(
            generated, dataclasses.replace(whole, logprobs=logprobs), rows, policy.pad_id
        )
        scored = dataclasses.replace(
            scored,
            texts=_put(scored.texts, rows, [texts[index] for index in chosen]),
            lengths=_put(scored.lengths, rows, whole.mask.sum(dim=1).tolist()),
            finished=_put(scored.finished, rows, whole.finished.tolist()),
            verdicts=_put(scored.verdicts, rows, [verdicts[index] for index in chosen]),
        )
    return Rethought(generated, scored, len(begun), len(chosen))


def _taken_up(
    run: RunSpec,
    method: Continuing,
    policy: Policy,
    keys: Sequence[str],
    generated: Generated,
    scored: Scored,
    step: int,
) -> list[_Begun]:
    """The finished responses that are to go on, in the batch's order."""
    size = method.responses_per_prompt
    triggers = {text: _tokens(policy, text) for text in method.triggers}
    begun = []
    for row, finished in enumerate(scored.finished):
        seed = derive(run.seed, PURPOSE, step, keys[row // size], row % size)
        thought = method.second_thought(np.random.Generator(np.random.Philox(key=seed)))
        if not finished or thought is None:
            continue
        tokens = generated.tokens[row, : scored.lengths[row] - 1].tolist()  # without the end
        old, trigger = _old(policy, tokens, scored.texts[row], thought), triggers[thought.trigger]
        room = method.max_response_length - len(old) - len(trigger)
        if room >= method.room:
            begun.append(_Begun(row, old, trigger, min(room, method.longest)))
    return begun


def _tokens(policy: Policy, text: str) -> list[int]:
    tokens, mask = policy.encode_responses([text], max_length=len(text.encode()) + 1)
    found: list[int] = tokens[mask].tolist()
    return found[:-1]  # without the end of the sequence


def _old(policy: Policy, tokens: list[int], text: str, thought: SecondThought) -> list[int]:
    """The tokens of a response that stay: all of them, or those before its last answer."""
    end = answer_start(text) if thought.cut_answer else None
    if end is None:
        return tokens
    before = text[:end].rstrip()
    return tokens[: _tokens_within(policy, tokens, before)]


def _tokens_within(policy: Policy, tokens: list[int], text: str) -> int:
    """How many of the first tokens spell no more than `text`, which a token may straddle."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_spelled(policy, tokens[:middle])) <= len(text):
            low = middle
        else:
            high = middle - 1
    # A token may hold a part of a character, which is spelled as another one.
    while not text.startswith(_spelled(policy, tokens[:low])):
        low -= 1
    return low


def _spelled(policy: Policy, tokens: list[int]) -> str:
    row = torch.tensor([tokens], dtype=torch.int64, device=policy.device)
    return policy.decode(row, torch.ones_like(row, dtype=torch.bool))[0]


def _continued(
    run: RunSpec,
    method: Continuing,
    policy: Policy,
    keys: Sequence[str],
    prompts: PromptBatch,
    begun: Sequence[_Begun],
    step: int,
) -> Generated:
    """What the policy writes after each trigger, cut to what the response has room for.

    A continuation is a response of its own to the prompt with all that stands before it; so every
    engine can give it. Its noise is keyed by the item and the place of the response it continues.
    """
    size = method.responses_per_prompt
    sampling = Sampling(
        group_size=1,
        max_response_length=max(one.limit for one in begun),
        temperature=method.continuation_temperature,
        top_p=method.top_p,
        seed=run.seed,
        step=step,
        purpose=PURPOSE,
    )
    longer = _followed(prompts.select([one.row // size for one in begun]), begun, policy.pad_id)
    owners = [f"{keys[one.row // size]}/{one.row % size}" for one in begun]
    found = run.engine.generate(policy, longer, owners, sampling)
    limits = torch.tensor([one.limit for one in begun], device=found.mask.device)
    within = torch.arange(found.mask.shape[1], device=found.mask.device) < limits.unsqueeze(1)
    return Generated(
        tokens=found.tokens.masked_fill(~within, policy.pad_id),
        mask=found.mask & within,
        logprobs=found.logprobs.masked_fill(~within, 0.0),
        finished=found.finished & (found.mask.sum(dim=1) <= limits),
    )


def _followed(prompts: PromptBatch, begun: Sequence[_Begun], pad_id: int) -> PromptBatch:
    """Each prompt with the tokens of a response after it, padded on the left again."""
    device = prompts.input_ids.device
    tokens, mask = _padded([one.tokens for one in begun], pad_id, device)
    steps = prompts.next_position.unsqueeze(1) + torch.arange(tokens.shape[1], device=device)
    places = steps.expand(*prompts.position_ids.shape[:-1], -1)
    known = torch.cat([prompts.attention_mask, mask], dim=1)
    order = known.int().argsort(dim=1, stable=True)  # padding first, the rest in its order
    order = order[:, known.shape[1] - int(known.sum(dim=1).max()) :]
    positions = torch.cat([prompts.position_ids, places], dim=-1)
    known = known.gather(1, order)
    return dataclasses.replace(
        prompts,
        input_ids=torch.cat([prompts.input_ids, tokens], dim=1).gather(1, order),
        attention_mask=known,
        position_ids=positions.gather(-1, order.expand(*positions.shape[:-1], -1)) * known,
        next_position=prompts.next_position + mask.sum(dim=1),
    )


def _whole(
    policy: Policy, generated: Generated, begun: Sequence[_Begun], found: Generated
) -> Generated:
    """Old text, trigger and continuation as one response each; log-probs 0 at the triggers."""
    counts: list[int] = found.mask.sum(dim=1).tolist()
    device = generated.tokens.device
    rows, numbers = [], []
    for index, (one, count) in enumerate(zip(begun, counts, strict=True)):
        rows.append([*one.tokens, *found.tokens[index, :count].tolist()])
        old = generated.logprobs[one.row, : len(one.old)]
        parts = [old, old.new_zeros(len(one.trigger)), found.logprobs[index, :count]]
        numbers.append(torch.cat(parts))
    tokens, mask = _padded(rows, policy.pad_id, device)
    logprobs = torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True)
    return Generated(tokens, mask, logprobs, found.finished)


def _kept(
    method: Continuing,
    policy: Policy,
    begun: Sequence[_Begun],
    found: Generated,
    verdicts: Sequence[Verdict],
) -> list[int]:
    """Which continued responses take the originals' places: the first good ones of a group."""
    texts = policy.decode(found.tokens, found.mask)
    lengths, finished = found.mask.sum(dim=1).tolist(), found.finished.tolist()
    taken: Counter[int] = Counter()
    chosen = []
    for index, one in enumerate(begun):
        prompt = one.row // method.responses_per_prompt
        correct = verdicts[index].correct > 0
        result = Continuation(texts[index], lengths[index], finished[index], correct)
        if taken[prompt] < method.max_per_prompt and method.keeps(result):
            taken[prompt] += 1
            chosen.append(index)
    return chosen


@torch.no_grad()
def _with_triggers(
    run: RunSpec, policy: Policy, prompts: PromptBatch, whole: Generated, begun: Sequence[_Begun]
) -> Tensor:  # [response, token]
    """The log-probs of responses, with the policy's own where a trigger was set, not sampled."""
    size, device = run.rollout.responses_per_prompt, whole.tokens.device
    logprobs = whole.logprobs.clone()
    for start in range(0, len(begun), run.compute.micro_batch_size):
        part = slice(start, start + run.compute.micro_batch_size)
        owners = [one.row // size for one in begun[part]]
        own = torch.arange(len(owners), device=device)
        found = policy(
            prompts.select(owners), whole.tokens[part], whole.mask[part], own,
            run.rollout.temperature,
        ).logprobs  # fmt: skip
        for index, one in enumerate(begun[part]):
            here = slice(len(one.old), len(one.tokens))
            logprobs[start + index, here] = found[index, here]
    return logprobs


def _replaced(
    generated: Generated, other: Generated, rows: Sequence[int], pad_id: int
) -> Generated:
    """`generated` with `other` in some of its rows."""
    width = max(generated.tokens.shape[1], other.tokens.shape[1])

    def put(ours: Tensor, theirs: Tensor, padding: float) -> Tensor:
        result = widened(ours, width, padding).clone()
        result[rows] = widened(theirs, width, padding)
        return result

    finished = generated.finished.clone()
    finished[rows] = other.finished
    return Generated(
        tokens=put(generated.tokens, other.tokens, pad_id),
        mask=put(generated.mask, other.mask, False),
        logprobs=put(generated.logprobs, other.logprobs, 0.0),
        finished=finished,
    )


def _rows(generated: Generated, rows: Sequence[int]) -> Generated:
    return Generated(
        *(getattr(generated, field.name)[rows] for field in dataclasses.fields(Generated))
    )


def _put(values: Sequence[T], rows: Sequence[int], others: Sequence[T]) -> list[T]:
    result = list(values)
    for row, other in zip(rows, others, strict=True):
        result[row] = other
    return result


def _padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # [row, token] int64 and bool
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = True
    return tokens.to(device), mask.to(device)
