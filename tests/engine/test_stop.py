"""Ending with the answer: while tokens are drawn, and afterwards, comes to the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.tiny import PROMPT, fresh_policy, item
from vexp.engine import _decode, _stop
from vexp.engine.base import Generated, Sampling
from vexp.errors import ConfigError
from vexp.spec.resolve import resolve

BOXED = [
    "<think>3 + 4</think> \\boxed{7} and more \\boxed{8}",
    "<think>3 + 4 \\boxed{7} so</think> yes",
    "<think>3 + 4 \\boxed{7} so</think> \\boxed{ } \\boxed{7}",
    "no thoughts \\boxed{7}",
    "<think>a</think>\\boxed{\\frac{1}{2}} end",
    "",
]
TAGGED = ["<answer>7</answer> and", "<answer> </answer> <answer>7</answer> and", "</answer> 7"]


@pytest.fixture(scope="module")
def owner():
    return fresh_policy()


def scripted(owner, monkeypatch, texts, stop, **settings):
    """What decoding makes of a policy that would write these texts, one response each."""
    sampling = Sampling(
        group_size=len(texts), max_response_length=80, greedy=True, stop=stop, **settings
    )
    tokens, mask = owner.encode_responses(texts, 80)
    batches = []
    start = _decode._Batch.start.__func__

    def starting(cls, *arguments):
        batches.append(start(cls, *arguments))
        return batches[-1]

    def choose(distribution, uniform, sampling, eos_id):
        step = batches[-1].cache.steps
        rows = batches[-1].rows.flatten()
        return tokens[rows, min(step, tokens.shape[1] - 1)]

    monkeypatch.setattr(_decode._Batch, "start", classmethod(starting))
    monkeypatch.setattr(_decode, "choose", choose)
    batch = owner.encode([item(0)], PROMPT)
    return _decode.generate(owner, batch, ["a"], sampling), sampling, (tokens, mask)


@pytest.mark.parametrize(
    ("texts", "stop", "expected", "by_itself"),
    [
        (
            BOXED, "think_boxed",
            [BOXED[0][:34].partition(" and")[0], BOXED[1], BOXED[2], BOXED[3],
             BOXED[4].removesuffix(" end"), ""],
            [False, True, False, True, False, True],
        ),
        (
            TAGGED, "answer_tag",
            [t.removesuffix(" and") for t in TAGGED], [False, False, True],
        ),
    ],
)  # fmt: skip
def test_a_response_ends_with_its_answer(owner, monkeypatch, texts, stop, expected, by_itself):
    found, _, _ = scripted(owner, monkeypatch, texts, stop)
    assert owner.decode(found.tokens, found.mask) == expected
    assert found.finished.all()
    last = found.tokens.gather(1, found.mask.sum(1, keepdim=True) - 1).squeeze(1)
    assert (last == owner.eos_id).tolist() == by_itself
    assert not found.mask[:, 1:].logical_and(~found.mask[:, :-1]).any()
    assert (found.tokens[~found.mask] == owner.pad_id).all()


@pytest.mark.parametrize(("texts", "stop"), [(BOXED, "think_boxed"), (TAGGED, "answer_tag")])
def test_cutting_afterwards_gives_the_same(owner, monkeypatch, texts, stop):
    found, sampling, (tokens, mask) = scripted(owner, monkeypatch, texts, stop)
    whole, _, _ = scripted(owner, monkeypatch, texts, None)
    assert torch.equal(whole.tokens, tokens[:, : whole.tokens.shape[1]])
    assert torch.equal(whole.mask, mask[:, : whole.mask.shape[1]])
    after = _stop.cut(owner, whole, sampling)
    for field in dataclasses.fields(Generated):
        one, other = getattr(after, field.name), getattr(found, field.name)
        assert one.shape == other.shape
        assert torch.allclose(one.float(), other.float(), atol=1e-5), field.name


def test_without_a_stop_nothing_is_cut(owner, monkeypatch):
    whole, sampling, _ = scripted(owner, monkeypatch, BOXED, None)
    assert _stop.cut(owner, whole, sampling) is whole


def test_a_response_that_goes_on_behind_its_answer_cannot_end_with_it():
    with pytest.raises(ConfigError, match="cannot end with it"):
        resolve(["rollout=rethink", "rollout.stop=answer"])


def test_the_default_leaves_ids_as_they_are():
    from vexp.spec.identity import training_id

    plain, said = resolve([]), resolve(["rollout.stop=end"])
    assert training_id(plain) == training_id(said)
    assert training_id(plain) != training_id(resolve(["rollout.stop=answer"]))
