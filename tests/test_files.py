"""Files are whole or as before, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp import files, records
from vexp.errors import Damaged, StorageError


def test_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"x": 1})
    files.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 2}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_refused_write_keeps_the_former_content(tmp_path, monkeypatch, number):
    path = tmp_path / "a.txt"
    files.write_text(path, "before")

    def refuse(_handle):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="nothing already written was lost") as error:
        files.write_text(path, "after")
    assert str(path) in str(error.value) and "run the same command" in str(error.value)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_really_full_disk():
    full = files.Path("/dev/full")
    with (
        pytest.raises(StorageError, match="the disk is full"),
        files.storage_errors(full),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.append_line(tmp_path / "a.jsonl", {"x": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_new_folder_is_whole_or_absent_and_first_come_stays(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError, match="stop"), files.new_folder(target) as aside:
        (aside / "half").write_text("x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(target) as aside:
        (aside / "who").write_text("first")
    with files.new_folder(target) as aside:
        (aside / "who").write_text("second")
    assert (target / "who").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5),
    cut=st.integers(1, 40),
)
def test_a_torn_last_line_is_recognised(tmp_path_factory, rows, cut):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    for row in rows:
        files.append_line(path, row)
    assert files.read_lines(path) == (rows, None)
    if rows:
        whole = path.read_bytes()
        last = len(whole) - whole[:-1].rfind(b"\n") - 1
        path.write_bytes(whole[: -min(cut + 1, last - 1)] if last > 2 else whole[:-2])
        found, damaged = files.read_lines(path)
        assert found == rows[:-1]
        assert damaged in (len(rows), None)


def test_damage_in_the_middle_hides_what_follows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    assert files.read_lines(path) == ([{"a": 1}], 2)
    assert files.read_lines(tmp_path / "none.jsonl") == ([], None)


def test_a_killed_writer_leaves_the_former_content(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "before")
    code = f"""
import os, signal
from vexp import files, records
real = os.fsync
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write_text(files.Path({str(path)!r}), "after" * 1000)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_text() == "before"


def test_a_place_that_takes_no_folder_is_one_message():
    folder = files.new_folder(Path("/proc/nothing/runs/x"))
    with pytest.raises(StorageError, match="no folder can be created here"), folder:
        pass


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"\0\0\0", "it holds zeros only"),
        (b"null", "expected `object`, got `null`"),
        (b'{"format": 1, "config": {}}', "object missing required field `science`"),
        (b'{"format": "1", "config": {}, "science": {}}', "expected `int`, got `str`, at `format`"),
        (b'{"format": 1, "config": {}, "science": {}, "format": 1}', "`format` is given twice"),
        (b'{"format": 1, "config": {"a": NaN}, "science": {}}', "JSON is malformed"),
        (b'{"format": 1, "config": {"a": 1e999}, "science": {}}', "number out of range"),
        (b'{"format": 1, "config": {"x": ' + b"[" * 100_000, "nested too deep"),
        (b'{"x": ' + b"[" * 100_000, "nested too deep"),
        (b'{"format": 1, "config": {}, "science": {}, "x": "\xff"}', "it is not UTF-8"),
        (b'{"format": 1, "config": {}, "science": {', "truncated"),
    ],
)
def test_a_record_is_checked_where_it_is_read(tmp_path, content, what):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"run\.json is damaged: ") as caught:
        files.read(path, records.Run)
    assert what in str(caught.value)
    assert str(path) in str(caught.value) and records.Run.remedy in str(caught.value)


def test_fields_of_a_later_vexp_are_passed_over_and_its_formats_refused(tmp_path):
    path = tmp_path / "run.json"
    files.write_json(path, {"format": 1, "config": {}, "science": {}, "mood": "good"})
    assert files.read(path, records.Run) == records.Run(1, {}, {})
    assert files.read(tmp_path / "none.json", records.Run) is None
    files.write_json(path, {"format": 9, "vexp": "9.0", "config": "in another place"})
    with pytest.raises(Damaged, match=r"written by a newer vexp \(9\.0\)") as caught:
        files.read(path, records.Run)
    assert not caught.value.content


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_named_and_waited_for_by_nobody(tmp_path, kind):
    path = tmp_path / "run.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(Damaged, match=r"run\.json") as caught:
        files.read(path, records.Run)
    assert str(path) in str(caught.value)


def test_a_record_of_no_reasonable_size_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST", 1 << 17)
    path = tmp_path / "run.json"
    path.write_bytes(b'"' + b"x" * (1 << 20))
    with pytest.raises(Damaged, match="more than 131072 bytes"):
        files.read(path, records.Run)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_as_one(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    for each in ("first", "second"):
        (tmp_path / "aside").mkdir()
        (tmp_path / "aside" / each).touch()
        files.replace_folder(tmp_path / "aside", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [each]
        if exchanges and each == "second":
            assert [path.name for path in (tmp_path / "aside").iterdir()] == ["first"]
