"""The default dataset: purity, splits, balance, boxes, and the two settings that ship."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.config.scalars import load_yaml
from vexp.config.schema import build
from vexp.dataset import _glyphs
from vexp.dataset.base import Item
from vexp.dataset.digits_vqa import COLORS, DigitsVqa
from vexp.errors import ConfigError
from vexp.paths import shipped
from vexp.response.format import extract_answer, is_well_formed

SPLITS = ("train", "dev", "test")
KINDS = {"single": ("which",), "multi": ("sum", "larger", "count")}


def large() -> DigitsVqa:
    tree = dict(load_yaml(shipped("conf") / "dataset" / "digits_vqa_large.yaml"))
    assert tree.pop("name") == "digits_vqa"
    return build(DigitsVqa, tree)


def only(kind: str, **fields: object) -> DigitsVqa:
    single = kind in KINDS["single"]
    chosen = {"single": (kind,)} if single else {"multi": (kind,)}
    return DigitsVqa(single_share=float(single), **chosen, **fields)


def digest(item: Item) -> str:
    image = hashlib.sha256(item.image.tobytes()).hexdigest()
    return repr(
        (item.id, item.question, item.answer, item.boxes, item.tag, item.demonstration, image)
    )


def seen(item: Item) -> dict[str, int]:
    """What a demonstration says: digit by colour."""
    return {color: int(digit) for color, digit in re.findall(r"(\w+) is (\d)", item.demonstration)}


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 99)), min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_an_item_does_not_depend_on_what_was_read_before(places) -> None:
    dataset = DigitsVqa()
    forth = {place: digest(dataset.item(*place)) for place in places}
    back = {place: digest(DigitsVqa().item(*place)) for place in reversed(places)}
    assert forth == back


def test_an_item_is_the_same_in_a_fresh_process() -> None:
    script = (
        "import hashlib, json; from vexp.dataset.digits_vqa import DigitsVqa; d = DigitsVqa();"
        "print(json.dumps([[i.question, i.answer, hashlib.sha256(i.image.tobytes()).hexdigest()]"
        " for i in (d.item('test', k) for k in (5, 0))]))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    items = [DigitsVqa().item("test", index) for index in (5, 0)]
    assert json.loads(found.stdout) == [
        [i.question, i.answer, hashlib.sha256(i.image.tobytes()).hexdigest()] for i in items
    ]


GOLDEN = [
    (
        "Which digit is larger, red or purple?",
        "5",
        ((32.0, 0.0, 53.0, 28.0), (31.0, 28.0, 52.0, 56.0)),
    ),
    (
        "Which digit is larger, white or green?",
        "6",
        ((34.0, 28.0, 56.0, 56.0), (6.0, 28.0, 24.0, 56.0)),
    ),
    ("Which digit is yellow?", "1", ((5.0, 28.0, 22.0, 56.0),)),
]


def test_items_stay_what_they_are() -> None:
    """Golden: if this fails on purpose, raise the number in `DigitsVqa.content`."""
    items = [DigitsVqa().item("test", index) for index in range(3)]
    assert [(item.question, item.answer, item.boxes) for item in items] == GOLDEN
    assert DigitsVqa().content() == {"items": 1}


def test_the_sizes_do_not_change_the_items() -> None:
    assert digest(DigitsVqa(train_size=10).item("train", 3)) == digest(DigitsVqa().item("train", 3))


def test_seed_split_and_index_change_the_item() -> None:
    items = [
        DigitsVqa().item("train", 0),
        DigitsVqa().item("train", 1),
        DigitsVqa().item("dev", 0),
        DigitsVqa(seed=1).item("train", 0),
    ]
    assert len({item.image.tobytes() for item in items}) == 4


def test_glyphs_of_the_splits_are_disjoint_and_stratified() -> None:
    glyphs = {s: [set(_glyphs.of_digit(s, digit)) for digit in range(10)] for s in SPLITS}
    for digit in range(10):
        sets = [glyphs[split][digit] for split in SPLITS]
        assert all(not a & b for a, b in itertools.combinations(sets, 2))
        everything = set(np.flatnonzero(_glyphs.table()[:, 64] == digit).tolist())
        assert set.union(*sets) == everything
        assert all(
            len(part) / len(everything) == pytest.approx(0.15, abs=0.01) for part in sets[1:]
        )


def test_no_two_glyphs_are_the_same_picture() -> None:
    """Otherwise disjoint indices would not mean disjoint glyphs."""
    assert len({row.tobytes() for row in _glyphs.table()[:, :64]}) == 1797


def test_the_glyphs_are_those_of_scikit_learn() -> None:
    assert np.array_equal(_glyphs._from_scikit_learn(), _glyphs.table())


def test_held_out_splits_have_a_thousand_items() -> None:
    assert DigitsVqa().size("dev") >= 1000
    assert DigitsVqa().size("test") >= 1000
    with pytest.raises(IndexError):
        DigitsVqa().item("test", DigitsVqa().size("test"))


@pytest.mark.parametrize("dataset", [DigitsVqa(), large(), only("count", digits_max=4)])
def test_question_answer_boxes_and_demonstration_agree(dataset: DigitsVqa) -> None:
    for index in range(60):
        item = dataset.item("train", index)
        digits = seen(item)
        named = [color for color in re.findall(r"\w+", item.question) if color in COLORS]
        if item.question.startswith("Which digit is larger"):
            expected = max(digits[color] for color in named)
        elif item.question.startswith("Which"):
            expected = digits[named[0]]
        elif item.question.startswith("What is the sum"):
            expected = sum(digits[color] for color in named)
        else:
            parity = int("odd" in item.question)
            expected = sum(digit % 2 == parity for digit in digits.values())
        assert item.answer == str(expected)
        assert extract_answer(item.demonstration) == item.answer
        assert is_well_formed(item.demonstration, "think_boxed")
        assert len(item.boxes) == len(digits)
        assert item.tag == ("single" if len(item.boxes) == 1 else "multi")


@pytest.mark.parametrize("dataset", [DigitsVqa(), large()])
def test_boxes_are_tight_around_the_ink_of_the_evidence(dataset: DigitsVqa) -> None:
    for index in range(40):
        item = dataset.item("dev", index)
        pixels = np.asarray(item.image).astype(int)
        for x1, y1, x2, y2 in item.boxes:
            assert 0 <= x1 < x2 <= dataset.image_size
            assert 0 <= y1 < y2 <= dataset.image_size
            inside = pixels[int(y1) : int(y2), int(x1) : int(x2)].sum(2)
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.max() > 60 for edge in edges)
        if "How many" in item.question:  # everything is evidence: nothing bright is left outside
            for x1, y1, x2, y2 in item.boxes:
                pixels[int(y1) : int(y2), int(x1) : int(x2)] = 0
            assert pixels.max() < 90


def test_the_color_asked_for_is_the_color_in_the_box() -> None:
    dataset = only("which")
    shares = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    checked = 0
    for index in range(60):
        item = dataset.item("train", index)
        color = item.question.removeprefix("Which digit is ").removesuffix("?")
        if color in shares:
            x1, y1, x2, y2 = map(int, item.boxes[0])
            bright = np.asarray(item.image)[y1:y2, x1:x2].reshape(-1, 3).max(0) / 255
            assert ((bright > 0.6) == np.array(shares[color], bool)).all()
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("kind", "best_guess"), [("which", 0.1), ("sum", 0.1), ("larger", 1 / 9), ("count", 1 / 3)]
)
def test_no_question_can_be_answered_blindly(kind: str, best_guess: float) -> None:
    """The most frequent answer to each question is hardly right more often than stated."""
    dataset = only(kind, train_size=4000)
    answers = Counter(_text(dataset, index)[1] for index in range(3000))
    assert answers.most_common(1)[0][1] / 3000 < best_guess + 4 * (best_guess / 3000) ** 0.5


def _text(dataset: DigitsVqa, index: int) -> tuple[str, str]:
    from vexp.dataset._draws import Draws

    draft = dataset._draft(Draws("digits_vqa", dataset.seed, "train", index))
    return draft.question, draft.answer


def test_tags_are_balanced() -> None:
    tags = Counter(DigitsVqa().item("train", index).tag for index in range(1000))
    assert 440 < tags["single"] < 560
    assert DigitsVqa(single_share=1.0).item("train", 0).tag == "single"


def test_glyphs_never_overlap_and_leave_the_token_grid() -> None:
    from vexp.dataset._drawing import Layout
    from vexp.dataset._draws import Draws

    dataset = large()
    layout = Layout(
        dataset.image_size, dataset.grid, dataset.glyph_min, dataset.glyph_max, dataset.jitter
    )
    places = [layout.places(2, Draws("test", n)) for n in range(300)]
    for a, b in places:
        assert not a.overlaps(b)
        for place in (a, b):
            assert 56 <= place.side <= 112
            assert 0 <= place.x <= 168 - place.side
            assert 0 <= place.y <= 168 - place.side
    assert np.mean([place.x % 28 == 0 for pair in places for place in pair]) < 0.3


def test_a_crowded_layout_falls_back_to_small_glyphs_in_their_cells() -> None:
    dataset = only("which", image_size=56, glyph_max=56, digits_min=4, digits_max=4)
    assert dataset.item("train", 0).image.size == (56, 56)


# --- how targets of both kinds differ, computed here from boxes and grid alone


def centers(size: int, cells: int) -> np.ndarray:
    """Token centres in pixels, [cells * cells, 2], row by row."""
    axis = (np.arange(cells) + 0.5) * size / cells
    return np.array([(x, y) for y in axis for x in axis])


def gaussian_target(boxes, size: int, cells: int, alpha: float = 0.1) -> np.ndarray:
    """Equal mixture of one normalised Gaussian per box, sigma a quarter of its sides; smoothed."""
    points, parts = centers(size, cells), []
    for x1, y1, x2, y2 in boxes:
        z = (points - [(x1 + x2) / 2, (y1 + y2) / 2]) / [0.25 * (x2 - x1), 0.25 * (y2 - y1)]
        logits = -0.5 * (z**2).sum(1)
        weights = np.exp(logits - logits.max())
        parts.append(weights / weights.sum())
    return (1 - alpha) * np.mean(parts, 0) + alpha / cells**2


def box_target(boxes, size: int, cells: int, alpha: float = 0.1) -> np.ndarray:
    """Uniform over the tokens whose centre lies in the union of the boxes; smoothed."""
    points, inside = centers(size, cells), np.zeros(cells**2, bool)
    for x1, y1, x2, y2 in boxes:
        within = (points >= [x1, y1]).all(1) & (points <= [x2, y2]).all(1)
        if not within.any():
            distance = ((points - [(x1 + x2) / 2, (y1 + y2) / 2]) ** 2).sum(1)
            within = distance == distance.min()
        inside |= within
    return (1 - alpha) * inside / inside.sum() + alpha / cells**2


def distance(dataset: DigitsVqa, count: int) -> float:
    """Mean total variation between both targets over the first items."""
    size, cells, found = dataset.image_size, dataset.image_size // 28, []
    for index in range(count):
        boxes = dataset.item("train", index).boxes
        p, q = gaussian_target(boxes, size, cells), box_target(boxes, size, cells)
        assert p.sum() == pytest.approx(1)
        assert q.sum() == pytest.approx(1)
        found.append(0.5 * np.abs(p - q).sum())
    return float(np.mean(found))


def test_gaussian_and_hard_box_targets_differ_in_the_large_setting() -> None:
    assert large().image_size // 28 >= 6
    assert distance(large(), 300) >= 0.1


def test_both_targets_are_one_where_a_glyph_is_one_token() -> None:
    assert distance(DigitsVqa(), 50) < 0.02


# --- settings that cannot be


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 57}, "not a multiple of grid"),
        ({"glyph_min": 40}, "glyph_min (40) exceeds"),
        ({"glyph_min": 20, "glyph_max": 60}, "exceeds the image's side"),
        ({"digits_max": 5}, "no room for 5 digits"),
        ({"digits_min": 1, "digits_max": 1}, "at least two digits"),
        ({"digits_min": 3}, "digits_min (3) exceeds digits_max (2)"),
        ({"multi": ()}, "`multi` is empty"),
        ({"single": ()}, "`single` is empty"),
    ],
)
def test_conflicting_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DigitsVqa(**fields)
    assert message in str(caught.value)
