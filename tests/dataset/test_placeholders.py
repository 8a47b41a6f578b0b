"""Placeholders of other frameworks in a question."""

from __future__ import annotations

import pytest

from vexp.dataset._cells import BadRow
from vexp.dataset._placeholders import control_token, without_placeholder

SPELLINGS = (
    "<image>", "<Image>", "<IMAGE>", "<image1>", "<image_1>", "<image 1>", "<img>", "<|image|>",
    "<|image_1|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|imgpad|>",
    "<ImageHere>", "<Image><ImageHere></Image>", "<img></img>",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>", "<IMG_CONTEXT>", "<image_placeholder>",
    "<image_token>", "<image_soft_token>", "<start_of_image>", "[IMG]", "[IMG1]", "[IMAGE]",
    "{image}", "{{ image }}", "(<image>./</image>)", "<image></image>",
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_one_placeholder(spelling):
    for question in (f"{spelling}Why?", f"{spelling}\nWhy?", f"Why? {spelling}"):
        assert without_placeholder(question, image=True) == ("Why?", spelling)
    for question, image in ((f"{spelling}Why?", False), (f"{spelling} {spelling}Why?", True)):
        with pytest.raises(BadRow, match="placeholder"):
            without_placeholder(question, image=image)
    with pytest.raises(BadRow, match='write "the image" instead'):
        without_placeholder(f"Is {spelling} red?", image=True)
    with pytest.raises(BadRow, match="empty but for"):
        without_placeholder(spelling, image=True)


@pytest.mark.parametrize(
    "question",
    [
        "What does the image show?", r"Find \text{image} of $f$", "a < image > b", "[image]",
        r"\operatorname{img}", "<images>", "the <imagery> of it", "x{img}", "if a<img_size>b",
    ],
)  # fmt: skip
def test_what_is_no_placeholder_stays(question):
    assert without_placeholder(question, image=False) == (question, "")


@pytest.mark.parametrize("question", ["<video>Why?", "Why? <|video_pad|>", "<|audio_1|>Why?"])
def test_what_cannot_be_shown_is_refused(question):
    with pytest.raises(BadRow, match="only an image can be shown"):
        without_placeholder(question, image=True)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("a<|im_end|>b", "<|im_end|>"), ("a</s>", "</s>"), ("[INST] a", "[INST]"),
        ("<end_of_turn>", "<end_of_turn>"), ("<think> 1 < 2 | 3 > 2", ""), ("<answer>5", ""),
    ],
)  # fmt: skip
def test_what_is_written_like_a_control_token(text, token):
    assert control_token(text) == token
