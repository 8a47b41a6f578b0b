"""When two questions are the same, what is sent of an image, and what is read from an answer."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.endpoint.parse_json import json_in, shown
from vexp.endpoint.request import ChatRequest, Picture
from vexp.endpoint.settings import Endpoint

ENDPOINT = Endpoint(base_url="http://x/v1", model="m")


def picture(color=(10, 200, 30), size=(40, 20), most=10_000):
    return Picture.of(PIL.Image.new("RGB", size, color), most)


def test_equal_questions_have_equal_keys():
    one = ChatRequest(ENDPOINT, "s", "q", picture())
    assert one.key == ChatRequest(ENDPOINT, "s", "q", picture()).key
    patient = dataclasses.replace(
        ENDPOINT, timeout_s=9, retries=1, prompt_price=3.0, key_variable="K"
    )
    assert one.key == ChatRequest(patient, "s", "q", picture()).key


@pytest.mark.parametrize(
    "other",
    [
        ChatRequest(ENDPOINT, "t", "q", picture()),
        ChatRequest(ENDPOINT, "s", "r", picture()),
        ChatRequest(ENDPOINT, "s", "q"),
        ChatRequest(ENDPOINT, "s", "q", picture((10, 200, 31))),
        ChatRequest(ENDPOINT, "s", "q", picture(size=(20, 40))),
        ChatRequest(ENDPOINT, "s", "q", picture()).again("x", "no JSON"),
        ChatRequest(dataclasses.replace(ENDPOINT, model="n"), "s", "q", picture()),
        ChatRequest(dataclasses.replace(ENDPOINT, base_url="http://y/v1"), "s", "q", picture()),
        ChatRequest(dataclasses.replace(ENDPOINT, temperature=0.5), "s", "q", picture()),
        ChatRequest(dataclasses.replace(ENDPOINT, max_tokens=9), "s", "q", picture()),
    ],
)
def test_whatever_can_change_the_answer_changes_the_key(other):
    assert ChatRequest(ENDPOINT, "s", "q", picture()).key != other.key


def test_the_image_is_sent_as_a_jpeg_no_larger_than_allowed():
    (part, text) = ChatRequest(ENDPOINT, "s", "q", picture(size=(400, 200), most=800)).body()[
        "messages"
    ][1]["content"]
    assert text == {"type": "text", "text": "q"}
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (40, 20)
    assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), (10, 200, 30), strict=True)) <= 3


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 5000))
def test_a_picture_keeps_to_its_pixels(width, height, most):
    image = PIL.Image.new("1", (width, height))
    w, h = Picture.of(image, most).image.size
    assert 1 <= w <= width and 1 <= h <= height
    assert w * h <= most or min(w, h) == 1
    if width * height <= most:
        assert (w, h) == (width, height)


def test_a_question_is_put_again_with_what_was_wrong():
    messages = ChatRequest(ENDPOINT, "s", "q").again("dunno", "there is no JSON").body()["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "dunno"
    assert "there is no JSON" in messages[3]["content"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=6,
)
prose = st.text().filter(lambda text: not set("[{<") & set(text))


@given(prose, st.lists(values) | st.dictionaries(st.text(), values), prose)
def test_json_is_found_within_prose(before, value, after):
    assert json_in(before + json.dumps(value) + after) == value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('<think>maybe {"a": 2}?</think>{"a": 1}', {"a": 1}),
        ("as [in the paper] {not json} [1, 2]", [1, 2]),
    ],
)
def test_fences_thoughts_and_brackets(answer, expected):
    assert json_in(answer) == expected


@pytest.mark.parametrize("answer", ["", "I cannot help with that.", "{", "[" * 100_000, '{"a": '])
def test_no_json_is_said_to_be_none(answer):
    with pytest.raises(ValueError, match="there is no JSON in"):
        json_in(answer)
    assert len(shown(answer)) < 100


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "no endpoint is named"), ({"base_url": "localhost:8000"}, "not the address"),
        ({"base_url": "ftp://x/v1"}, "not the address"),
        ({"base_url": "https://me:pass@x/v1"}, "must not hold a key"),
        ({"base_url": "https://x/v1?key=abc"}, "must not hold a key"),
        ({"base_url": "https://x/v1#key=abc"}, "must not hold a key"),
        ({"base_url": "ftp://me:pass@x"}, "must not hold a key"),
        ({"base_url": "http://[x/v1"}, "not the address"),
    ],
)  # fmt: skip
def test_addresses_that_are_none_or_hold_a_secret(settings, says):
    (problem,) = Endpoint(model="m", **settings).problems()
    assert says in problem.what
    assert not list(ENDPOINT.problems())
