"""Tokens that components emit: added without moving an id, initialised, saved and known again."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from tests.tiny import PROMPT, SMALL, fresh_policy, policy, ragged_items, responses
from vexp.backbone import _emitted
from vexp.errors import CheckpointError

FOCUS = "<Focus>"
WORDS = ("focus", "look", "see", "image")
MANY = {f"<T{number}>": () for number in range(100)}  # more than there are spare rows


def focused(**emits):
    return fresh_policy(emits=emits or {FOCUS: WORDS})


def matrices(owner):
    return owner.model.get_input_embeddings().weight, owner.model.get_output_embeddings().weight


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("focused")
    focused().save(folder)
    return folder


def test_no_other_token_changes_its_id_and_no_other_row_its_content():
    owner, plain = focused(), policy()
    before, after = plain.tokenizer.get_vocab(), owner.tokenizer.get_vocab()
    assert {token: after[token] for token in before} == before
    assert set(after) - set(before) == {FOCUS}
    assert owner.emits == {FOCUS: len(before)}
    rows = torch.arange(len(plain.banned)) != owner.emits[FOCUS]
    assert len(owner.banned) == len(plain.banned)
    for mine, theirs in zip(matrices(owner), matrices(plain), strict=True):
        assert torch.equal(mine[rows], theirs[rows])
    assert not owner.banned[owner.emits[FOCUS]]
    assert torch.equal(owner.banned[rows], plain.banned[rows])
    assert plain.banned[owner.emits[FOCUS]]


def test_prompts_and_texts_are_encoded_as_before():
    one, other = focused().encode(ragged_items(), PROMPT), policy().encode(ragged_items(), PROMPT)
    assert torch.equal(one.input_ids, other.input_ids)
    text = ["<think> red 3 <Focus> </think> \\boxed{3}"]
    assert torch.equal(
        focused().encode_responses(text, 99)[0], policy().encode_responses(text, 99)[0]
    )


def test_its_rows_are_the_means_of_the_words_that_are_one_token():
    owner, plain = focused(), policy()
    known = plain.tokenizer.get_vocab()
    spellings = [s for word in WORDS for s in ("Ġ" + word, word, word.capitalize())]
    like = [known[spelling] for spelling in spellings if spelling in known]
    assert len(like) == 2  # " see" and " image"; the twin has no other form of the words
    for mine, theirs in zip(matrices(owner), matrices(plain), strict=True):
        expected = torch.stack([theirs[i] for i in like]).double().mean(0)
        torch.testing.assert_close(mine[owner.emits[FOCUS]].double(), expected)


@pytest.mark.parametrize("words", [(), ("zebra",)])
def test_without_a_word_that_is_known_it_starts_from_all_tokens(words):
    owner, plain = focused(**{FOCUS: words}), policy()
    for mine, theirs in zip(matrices(owner), matrices(plain), strict=True):
        expected = theirs[: len(plain.tokenizer)].double().mean(0)
        torch.testing.assert_close(mine[owner.emits[FOCUS]].double(), expected, atol=1e-6, rtol=0)


def test_a_token_that_the_backbone_has_is_only_allowed():
    owner = focused(**{"<|vision_start|>": ("see",)})
    assert len(owner.tokenizer) == len(policy().tokenizer)
    for mine, theirs in zip(matrices(owner), matrices(policy()), strict=True):
        assert torch.equal(mine, theirs)


def test_responses_begin_with_the_token_and_show_it():
    owner = focused()
    plain, _ = owner.encode_responses(["red 3"], 99)
    tokens, mask = owner.encode_responses(["red 3"], 99, (FOCUS,))
    assert tokens.tolist() == [[owner.emits[FOCUS], *plain[0].tolist()]]
    assert bool(mask.all())
    assert owner.decode(tokens, mask) == ["<Focus>red 3"]


def test_where_no_row_is_spare_the_embedding_grows_the_same_way_every_time(tmp_path):
    torch.manual_seed(1)
    fresh_policy()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    owner = focused(**MANY)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = focused(**MANY)
    tokens = len(policy().tokenizer) + len(MANY)
    assert len(policy().banned) < tokens
    assert len(owner.banned) == math.ceil(tokens / 64) * 64
    for mine, theirs in zip(owner.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [len(matrix) for matrix in matrices(owner)] == [len(owner.banned)] * 2
    owner.save(tmp_path)
    SMALL.check(tmp_path)
    loaded = SMALL.load(tmp_path)
    assert loaded.emits == owner.emits
    for mine, theirs in zip(owner.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_is_loaded_with_its_tokens_by_whoever_does_not_know_them(saved):
    owner, loaded = focused(), SMALL.load(saved)
    SMALL.check(saved)
    assert loaded.emits == owner.emits
    assert torch.equal(loaded.banned, owner.banned)
    batch = owner.encode(ragged_items(), PROMPT)
    tokens, mask = responses(4, 4)
    tokens[:, 0] = owner.emits[FOCUS]
    arguments = (batch, tokens, mask, torch.arange(4))
    assert torch.equal(loaded(*arguments).logprobs, owner(*arguments).logprobs)
    assert loaded(*arguments).logprobs.isfinite().all()


def test_further_tokens_come_after_those_of_the_checkpoint(saved):
    loaded = SMALL.load(saved, emits={"<Check>": (), FOCUS: WORDS})
    assert list(loaded.emits) == [FOCUS, "<Check>"]
    assert loaded.emits["<Check>"] == loaded.emits[FOCUS] + 1
    assert torch.equal(
        matrices(loaded)[0][loaded.emits[FOCUS]], matrices(focused())[0][loaded.emits[FOCUS]]
    )


def test_plain_transformers_loads_the_folder(saved):
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    assert tokenizer(FOCUS).input_ids == [focused().emits[FOCUS]]
    assert torch.equal(model.lm_head.weight, matrices(focused())[1])


def test_without_such_tokens_nothing_more_is_saved(tmp_path):
    policy().save(tmp_path)
    assert not (tmp_path / "emits.json").exists()
    assert _emitted.recorded(tmp_path) == ()


@pytest.mark.parametrize("content", ["{", "{}", "[3]", '[""]'])
def test_a_damaged_record_is_named(saved, tmp_path, content):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "emits.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"emits\.json"):
        SMALL.load(tmp_path)


@pytest.mark.parametrize("content", [None, '["<Other>"]'])
def test_a_record_that_does_not_fit_the_tokenizer_is_refused(saved, tmp_path, content):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "emits.json").unlink()
    if content:
        (tmp_path / "emits.json").write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        SMALL.load(tmp_path)


def test_a_checkpoint_of_other_sizes_is_still_refused(saved):
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        dataclasses.replace(SMALL, layers=4).check(saved)
    assert json.loads((saved / "emits.json").read_text()) == [FOCUS]
