"""Reading in forked processes gives what reading here gives, whatever happens to them."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp import forked
from vexp.errors import RunError

COUNT = forked._cores
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module", autouse=True)
def three_cores():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked, "_cores", lambda: 3)
        patch.setattr(forked, "AT_LEAST", 5)
        yield


def flat(read, items):
    return [each for part in forked.in_parts(read, items) for each in part]


@given(st.lists(st.integers(), max_size=40))
def test_the_parts_are_all_items_in_order(items):
    assert flat(lambda part: [value + 1 for value in part], items) == [v + 1 for v in items]


def test_few_items_are_read_here_and_many_by_several_processes():
    def read(part):
        return [os.getpid()] * len(part)

    assert set(flat(read, range(9))) == {os.getpid()}
    assert len(set(flat(read, range(15)))) == 3


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: 1 / 0])
def test_a_part_whose_process_breaks_down_is_read_here(end, capfd):
    here = os.getpid()

    def read(part):
        if os.getpid() != here:
            end()
        return [str(value) for value in part]

    assert flat(read, range(20)) == [str(value) for value in range(20)]
    assert capfd.readouterr() == ("", "")


def test_an_error_is_the_one_that_reading_raises():
    def read(part):
        if 17 in part:
            raise RunError("item 17 is damaged", where="17.json", remedy="delete it")
        return list(part)

    with pytest.raises(RunError, match="item 17 is damaged"):
        flat(read, range(20))


def test_no_process_with_threads_is_forked(monkeypatch):
    monkeypatch.setattr(forked.threading, "active_count", lambda: 2)
    assert COUNT() == 1
