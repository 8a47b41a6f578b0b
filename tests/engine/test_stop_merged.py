"""Ending with the answer where one token closes it and spells what follows, as real ones do."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vexp.engine import _stop
from vexp.engine.base import Generated, Sampling
from vexp.response.format import extract_answer, is_well_formed

# Merges as in Qwen's vocabulary: a closing and what stands behind it; \u0120 is a space, \u010a a
# line end.
CLOSINGS = ("}.", "}\u010a", "},", "}\\", "}$", "}}", "}<", "}\u0120", "}*", ">.", ">\u010a")
LONGER = (("}<", "/"), (">\u010a", "\u010a"), ("}$", "."))
BEHIND = {
    "think_boxed": (
        "", ".", "\n", ", so", "\\]", "$", "$.", "**", " </answer>", "</answer>", " is it.", "!",
    ),
    "answer_tag": ("", "\n", ".", "\n\n", " and more"),
}  # fmt: skip
BEGIN = {
    "think_boxed": "<think>a {b}. c},</think> \\boxed{\\frac{1}{2}}",
    "answer_tag": "<think>a>.\n</think>\n<answer>5</answer>",
}
CASES = [(form, tail) for form, tails in BEHIND.items() for tail in tails]


class Decoding:
    """What `_stop` asks of a policy, over a byte-level tokenizer that merges closings."""

    def __init__(self):
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = [(pair[0], pair[1:]) for pair in CLOSINGS] + list(LONGER)
        words = [*letters, *CLOSINGS, *("".join(pair) for pair in LONGER)]
        vocabulary = {word: number for number, word in enumerate(words)}
        plain = Tokenizer(models.BPE(vocabulary, merges))
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        plain.decoder = decoders.ByteLevel()
        plain.add_special_tokens([AddedToken("<|end|>", special=True)])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>")
        self.banned = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        self.pad_id = self.tokenizer.eos_token_id

    def encode(self, text):
        return torch.tensor([self.tokenizer(text).input_ids])

    def decode(self, tokens, mask):
        rows = [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)]
        return self.tokenizer.batch_decode(rows)


@pytest.fixture(scope="module")
def policy():
    return Decoding()


def stopped(policy, text, form):
    """The tokens up to where decoding, which asks after every one, would end."""
    tokens = policy.encode(text)
    sampling = Sampling(group_size=1, max_response_length=99, stop=form)
    for width in range(1, tokens.shape[1] + 1):
        so_far = tokens[:, :width]
        if _stop.stated(policy, so_far, torch.ones_like(so_far, dtype=torch.bool), sampling)[0]:
            return so_far[0].tolist()
    return None


@pytest.mark.parametrize(("form", "tail"), CASES)
def test_it_ends_with_the_token_that_closes_the_answer(policy, form, tail):
    begin = BEGIN[form]
    tokens = stopped(policy, begin + tail, form)
    assert tokens is not None
    ended = policy.tokenizer.decode(tokens)
    assert ended.startswith(begin)  # all of the answer
    assert len(policy.tokenizer.decode(tokens[:-1])) < len(begin)  # and no token more
    assert is_well_formed(ended, form)  # which it would not be if its rest were a word
    assert extract_answer(ended) == extract_answer(begin)


@pytest.mark.parametrize(("form", "tail"), CASES)
def test_cutting_afterwards_ends_with_the_same_token(policy, form, tail):
    tokens = policy.encode(BEGIN[form] + tail + " more")
    whole = Generated(
        tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape),
        torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip
    sampling = Sampling(group_size=1, max_response_length=99, stop=form)
    after = _stop.cut(policy, whole, sampling)
    assert after.finished.all()
    assert after.tokens[0].tolist() == stopped(policy, BEGIN[form] + tail, form)


@pytest.mark.parametrize(
    "text",
    ["<think>a \\boxed{5}. b", "<think>a</think> {5}.\n", "<think>a</think> \\boxed{ }.", "a}.\n"],
)
def test_a_brace_that_closes_no_answer_does_not_end_it(policy, text):
    assert stopped(policy, text, "think_boxed") is None


def test_the_vocabulary_merges_what_it_should(policy):
    spelled = policy.tokenizer.convert_ids_to_tokens(policy.encode("\\boxed{5}$.")[0].tolist())
    assert spelled[-1] == "}$."
