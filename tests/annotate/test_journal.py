"""The journal: torn anywhere, it gives back every whole line, and nothing is found twice."""

from __future__ import annotations

import json
import threading
import time

import pytest

from vexp.annotate.journal import AnnotationJournal, finished_in


def test_what_was_found_is_found_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = AnnotationJournal(path)
    assert journal.once("a", lambda: {"text": "x"}, step="extractor") == {"text": "x"}
    assert journal.once("b", lambda: None) is None
    journal.finish("me", 3, {"tag": "single"})
    journal.finish("other", 4, {"tag": "multi"})
    again = AnnotationJournal(path)
    for key, expected in (("a", {"text": "x"}), ("b", None)):
        assert again.once(key, lambda: pytest.fail("asked twice")) == expected
    assert again.finished("me") == finished_in(path, "me") == {3: {"tag": "single"}}
    assert finished_in(tmp_path / "none", "me") == {}


def test_torn_at_every_byte(tmp_path):
    whole = tmp_path / "whole"
    journal = AnnotationJournal(whole)
    for number in range(3):
        journal.once(f"k{number}", lambda number=number: f"é{number}")
    content = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        torn = tmp_path / f"cut{cut}"
        torn.write_bytes(content[:cut])
        journal = AnnotationJournal(torn)
        complete = sum(end <= cut + 1 for end in ends)  # a line without its newline is whole, too
        assert len(journal.answers()) == complete
        journal.once("new", lambda: "n")
        assert len(AnnotationJournal(torn).answers()) == complete + 1


@pytest.mark.parametrize("line", [b"garbage\n", b"[1]\n", b'{"key": "x"}\n', b"\xff\n", b"null\n"])
def test_a_damaged_line_costs_only_itself(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    good = [json.dumps({"key": key, "answer": key}).encode() + b"\n" for key in "ab"]
    path.write_bytes(good[0] + line + good[1])
    journal = AnnotationJournal(path)
    assert sorted(journal.answers()) == ["a", "b"]
    assert journal.damaged == 1


def test_threads_that_ask_the_same_wait_for_one_answer(tmp_path):
    journal = AnnotationJournal(tmp_path / "journal.jsonl")
    asked = []

    def find():
        asked.append(1)
        time.sleep(0.05)
        return "x"

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(journal.once("k", find))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["x"] * 8
    assert asked == [1]


def test_what_fails_is_asked_again(tmp_path):
    journal = AnnotationJournal(tmp_path / "journal.jsonl")
    with pytest.raises(ZeroDivisionError):
        journal.once("k", lambda: 1 / 0)
    assert journal.once("k", lambda: 2) == 2
    assert len(journal.path.read_text().splitlines()) == 1
