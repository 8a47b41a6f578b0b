"""Text that a spreadsheet would compute is text, numbers stay numbers, and all is read back."""

from __future__ import annotations

import pytest

from vexp.csv_cells import cell, plain


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1",
                                  "=", "-", "'", "''", " =1", "'x", "-５", "\n=1"])  # fmt: skip
def test_text_is_read_back(text):
    written = cell(text)
    assert plain(written) == text
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("value", ["-0.5", "+1", "-1e5", "-inf", "a=b", "a-b", "", "0"])
def test_other_text_stays(value):
    assert cell(value) == plain(value) == value


def test_values():
    assert [cell(value) for value in (None, -0.5, -3, 0.1 + 0.2, True)] == [
        "", "-0.5", -3, "0.30000000000000004", True
    ]  # fmt: skip
