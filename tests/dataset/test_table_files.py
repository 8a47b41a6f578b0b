"""Local JSONL and Parquet files as datasets: reading, splits, identity, and bad rows."""

from __future__ import annotations

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from vexp.config.hashing import plain
from vexp.dataset.table import Table
from vexp.errors import ConfigError, DataError
from vexp.spec.resolve import resolve


def picture(path, color="red", size=(40, 20)):
    PIL.Image.new("RGB", size, color).save(path)
    return path.name


def rows(tmp_path, count=30):
    return [
        {
            "id": f"q{n}",
            "image": picture(tmp_path / f"{n}.png", (n, 0, 0)),
            "question": f"what is {n}?",
            "answer": str(n),
            "boxes": [[1, 2, 11, 12]] * (1 + n % 2),
            "demonstration": f"<think></think>\\boxed{{{n}}}",
        }
        for n in range(count)
    ]


def write_jsonl(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")
    return str(path)


def write_parquet(path, found):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.Table.from_pylist(found), path)
    return str(path)


def everything(table):
    return [table.item(s, i) for s in ("train", "dev", "test") for i in range(table.size(s))]


def problems(table):
    return [f"{p.where}: {p.what}" for p in table.data_problems()]


def run_with(*overrides):
    return resolve(["mix.datasets.main=table", *overrides])


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_items_come_back_as_written(tmp_path, write) -> None:
    suffix = ".jsonl" if write is write_jsonl else ".parquet"
    table = Table(path=write(tmp_path / f"data{suffix}", rows(tmp_path)))
    items = {item.id: item for item in everything(table)}
    assert sorted(items) == sorted(f"q{n}" for n in range(30))
    item = items["q7"]
    assert (item.question, item.answer) == ("what is 7?", "7")
    assert item.image.mode == "RGB"
    assert item.image.getpixel((0, 0)) == (7, 0, 0)
    assert item.boxes == ((1, 2, 11, 12), (1, 2, 11, 12))
    assert item.tag == "multi"
    assert items["q8"].tag == "single"
    assert item.demonstration == "<think></think>\\boxed{7}"
    assert list(table.data_problems()) == []


def test_parquet_with_image_structures_as_hugging_face_writes_them(tmp_path) -> None:
    found = rows(tmp_path, 5)
    for row in found:
        row["image"] = {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None}
    table = Table(path=write_parquet(tmp_path / "data.parquet", found), test_fraction=0.0)
    assert {item.image.size for item in everything(table)} == {(40, 20)}


def test_columns_of_other_names_and_missing_optional_ones(tmp_path) -> None:
    found = [{"problem": "2+2", "gold": 4}, {"problem": "1+1", "gold": 2.5}]
    path = write_jsonl(tmp_path / "data.jsonl", found)
    table = Table(path=path, question="problem", answer="gold", dev_fraction=0, test_fraction=0)
    first, second = (table.item("train", i) for i in range(2))
    assert (first.question, first.answer, first.image, first.boxes) == ("2+2", "4", None, ())
    assert (first.tag, first.demonstration) == ("", "")
    assert second.answer == "2.5"
    assert first.id != second.id
    assert list(table.data_problems()) == []


def test_splits_by_hash_do_not_depend_on_the_other_rows(tmp_path) -> None:
    found = rows(tmp_path, 60)
    whole = Table(path=write_jsonl(tmp_path / "a.jsonl", found))
    part = Table(path=write_jsonl(tmp_path / "b.jsonl", found[::-2]))
    of = {p.id: s for s in ("train", "dev", "test") for p in whole.places(s)}
    for split in ("train", "dev", "test"):
        assert {p.id for p in part.places(split)} <= {id_ for id_, s in of.items() if s == split}
    assert sum(whole.size(s) for s in ("train", "dev", "test")) == 60
    assert 0 < whole.size("dev") < 20
    assert 0 < whole.size("test") < 20


def test_a_split_column_and_files_of_their_own(tmp_path) -> None:
    found = rows(tmp_path, 6)
    for row, split in zip(
        found, ("train", "train", "validation", "test", "test", "dev"), strict=True
    ):
        row["split"] = split
    path = write_jsonl(tmp_path / "data.jsonl", found)
    table = Table(path=path, split_column="split")
    assert [table.size(s) for s in ("train", "dev", "test")] == [2, 2, 2]
    other = [{**row, "id": f"x{row['id']}"} for row in found[:1]]
    own = write_jsonl(tmp_path / "test.jsonl", other)
    with_own = Table(path=path, split_column="split", test_path=own)
    assert [with_own.size(s) for s in ("train", "dev", "test")] == [2, 2, 1]
    assert with_own.item("test", 0).id == "xq0"


# --- identity


def test_the_identity_is_the_content_not_the_place(tmp_path) -> None:
    home = tmp_path / "a"
    home.mkdir()
    path = write_jsonl(home / "data.jsonl", rows(home, 5))
    shutil.copytree(home, tmp_path / "b")
    moved = str(tmp_path / "b" / "data.jsonl")
    assert plain(Table(path=path)) == plain(Table(path=moved))
    assert str(tmp_path) not in json.dumps(plain(Table(path=path)))
    assert plain(Table(path=path)) != plain(Table(path=path, dev_fraction=0.2))


def test_a_changed_row_or_image_changes_the_identity(tmp_path) -> None:
    found = rows(tmp_path, 5)
    before = Table(path=write_jsonl(tmp_path / "a.jsonl", found)).content()
    assert Table(path=write_jsonl(tmp_path / "b.jsonl", found)).content() == before
    changed = Table(
        path=write_jsonl(tmp_path / "c.jsonl", [*found[:-1], {**found[-1], "answer": "x"}])
    )
    assert changed.content()["file"] != before["file"]
    picture(tmp_path / "3.png", "white")
    assert (
        Table(path=write_jsonl(tmp_path / "d.jsonl", found)).content()["images"] != before["images"]
    )


def test_a_test_file_of_its_own_changes_evaluations_not_training(tmp_path) -> None:
    found = rows(tmp_path, 5)
    path = write_jsonl(tmp_path / "data.jsonl", found)
    tests = [
        Table(path=path, test_path=write_jsonl(tmp_path / f"{n}.jsonl", found[:n])) for n in (1, 2)
    ]
    assert plain(tests[0]) == plain(tests[1])
    assert tests[0].held_out_content("test") != tests[1].held_out_content("test")
    assert tests[0].held_out_content("dev") == {}


def test_a_file_that_changes_while_in_use_is_refused(tmp_path) -> None:
    found = rows(tmp_path, 5)
    path = write_jsonl(tmp_path / "data.jsonl", found)
    table = Table(path=path)
    table.item("train", 0)
    write_jsonl(tmp_path / "data.jsonl", found[1:])
    with pytest.raises(DataError, match="changed while it was in use"):
        table.item("train", 0)
    assert Table(path=path).size("train") > 0


def test_a_relative_path_holds_wherever_a_worker_starts(tmp_path, monkeypatch) -> None:
    write_jsonl(tmp_path / "data.jsonl", rows(tmp_path, 5))
    monkeypatch.chdir(tmp_path)
    table = Table(path="data.jsonl", dev_fraction=0, test_fraction=0)
    monkeypatch.chdir("/")
    assert table.size("train") == 5


# --- what is wrong, by row


def test_every_problem_is_named_by_row_at_once(tmp_path) -> None:
    found = rows(tmp_path, 12)
    found[1]["question"] = "  "
    found[2]["answer"] = None
    found[3]["image"] = "nowhere.png"
    (tmp_path / "4.png").write_bytes(b"not an image")
    found[5]["boxes"] = [[1, 2, 3]]
    found[6]["boxes"] = [[0.1, 0.1, 0.5, 0.5]]
    found[7]["boxes"] = [[100, 10, 200, 20]]
    found[8]["boxes"] = [[5, 5, 5, 9]]
    found[9]["id"] = "q0"
    found[10]["answer"] = ["a", "b"]
    found[11]["image"] = None
    table = Table(path=write_jsonl(tmp_path / "data.jsonl", found))
    text = sorted(problems(table))
    file = tmp_path / "data.jsonl"
    for line, message in [
        (2, "the question is empty"),
        (3, "the answer is empty"),
        (4, "nowhere.png"),
        (5, "not an image"),
        (6, "four numbers"),
        (7, "looks normalised"),
        (8, "reaches out"),
        (9, "no area"),
        (11, "the answer is a list"),
        (12, "no image"),
    ]:
        starts = (f"{file}, line {line}: ", f"{file}, line {line} (id 'q{line - 1}'): ")
        assert any(t.startswith(starts) and message in t for t in text), message
    assert any("'q0' was used before" in t for t in text)
    assert len(text) == 11


def test_a_bad_row_is_named_when_it_is_read(tmp_path) -> None:
    found = rows(tmp_path, 3)
    found[1]["image"] = "nowhere.png"
    path = write_jsonl(tmp_path / "data.jsonl", found)
    table = Table(path=path, dev_fraction=0, test_fraction=0)
    with pytest.raises(DataError) as caught:
        table.item("train", 1)
    assert f"{path}, line 2" in str(caught.value)
    assert "nowhere.png" in str(caught.value)


def test_a_truncated_image_is_found_by_the_check_and_when_read(tmp_path) -> None:
    found = rows(tmp_path, 2)
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "1.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[:-500])
    path = write_jsonl(tmp_path / "data.jsonl", found)
    table = Table(path=path, dev_fraction=0, test_fraction=0)
    assert [t for t in problems(table) if "line 2" in t and "damaged" in t]
    with pytest.raises(DataError, match="damaged"):
        table.item("train", 1)


def test_many_problems_are_cut_and_counted(tmp_path) -> None:
    found = [{"question": "", "answer": "1", "split": "train"} for _ in range(50)]
    path = write_jsonl(tmp_path / "data.jsonl", found)
    text = problems(Table(path=path, split_column="split"))
    assert len(text) == 21
    assert "30 more problems; 50 in all" in text[-1]


def test_broken_lines_unknown_splits_and_an_empty_training_split(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    good = '{"question": "a", "answer": "b", "split": "exam"}'
    path.write_bytes(f"{good}\n\n{{oops\n[1]\n".encode() + b"\xff\xfe\n")
    text = "\n".join(problems(Table(path=str(path), split_column="split")))
    assert f"{path}, line 3: this line is not valid JSON" in text
    assert f"{path}, line 4: this line is a JSON list" in text
    assert f"{path}, line 5: this line is not UTF-8" in text
    assert f"{path}, line 1: 'split' is 'exam'" in text
    assert "no row belongs to the training split" in text


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a", "answer": "b"}\r\n\r\n')
    table = Table(path=str(path), dev_fraction=0, test_fraction=0)
    assert table.item("train", 0).answer == "b"
    assert list(table.data_problems()) == []


def test_mixed_columns_and_missing_values_of_pandas(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"question": "a", "answer": NaN}\n{"question": "a", "answer": 1, "tag": NaN}\n'
    )
    table = Table(path=str(path), dev_fraction=0, test_fraction=0)
    assert [t for t in problems(table) if "line 1" in t and "the answer is empty" in t]
    assert table.item("train", 1).tag == ""


def test_a_damaged_parquet_file(tmp_path) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="not a Parquet file"):
        Table(path=str(path)).size("train")


# --- at composition, without reading a row


def test_a_missing_file_is_named_at_composition(tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_with(f"mix.datasets.main.path={tmp_path / 'nowhere.jsonl'}")
    assert "nowhere.jsonl" in str(caught.value)
    assert "mix.datasets.main (table)" in str(caught.value)
    with pytest.raises(ConfigError, match="no file is named"):
        run_with()
    (tmp_path / "data.csv").write_text("question,answer\n")
    with pytest.raises(ConfigError, match="neither JSONL nor Parquet"):
        run_with(f"mix.datasets.main.path={tmp_path / 'data.csv'}")


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_missing_columns_are_named_at_composition(tmp_path, write) -> None:
    suffix = ".jsonl" if write is write_jsonl else ".parquet"
    path = write(tmp_path / f"data{suffix}", [{"question": "a", "anwser": "b"}])
    with pytest.raises(ConfigError) as caught:
        run_with(f"mix.datasets.main.path={path}", "mix.datasets.main.image=picture")
    text = str(caught.value)
    assert "no column 'answer'" in text
    assert "did you mean 'anwser'" in text
    assert "no column 'demonstration'" in text
    assert "no column 'picture'" in text
    with pytest.raises(ConfigError) as caught:
        run_with(f"mix.datasets.main.path={path}", "mix.datasets.main.answer=anwser", "stages=[rl]")
    assert "dataset 'main' has no test item" in str(caught.value)


def test_what_is_only_evaluated_needs_no_demonstrations(tmp_path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"question": "q", "answer": "a"}] * 3)
    asked = f"{{name: table, path: '{path}', dev_fraction: 0.0, test_fraction: 1.0}}"
    assert resolve([f"+evaluator.heldout.datasets.main={asked}"])
    with pytest.raises(ConfigError, match="no column 'demonstration'"):
        run_with(f"mix.datasets.main.path={path}")


def test_a_good_table_composes(tmp_path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", rows(tmp_path))
    run = run_with(f"mix.datasets.main.path={path}")
    run.mix.check_data()
    assert run.mix.draw(0, seed=1).id.startswith("main/q")


def test_the_data_check_names_the_dataset(tmp_path) -> None:
    found = rows(tmp_path)
    found[0]["answer"] = ""
    path = write_jsonl(tmp_path / "data.jsonl", found)
    run = run_with(f"mix.datasets.main.path={path}")
    with pytest.raises(ConfigError) as caught:
        run.mix.check_data()
    assert "the answer is empty" in str(caught.value)
    assert "mix.datasets.main: " in str(caught.value)


def test_fractions_beyond_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 1 together"):
        Table(path="x.jsonl", dev_fraction=0.6, test_fraction=0.6)
