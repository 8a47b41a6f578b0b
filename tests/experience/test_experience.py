"""Micro-batches, selection, and the experience pass."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.fakes import experience
from vexp.experience.batch import micro_batches
from vexp.experience.observe import SignalRequest, observe
from vexp.policy.policy import PolicyOutput, Reading


@given(
    group=st.lists(st.integers(0, 5), max_size=30),
    size=st.integers(1, 12),
    keep=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_micro_batches_hold_every_row_once_and_split_only_what_does_not_fit(group, size, keep):
    rows = [row for row in range(len(group)) if row % keep == 0]
    portions = micro_batches(group, rows, size)
    assert sorted(row for portion in portions for row in portion) == rows
    assert all(0 < len(portion) <= size for portion in portions)
    for index in set(group):
        members = sum(group[row] == index for row in rows)
        homes = sum(any(group[row] == index for row in portion) for portion in portions)
        assert homes == -(-members // size)


def test_whole_groups_share_a_micro_batch():
    assert micro_batches([0, 0, 1, 1, 2, 2], range(6), 4) == [[0, 1, 2, 3], [4, 5]]
    assert micro_batches([0, 0, 1, 1, 2, 2], range(6), 3) == [[0, 1], [2, 3], [4, 5]]


def ragged():
    mask = torch.arange(4) < torch.tensor([4, 1, 2, 3, 1, 2])[:, None]
    return experience(
        mask=mask,
        tokens=torch.arange(24).reshape(6, 4),
        group=torch.tensor([0, 0, 1, 1, 2, 2]),
        rewards=torch.arange(6).double(),
        boxes=((), ((0.0, 0.0, 1.0, 1.0),), ()),
    )


def test_select_keeps_the_rows_their_prompts_and_no_needless_padding():
    part = ragged().select([2, 4])
    assert part.tokens.tolist() == [[8, 9], [16, 17]]
    assert part.mask.tolist() == [[True, True], [True, False]]
    assert part.prompts.numbers == (1, 2)
    assert part.group.tolist() == [0, 1]
    assert part.rewards.tolist() == [2.0, 4.0]
    assert part.boxes == (((0.0, 0.0, 1.0, 1.0),), ())
    assert part.old_logprobs is None


def test_selecting_everything_copies_nothing():
    whole = ragged()
    assert whole.select(range(6)) is whole


class Counting:
    """A policy that answers with its tokens as log-probs and counts its passes."""

    def __init__(self):
        self.passes = []

    def __call__(self, prompts, tokens, mask, index, temperature, reading=Reading()):
        self.passes.append((len(tokens), temperature, reading.entropy))
        assert len(prompts) == len(set(index.tolist()))
        assert not torch.is_grad_enabled()
        logprobs = -tokens.float()
        return PolicyOutput(logprobs, 2 * logprobs if reading.entropy else None)


def observed(**options):
    policy, reference = Counting(), Counting()
    portions = options.pop("portions", [[0, 1, 2, 3], [4, 5]])
    made = observe(
        ragged(),
        policy,
        reference if options.get("reference") else None,
        portions,
        SignalRequest(**options),
        temperature=0.7,
        seed=0,
        step=1,
    )
    return made, policy, reference


def test_without_a_need_there_is_no_pass():
    made, policy, _ = observed()
    assert policy.passes == []
    assert made.old_logprobs is None
    assert made.entropy is None


def test_each_need_is_supplied_once_in_the_place_of_its_token():
    made, policy, reference = observed(entropy=True, reference=True, old_logprobs=True)
    assert policy.passes == [(4, 0.7, True), (2, 0.7, True)]
    assert reference.passes == [(4, 0.7, False), (2, 0.7, False)]
    expected = -torch.arange(24).reshape(6, 4).float() * made.mask
    assert made.old_logprobs.tolist() == expected.tolist()
    assert made.reference_logprobs.tolist() == expected.tolist()
    assert made.entropy.tolist() == (2 * expected).tolist()


def test_the_reference_alone_does_not_run_the_policy():
    made, policy, reference = observed(reference=True)
    assert policy.passes == []
    assert len(reference.passes) == 2
    assert made.old_logprobs is None


def test_rows_in_no_portion_are_not_looked_at():
    made, policy, _ = observed(old_logprobs=True, portions=[[4, 5]])
    assert policy.passes == [(2, 0.7, False)]
    assert (made.old_logprobs[:4] == 0).all()
    assert (made.old_logprobs[4:, 0] < 0).all()
