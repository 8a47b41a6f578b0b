"""Charts: that splits share no row, answers follow from the tables, and boxes hold the marks."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest

from vexp.dataset import _chart, _vega
from vexp.dataset.charts_vqa import ChartsVqa
from vexp.errors import ConfigError, DataError

SPLITS = ("train", "dev", "test")
SHAPES = ("bar", "line", "scatter")
SINGLE = ("value", "which", "above")


def only(kind: str, *shapes: str, **fields) -> ChartsVqa:
    chosen = {"single": (kind,)} if kind in SINGLE else {"multi": (kind,)}
    return ChartsVqa(single_share=float(kind in SINGLE), charts=shapes, **chosen, **fields)


def colored(image, color: str) -> np.ndarray:  # [row, column] bool
    """Pixels of exactly this colour of the palette."""
    return (np.asarray(image) == np.array(_chart.PALETTE[color])).all(axis=2)


def any_colored(image) -> np.ndarray:
    return np.logical_or.reduce([colored(image, color) for color in _chart.PALETTE])


def cells(split: str) -> dict[str, set[str]]:
    """Every printed value of every label of a split, over all charts it can show."""
    found: dict[str, set[str]] = {}
    for shape in SHAPES:
        for panel in itertools.chain(*_vega.panels(split, shape)):
            for values in panel.measures.values():
                for label, value in zip(panel.labels, values, strict=True):
                    found.setdefault(label, set()).add(f"{value:.1f}".removesuffix(".0"))
    return found


# --- the tables


def test_splits_share_no_row_whatever_the_chart() -> None:
    rows = {
        split: {r for s in SHAPES for p in itertools.chain(*_vega.panels(split, s)) for r in p.rows}
        for split in SPLITS
    }
    assert all(len(found) > 400 for found in rows.values())
    for a, b in itertools.combinations(SPLITS, 2):
        assert not rows[a] & rows[b]


def test_every_split_has_charts_of_every_source() -> None:
    for split, shape in itertools.product(SPLITS, SHAPES):
        assert all(_vega.panels(split, shape))


def test_labels_are_unique_and_each_has_its_values() -> None:
    for split, shape in itertools.product(SPLITS, SHAPES):
        for panel in itertools.chain(*_vega.panels(split, shape)):
            assert len(set(panel.labels)) == len(panel.labels) == len(panel.rows) >= 5
            assert all(len(values) == len(panel.labels) for values in panel.measures.values())
            assert np.isfinite(list(panel.measures.values())).all()


def test_other_tables_than_those_the_charts_are_defined_by_are_refused(monkeypatch) -> None:
    monkeypatch.setitem(_vega.SHA256, "wheat.json", "0" * 64)
    with pytest.raises(DataError, match=r"wheat\.json[\s\S]*vega_datasets==0\.9\.0"):
        _vega._table.__wrapped__("wheat.json")


def test_a_missing_package_is_one_message(monkeypatch) -> None:
    monkeypatch.setattr(_vega.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"vega_datasets is not installed[\s\S]*pip install"):
        _vega._file("cars.json")


# --- questions and answers


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_demonstration_reads_is_in_the_tables_of_the_split(split: str) -> None:
    table = cells(split)
    dataset = ChartsVqa(single=("value", "which"), charts=("bar", "line"))
    for index in range(60):
        thought = dataset.item(split, index).demonstration.partition("</think>")[0][7:]
        readings = re.findall(r"([^,]+(?:, health)?) is (-?[\d.]+)", thought)
        assert readings
        for name, value in readings:
            label = name.strip().rpartition(" at ")[2]
            assert value in table[label], (name, value)


def readings(item) -> dict[str, float]:
    thought = re.sub(r"Education, health", "Education health", item.demonstration)
    found = re.findall(r"(?:<think>|, )([^,<]+?) is (-?[\d.]+)(?=,|<)", thought)
    return {name.replace("Education health", "Education, health"): float(v) for name, v in found}


def test_differences_are_exact() -> None:
    for index in range(80):
        item = only("difference", "bar", "line").item("train", index)
        a, b = readings(item).values()
        assert float(item.answer) == pytest.approx(abs(a - b), abs=1e-9)
        assert re.fullmatch(r"\d+(\.\d)?", item.answer)


def test_counts_and_comparisons_follow_from_the_readings() -> None:
    for index in range(80):
        item = only("count", "bar", "line").item("dev", index)
        limit = float(item.question.rstrip("?").rpartition(" above ")[2])
        values = readings(item).values()
        assert item.answer == str(sum(value > limit for value in values))
        assert 0 < int(item.answer) < len(values) == len(item.boxes)
        item = only("compare", "bar", "line").item("dev", index)
        found = readings(item)
        assert item.answer in max(found, key=found.get)
        assert item.answer not in min(found, key=found.get)


def test_which_has_one_answer() -> None:
    for index in range(60):
        item = only("which", "bar", "line").item("train", index)
        (name,) = readings(item)
        assert name.endswith(item.answer)


def test_above_agrees_with_where_the_point_is_drawn() -> None:
    """Of two points in one picture, one above and one below a line, the first is drawn higher."""
    dataset = only("compare", "scatter")
    for index in range(60):
        item = dataset.item("train", index)
        names = item.question.rstrip("?").rpartition(", ")[2].split(" or ")
        middles = [(box[1] + box[3]) / 2 for box in item.boxes]
        assert item.answer == names[int(np.argmin(middles))]


def test_the_box_of_a_bar_holds_that_bar() -> None:
    """Of two bars of one chart, that with the higher value has more ink in its box."""
    dataset = only("compare", "bar")
    for index in range(60):
        item = dataset.item("train", index)
        names = item.question.rstrip("?").rpartition(", ")[2]
        first = names.startswith(f"{item.answer} or ")
        marks = any_colored(item.image)
        ink = [marks[int(y1) : int(y2), int(x1) : int(x2)].sum() for x1, y1, x2, y2 in item.boxes]
        low, high = sorted(readings(item).values())
        assert (ink[0] >= ink[1]) == first or high - low < 0.02 * high


def test_tags_count_the_boxes() -> None:
    for index in range(80):
        item = ChartsVqa().item("train", index)
        assert item.tag == ("single" if len(item.boxes) == 1 else "multi")


def test_yes_and_no_and_the_two_sides_of_a_comparison_are_balanced() -> None:
    above = Counter(only("above", "scatter").item("train", i).answer for i in range(400))
    assert abs(above["yes"] - 200) < 60
    compare, first = only("compare", "bar", "line"), 0
    for index in range(400):
        item = compare.item("train", index)
        names = item.question.rstrip("?").rpartition(", ")[2].split(" or ")
        first += item.answer == names[0]
    assert abs(first - 200) < 60


def test_no_number_can_be_guessed() -> None:
    values = Counter(only("value", "bar", "line").item("train", i).answer for i in range(500))
    assert values.most_common(1)[0][1] < 25


# --- boxes


def test_bars_lie_wholly_in_their_boxes() -> None:
    """`count` has every bar as evidence: outside the boxes there is no coloured pixel."""
    dataset = only("count", "bar")
    for index in range(40):
        item = dataset.item("train", index)
        marks = any_colored(item.image)
        assert marks.sum() > 500
        for x1, y1, x2, y2 in item.boxes:
            inside = marks[int(y1) : int(y2), int(x1) : int(x2)]
            assert inside.any()
            marks[int(y1) : int(y2), int(x1) : int(x2)] = False
        assert not marks.any()


def test_scattered_points_lie_wholly_in_their_boxes() -> None:
    dataset = only("count", "scatter")
    for index in range(40):
        item = dataset.item("train", index)
        marks = any_colored(item.image)
        areas = []
        for x1, y1, x2, y2 in item.boxes:
            areas.append(int(marks[int(y1) : int(y2), int(x1) : int(x2)].sum()))
            marks[int(y1) : int(y2), int(x1) : int(x2)] = False
        assert not marks.any()
        assert len(set(areas)) == 1  # each box holds exactly one point


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_tight(shape: str) -> None:
    """The outermost row and column of pixels of a box hold ink, or the one beside it does."""
    dataset = only("count", shape)
    for index in range(30):
        item = dataset.item("dev", index)
        ink = np.asarray(item.image).min(axis=2) < 200
        for x1, y1, x2, y2 in (tuple(map(int, box)) for box in item.boxes):
            inside = ink[y1:y2, x1:x2]
            assert inside[:, :3].any()
            assert inside[:, -3:].any()
            assert inside[:3].any()
            assert inside[-3:].any()


def test_boxes_of_points_do_not_overlap() -> None:
    dataset = only("count", "scatter")
    for index in range(40):
        boxes = dataset.item("train", index).boxes
        assert not any(_chart.overlap(a, b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(("width", "height"), [(224, 168), (448, 336), (896, 672)])
def test_boxes_lie_in_images_of_every_size(width: int, height: int) -> None:
    dataset = ChartsVqa(width=width, height=height)
    for index in range(60):
        item = dataset.item("train", index)
        assert item.image.size == (width, height)
        for x1, y1, x2, y2 in item.boxes:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height


# --- axes


@pytest.mark.parametrize(
    ("extent", "step"), [(1, 0.25), (4, 1), (10, 2.5), (9, 2.5), (22000, 10000), (0.3, 0.1)]
)
def test_steps_are_round(extent: float, step: float) -> None:
    assert _chart.nice_step(extent) == pytest.approx(step)


def test_ticks_lie_in_the_axis() -> None:
    assert _chart.Scale(-0.7, 2.1, 0, 100).ticks() == [0.0, 1.0, 2.0]
    assert _chart.Scale(0, 10, 100, 0).at(2.5) == 75


@pytest.mark.parametrize(
    ("value", "text"), [(12.0, "12"), (12.34, "12.3"), (-0.04, "0"), (-1.5, "-1.5"), (100.0, "100")]
)
def test_numbers_are_printed_short(value: float, text: str) -> None:
    assert _chart.number(value) == text


# --- settings


GOLDEN = [
    ("What is the value of Mining?", "755"),
    ("Is the latitude of ELN above 46.5? Answer yes or no.", "yes"),
    ("Is the gas price of 1975 above 2? Answer yes or no.", "yes"),
]


def test_items_stay_what_they_are() -> None:
    """Golden: if this fails on purpose, raise the number in `ChartsVqa.content`.

    Boxes around text are those of the locked Pillow; another one may move them by a pixel.
    """
    items = [ChartsVqa().item("train", index) for index in range(12)]
    assert [(item.question, item.answer) for item in items[:3]] == GOLDEN
    boxes = repr([item.boxes for item in items])
    assert hashlib.sha256(boxes.encode()).hexdigest()[:16] == "1f48229d58b9c53f"
    assert ChartsVqa().content() == {"items": 1}


def test_the_sizes_do_not_change_the_items() -> None:
    few, many = ChartsVqa(train_size=10).item("train", 3), ChartsVqa().item("train", 3)
    assert (few.question, few.boxes, few.image.tobytes()) == (
        many.question, many.boxes, many.image.tobytes()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"marks_min": 6, "marks_max": 5}, "marks_min"),
        ({"charts": ()}, "`charts` is empty"),
        ({"single": ()}, "`single` is empty"),
        ({"charts": ("line",)}, "no chart answers 'above'"),
        ({"charts": ("scatter",)}, "no chart answers 'value'"),
    ],
)
def test_conflicts_are_named(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ChartsVqa(**fields)


def test_a_kind_that_is_never_asked_needs_no_chart() -> None:
    assert ChartsVqa(charts=("line",), single_share=0.0).item("train", 0).tag == "multi"
