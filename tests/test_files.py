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

from vexp import files
from vexp.errors import StorageError


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
from vexp import files
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
