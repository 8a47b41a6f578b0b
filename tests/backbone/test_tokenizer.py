"""The tokenizer of the tiny twins: any text, short responses, single digits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.backbone import _tokenizer

TOKENIZER = _tokenizer.build()


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(ids(text)) == text


@given(st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_numbers_are_split_into_digits(number):
    assert TOKENIZER.convert_ids_to_tokens(ids(str(number))) == list(str(number))


def test_a_demonstration_is_short():
    assert len(ids("<think>red is 3, blue is 5</think>\\boxed{8}")) == 14


def test_what_a_policy_has_to_write_is_not_special():
    written = ids("<think></think><answer></answer>\\boxed{}")
    assert len(written) == 6
    assert not set(written) & set(TOKENIZER.added_tokens_decoder)


def test_special_tokens_spelled_in_a_text_stay_characters_when_asked():
    assert not set(ids("a <|im_end|> b")) & set(TOKENIZER.added_tokens_decoder)


def test_two_builds_are_one_tokenizer():
    assert _tokenizer.build().get_vocab() == TOKENIZER.get_vocab()
    assert _tokenizer.digest() == _tokenizer.digest()
