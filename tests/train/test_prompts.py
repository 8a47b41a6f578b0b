"""Prompts as tensors: template, padding, placeholders and positions, against transformers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from tests.tiny import PROMPT, fresh_policy, item, policy, ragged_items
from vexp.errors import DataError
from vexp.spec import Prompt


def test_a_prompt_reads_like_qwens():
    batch = policy().encode([item(0)], Prompt(system="Be brief.", instruction="Box it."))
    text = policy().tokenizer.decode(batch.input_ids[0])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|image_pad|>"
        "<|vision_end|>What is the sum of the red digit and the blue digit?\nBox it.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_system_and_instruction_there_is_only_the_question():
    plain = dataclasses.replace(item(0, size=None), question="Why?")
    batch = policy().encode([plain], Prompt())
    text = policy().tokenizer.decode(batch.input_ids[0])
    assert text == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert batch.pixel_values is None
    assert batch.image_grid_thw is None


def test_padding_is_on_the_left_and_masked():
    batch = policy().encode(ragged_items(), PROMPT)
    lengths = batch.attention_mask.sum(1)
    assert len(set(lengths.tolist())) == 4
    for ids, mask, length in zip(batch.input_ids, batch.attention_mask, lengths, strict=True):
        assert not mask[: len(ids) - length].any()
        assert mask[len(ids) - length :].all()
        assert (ids[~mask] == policy().pad_id).all()


def test_every_image_has_as_many_placeholders_as_features():
    batch = policy().encode(ragged_items(), PROMPT)
    image = policy().model.config.image_token_id
    assert (batch.input_ids == image).sum(1).tolist() == [4, 12, 0, 1]
    assert batch.image_grid_thw.prod(1).tolist() == [16, 48, 4]
    assert len(batch.pixel_values) == 68


def test_positions_are_those_of_transformers():
    batch = policy().encode(ragged_items(), PROMPT)
    types = (batch.input_ids == policy().model.config.image_token_id).int()
    expected, deltas = policy().model.model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=types,
        image_grid_thw=batch.image_grid_thw,
        attention_mask=batch.attention_mask,
    )
    assert torch.equal(batch.position_ids, expected)
    assert torch.equal(batch.next_position, batch.attention_mask.sum(1) + deltas[:, 0])


def test_selecting_gives_what_encoding_the_same_items_gives():
    items = ragged_items()
    batch = policy().encode(items, PROMPT)
    for chosen in ([0], [2], [3, 1], [1, 2, 1], [0, 1, 2, 3]):
        selected = batch.select(torch.tensor(chosen))
        encoded = policy().encode([items[i] for i in chosen], PROMPT)
        for field in dataclasses.fields(selected):
            left, right = getattr(selected, field.name), getattr(encoded, field.name)
            equal = torch.equal(left, right) if isinstance(right, torch.Tensor) else left == right
            assert equal, field.name


def test_an_empty_batch_is_empty():
    batch = policy().encode([], PROMPT)
    assert len(batch) == 0
    assert len(policy().encode([item(0)], PROMPT).select([])) == 0


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>"])
@pytest.mark.parametrize("size", [None, (56, 56)])
def test_vision_tokens_in_a_question_are_refused_by_item(token, size):
    bad = dataclasses.replace(item(7, size=size), question=f"What is {token}?")
    with pytest.raises(DataError, match="test/000007") as caught:
        policy().encode([item(1), bad], PROMPT)
    assert "remove it from the question" in str(caught.value)


def test_an_image_that_cannot_be_used_is_named_by_item():
    bad = dataclasses.replace(item(9), image=Image.new("RGB", (1000, 2)))
    with pytest.raises(DataError, match="test/000009"):
        policy().encode([item(1), bad], PROMPT)


def test_a_template_that_begins_the_thoughts_is_known(monkeypatch):
    assert policy().opening == ""
    thinking = fresh_policy()
    template = thinking.tokenizer.chat_template
    monkeypatch.setattr(thinking.tokenizer, "chat_template", template + "<think>\n")
    assert thinking.opening == "<think>"
