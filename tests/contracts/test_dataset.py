"""What every registered dataset promises."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import PIL.Image
import pytest

from vexp.registry import REGISTRY
from vexp.verifier.exact import Exact

SPLITS = ("train", "dev", "test")
EACH = 12  # items looked at from either end of a split


def table(folder):
    """Images of every mode and none, boxes that rounding pushed over the edge, three splits."""
    modes = ("RGB", "L", "RGBA", "P", "")
    rows = []
    for n in range(30):
        row = {"question": f"what is {n}?", "answer": str(n), "split": SPLITS[n % 3]}
        if mode := modes[n % len(modes)]:
            PIL.Image.new(mode, (40, 20), n).save(folder / f"{n}.png")
            row |= {"image": f"{n}.png", "boxes": [[1, 2, 11, 12], [-0.5, 15, 40.5, 20.9]]}
        if n % 2:
            row["demonstration"] = f"<think></think>\\boxed{{{n}}}"
        rows.append(json.dumps(row) + "\n")
    path = folder / "data.jsonl"
    path.write_text("".join(rows), "utf-8")
    return {"path": str(path), "split_column": "split"}


@pytest.fixture(params=REGISTRY.names("dataset"))
def make(request, tmp_path):
    """Builds the dataset anew, always with the same fields."""
    fields = {"table": table}.get(request.param, lambda _: {})(tmp_path)
    return functools.partial(REGISTRY.get("dataset", request.param), **fields)


def places(dataset):
    for split in SPLITS:
        size = dataset.size(split)
        ends = {*range(min(EACH, size)), *range(max(0, size - EACH), size)}
        yield from ((split, index) for index in sorted(ends))


def items(dataset):
    return [dataset.item(*place) for place in places(dataset)]


def content(item):
    image = item.image and (item.image.mode, item.image.size, item.image.tobytes())
    return replace(item, image=None), image


def test_an_item_is_a_function_of_split_and_index(make):
    forth, back = make(), make()
    found = {place: content(forth.item(*place)) for place in places(forth)}
    again = {place: content(back.item(*place)) for place in reversed(list(places(back)))}
    assert again == found


def test_sizes_are_those_of_the_splits(make):
    dataset = make()
    for split in SPLITS:
        size = dataset.size(split)
        assert size == make().size(split) > 0
        assert dataset.item(split, size - 1)


@pytest.mark.parametrize("split", SPLITS)
def test_there_is_no_item_outside_a_split(make, split):
    dataset = make()
    for index in (-1, dataset.size(split), dataset.size(split) + 10**9):
        with pytest.raises(IndexError):
            dataset.item(split, index)


def test_ids_are_unique_within_and_across_splits(make):
    ids = [item.id for item in items(make())]
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_questions_and_answers_are_not_empty(make):
    for item in items(make()):
        assert item.question.strip()
        assert item.answer.strip()


def test_the_tag_can_be_told_without_the_item(make):
    dataset = make()
    assert [dataset.tag_of(*place) for place in places(dataset)] == [i.tag for i in items(dataset)]


def test_images_are_rgb(make):
    images = [item.image for item in items(make()) if item.image is not None]
    assert images
    assert {image.mode for image in images} == {"RGB"}


def test_boxes_have_an_area_within_the_image(make):
    dataset = make()
    boxed = [item for item in items(dataset) if item.boxes]
    assert bool(boxed) == ("boxes" in dataset.provides)
    for item in boxed:
        width, height = item.image.size
        for x1, y1, x2, y2 in item.boxes:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height


def test_a_demonstration_gives_the_gold_answer(make):
    shown = [item for item in items(make()) if item.demonstration]
    assert shown
    for item in shown:
        assert Exact().verdict(item.demonstration, item.answer).correct == 1.0


def test_the_data_is_found_to_be_sound(make):
    assert list(make().data_problems()) == []
