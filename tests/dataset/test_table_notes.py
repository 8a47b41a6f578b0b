"""What a table holds that is not what it seems: read rightly, or said with row and count."""

from __future__ import annotations

import json
import os

import PIL.Image
import pytest

from tests.dataset.test_table_files import problems, run_with, write_jsonl, write_parquet
from vexp.config.hashing import plain
from vexp.dataset._cells import MOST_CHARACTERS
from vexp.dataset.table import Table
from vexp.errors import ConfigError, DataError


@pytest.fixture
def pictures(tmp_path):
    """Paths of four images of 640 x 480 pixels, relative to the table."""
    for number in range(4):
        PIL.Image.new("RGB", (640, 480), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return [f"{number}.png" for number in range(4)]


def table_of(path, found, *, write=write_jsonl, **fields):
    suffix = "parquet" if write is write_parquet else "jsonl"
    where = write(path / f"data.{suffix}", found)
    return Table(path=where, **({"dev_fraction": 0, "test_fraction": 0} | fields))


def answers(table):
    return [table.item("train", index).answer for index in range(table.size("train"))]


def notes(table):
    assert problems(table) == []
    return list(table.data_notes())


# --- numbers


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_whole_floats_of_a_whole_column_are_integers(tmp_path, write):
    found = [{"question": "q", "answer": number} for number in (5.0, -0.0, -3.0, 1e6)]
    table = table_of(tmp_path, found, write=write)
    assert answers(table) == ["5", "0", "-3", "1000000"]
    (note,) = notes(table)
    assert note.startswith("4 rows: the answer is written as an integer")
    assert "data." in note


def test_a_column_with_fractions_keeps_its_floats(tmp_path):
    found = [{"question": "q", "answer": number} for number in (5.0, 2.5, "B", 1e300)]
    table = table_of(tmp_path, found)
    assert answers(table) == ["5.0", "2.5", "B", "1e+300"]
    assert notes(table) == []


def test_a_float_of_32_bits_is_written_in_its_own_digits(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path = tmp_path / "data.parquet"
    numbers = [0.7, 3.14159, 1e-7, 123456.78, 0.5]
    column = arrow.array(numbers, arrow.float32())
    parquet.write_table(arrow.table({"question": ["q"] * 5, "answer": column}), path)
    table = Table(path=str(path), dev_fraction=0, test_fraction=0)
    assert answers(table) == ["0.7", "3.14159", "1e-07", "123456.78", "0.5"]
    assert notes(table)[0].startswith("5 rows: the answer is written as a float of 32 bits")


def test_what_was_widened_from_32_bits_is_told_from_64(tmp_path):
    numbers = [0.699999988079071, 0.7, 0.1 + 0.2, 2.0**-24, 0.123456789012345]
    table = table_of(tmp_path, [{"question": "q", "answer": number} for number in numbers])
    assert answers(table) == ["0.7", "0.7", *map(repr, numbers[2:])]


# --- columns that look meant


IMAGE_CELLS = {
    "images": lambda path: [{"bytes": None, "path": path}],
    "Image": lambda path: path,
    "img": lambda path: {"bytes": b"x", "path": path},
    "image_path": lambda path: path,
    "image_id": lambda path: int(path[0]),
    "my_shots": lambda path: path,
}


@pytest.mark.parametrize("name", IMAGE_CELLS)
def test_a_table_with_images_elsewhere_is_not_asked_blind(tmp_path, pictures, name):
    cell = IMAGE_CELLS[name]
    found = [{"id": f"q{n}", "question": "q", "answer": "1", name: cell(p)}
             for n, p in enumerate(pictures * 5)]  # fmt: skip
    write = write_parquet if name == "img" else write_jsonl
    path = table_of(tmp_path, found, write=write).path
    with pytest.raises(ConfigError) as caught:
        run_with(f"mix.datasets.main.path={path}", "stages=[rl]")
    text = str(caught.value)
    assert f"the column 'image' is not there, but '{name}' may be meant for the image" in text
    assert "20 questions would be asked without it" in text
    assert f"`image: {name}`" in text
    assert "`image: null`" in text


def test_an_empty_column_beside_one_with_images_is_named_by_the_check(tmp_path, pictures):
    found = [{"question": "q", "answer": "1", "image": None, "images": p} for p in pictures]
    (problem,) = problems(table_of(tmp_path, found))
    assert (
        "the column 'image' is empty, but 'images' may be meant for the image: 4 questions"
        in problem
    )
    blind = table_of(tmp_path, found, image=None)
    assert notes(blind) == []
    assert blind.item("train", 0).image is None
    assert table_of(tmp_path, found, image="images").item("train", 0).image is not None


def test_text_only_tables_and_urls_in_texts_are_left_alone(tmp_path):
    found = [
        {"id": f"q{n}", "question": "what is x.png?", "answer": "1", "source": "book", "n": 3}
        for n in range(30)
    ]
    assert notes(table_of(tmp_path, found)) == []
    run_with(f"mix.datasets.main.path={tmp_path / 'data.jsonl'}", "stages=[rl]")


def test_further_columns_are_said(tmp_path, pictures):
    words = ("train", "validation", "test", "test")
    found = [
        {"qid": n, "question": "q", "answer": "1", "image": p, "image_2": p, "image_path": p,
         "bbox": [1, 2, 3, 4], "split": word}
        for n, (p, word) in enumerate(zip(pictures, words, strict=True))
    ]  # fmt: skip
    said = "\n".join(notes(table_of(tmp_path, found)))
    assert "the column 'image_2' holds images too, and is not read" in said
    assert "image_path" not in said
    assert "the column 'bbox' is not read; if it is meant, set `boxes: bbox`" in said
    assert "the column 'qid' is not read; if it is meant, set `id_column: qid`" in said
    assert "the column 'split' names 3 rows for dev or test and is not read" in said
    fields = {"boxes": "bbox", "id_column": "qid", "split_column": "split", "image": "image"}
    said = notes(table_of(tmp_path, [{**row, "image_2": None} for row in found], **fields))
    assert said == []


@pytest.mark.parametrize(("field", "name"), [("question", "Problem"), ("answer", "ground_truth")])
def test_a_missing_column_names_what_looks_like_it(tmp_path, field, name):
    row = {"question": "q", "answer": "1"}
    row[name] = row.pop(field)
    path = table_of(tmp_path, [row]).path
    with pytest.raises(ConfigError) as caught:
        run_with(f"mix.datasets.main.path={path}", "stages=[rl]")
    assert f"if '{name}' is meant, set `{field}: {name}`" in str(caught.value)


# --- text


def test_a_placeholder_is_taken_out_and_counted(tmp_path, pictures):
    questions = ["<image>How many?", "How many?\n<image>", "a\n<image>\nb", "How many?"]
    found = [{"question": q, "answer": "1", "image": pictures[0]} for q in questions]
    table = table_of(tmp_path, found)
    asked = [table.item("train", index).question for index in range(4)]
    assert asked == ["How many?", "How many?", "a\nb", "How many?"]
    (note,) = notes(table)
    assert note.startswith("3 rows: the placeholder <image> of the question is taken out (")
    assert "line 1" in note


def test_placeholders_that_stand_for_nothing_are_refused_by_row(tmp_path, pictures):
    found = [
        {"question": "<image>How many?", "answer": "1", "image": None},
        {"question": "<image><image>How many?", "answer": "1", "image": pictures[0]},
    ]
    first, second = problems(table_of(tmp_path, found))
    assert "line 1" in first
    assert "and the row has no image" in first
    assert "line 2" in second
    assert "2 placeholders for images (<image>) and 1 image" in second
    with pytest.raises(DataError, match="2 placeholders"):
        table_of(tmp_path, found).item("train", 1)


def test_control_tokens_are_said(tmp_path):
    found = [{"question": "Why?<|im_end|>", "answer": "1"}, {"question": "Why?", "answer": "1"}]
    (note,) = notes(table_of(tmp_path, found))
    assert note.startswith("1 row: <|im_end|> in the question is read as plain characters")


def test_a_text_without_bounds_is_named_by_row(tmp_path):
    long = "x" * (MOST_CHARACTERS + 1)
    found = [{"question": long, "answer": "1"}, {"question": "q", "answer": long}]
    first, second = problems(table_of(tmp_path, found))
    assert "line 1" in first
    assert "the question has 1,000,001 characters; at most 1,000,000 are read" in first
    assert "the answer has" in second


# --- images


CELLS = ("pipe", "folder", "/dev/zero", "null\0", "x" * 300, "x" * 5000, "data:image,é", "~/x")


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_regular_file_is_named_by_row(tmp_path, cell):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    table = table_of(tmp_path, [{"question": "q", "answer": "1", "image": cell}])
    (problem,) = problems(table)
    assert "line 1" in problem
    assert "image" in problem
    assert len(problem) < 1000
    with pytest.raises(DataError, match="line 1"):
        table.item("train", 0)
    assert table.content()["images"]


def shared(path, pictures, **fields):
    found = [{"id": f"q{n}", "image": pictures[n % 4], "question": f"{n}?", "answer": "1"}
             for n in range(80)]  # fmt: skip
    return table_of(path, found, dev_fraction=0.0, test_fraction=0.25, **fields)


def test_images_on_both_sides_of_a_split_are_counted_and_split_by_image(tmp_path, pictures):
    table = shared(tmp_path, pictures)
    count = table.size("test")
    (note,) = notes(table)
    assert f"4 of 4 test images ({count} of {count} questions) are images of training" in note
    assert "`split_by: image`" in note
    apart = shared(tmp_path, pictures, split_by="image", test_path=None)
    assert notes(apart) == []
    assert apart.size("train") + apart.size("test") == 80
    assert apart.size("train") % 20 == 0


def test_the_same_image_under_another_name_is_the_same(tmp_path, pictures):
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    train = [{"question": "q", "answer": "1", "image": "0.png"}]
    held_out = [
        {"question": "q", "answer": "1", "image": name}
        for name in ("copy.png", "copy.png", "1.png")
    ]
    other = write_jsonl(tmp_path / "test.jsonl", held_out)
    table = table_of(tmp_path, train, test_path=other)
    (note,) = notes(table)
    assert "1 of 2 test images (2 of 3 questions)" in note
    assert "take them out of one of the two" in note


def test_how_rows_are_shared_out_by_default_has_the_id_it_had(tmp_path, pictures):
    row = {"question": "q", "answer": "1", "image": "0.png"}
    table = table_of(tmp_path, [row])
    assert "split_by" not in json.dumps(plain(table))
    assert plain(table) != plain(table_of(tmp_path, [row], split_by="image"))


# --- boxes


def boxed(path, boxes, *, picture="0.png", **fields):
    found = [{"question": "q", "answer": "1", "image": picture, "boxes": [box]} for box in boxes]
    return table_of(path, found, **({"bad_boxes": "dropped"} | fields))


@pytest.mark.parametrize(
    ("boxes", "box_format", "said"),
    [
        ([[100, 100, 300, 400], [500, 500, 900, 950]], "xyxy_px", "thousandths of its sides"),
        ([[900, 900, 2000, 1500]], "xyxy_px", "pixels of larger images"),
        ([[400, 300, 50, 60]] * 5, "xyxy_px", "x, y, width, height"),
        ([[0.5, 0.5, 0.2, 0.2]] * 2, "xyxy_norm", "x, y, width, height"),
        ([[0.5, 0.5, 1.4, 1.9]] * 2, "xyxy_norm", "no shares of its sides"),
    ],
)
def test_boxes_in_another_unit_are_refused_where_bad_ones_are_dropped(
    tmp_path, pictures, boxes, box_format, said
):
    (problem,) = problems(boxed(tmp_path, boxes, box_format=box_format))
    assert said in problem
    assert f"of {len(boxes)} boxes" in problem


def test_single_bad_boxes_are_still_dropped(tmp_path, pictures):
    good = [[10, 10, 600, 400]] * 9
    assert problems(boxed(tmp_path, [*good, [0, 0, 900, 900]])) == []
    assert problems(boxed(tmp_path, [*good, [300, 300, 200, 200]])) == []
    assert problems(boxed(tmp_path, [[10, 10, 650, 490]] * 20)) == []


def test_boxes_within_a_thousand_on_large_images_are_said(tmp_path):
    PIL.Image.new("RGB", (1600, 1300)).save(tmp_path / "large.png")
    small = [[10 * n, 10, 900, 950] for n in range(12)]
    table = boxed(tmp_path, small, picture="large.png", bad_boxes="refused")
    (note,) = notes(table)
    assert "all 12 boxes lie within 0 to 1000" in note
    table = boxed(tmp_path, [*small, [0, 0, 1500, 900]], picture="large.png")
    assert notes(table) == []
