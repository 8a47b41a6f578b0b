"""The text of cells and of whole tables."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from vexp.sweeps.schema import Column
from vexp.tables.frame import Cell, Frame, Measured, Score, TableRow
from vexp.tables.render import FORMATS, cell_text, number, terminal

PERCENT = Column(metric="accuracy", label="All", scale="percent")
PLAIN = Column(metric="length", digits=0)


def cell(*values, declared=None):
    measured = tuple(
        Measured(f"r{seed}", seed, Score(value, 0.01, 50)) for seed, value in enumerate(values)
    )
    by_seed = dict(enumerate(values))
    return Cell(measured, len(values) if declared is None else declared, by_seed)


def table(*rows, baseline=None):
    return Frame("demo", "A <b>title</b>", (PERCENT, PLAIN), ("k",), rows, baseline)


@pytest.mark.parametrize(
    ("given", "column", "difference", "text"),
    [
        (cell(0.4749, 0.4918), PERCENT, None, "48.3 ± 1.2 (n=2)"),
        (cell(0.5), PERCENT, None, "50.0 (n=1)"),
        (cell(0.5, declared=2), PERCENT, None, "50.0 (1/2)"),
        (cell(0.5, 0.5, declared=3), PERCENT, None, "50.0 ± 0.0 (2/3)"),
        (cell(declared=2), PERCENT, None, "0/2"),
        (cell(0.5), PERCENT, 0.038, "50.0 (n=1) Δ +3.8"),
        (cell(0.5), PERCENT, -0.0001, "50.0 (n=1) Δ +0.0"),
        (cell(10.0, 11.0), PLAIN, -2.0, "10 ± 1 (n=2) Δ -2"),
    ],
)
def test_cells(given, column, difference, text):
    assert cell_text(given, column, difference) == text


def test_no_negative_zero():
    assert number(-0.00001, PERCENT) == "0.0"


def test_headings_say_the_scale():
    assert [PERCENT.heading, PLAIN.heading] == ["All (%)", "length"]


def test_json_and_csv_are_exact_and_complete():
    row = TableRow("a", "A", {"k": "1"}, (cell(0.1, 0.2), cell(declared=2)), (0.1 + 0.2, None))
    data = json.loads(FORMATS["json"](table(row)))
    first, second = data["rows"][0]["cells"]
    assert [value["value"] for value in first["values"]] == [0.1, 0.2]
    assert (first["n"], first["declared"], first["mean"]) == (2, 2, pytest.approx(0.15))
    assert second == {
        "n": 0,
        "declared": 2,
        "mean": None,
        "sd": None,
        "difference": None,
        "values": [],
    }
    assert data["columns"][0]["scale"] == "percent"
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](table(row)))))
    assert float(lines[0]["difference"]) == 0.1 + 0.2
    assert float(lines[0]["mean"]) == first["mean"]
    assert (lines[1]["row"], lines[1]["k"], lines[1]["mean"], lines[1]["n"]) == ("a", "1", "", "0")


def test_markdown_shows_hostile_labels_as_text():
    row = TableRow(
        "a", "[x](javascript:1) | <img>\n`", {"k": "*"}, (cell(0.1), cell(1.0)), (None, None)
    )
    text = FORMATS["md"](table(row))
    assert "| \\[x\\](javascript:1) \\| \\<img\\> \\` | \\* | 10.0 (n=1) | 1 (n=1) |" in text
    assert "# A \\<b\\>title\\</b\\>" in text


def test_the_terminal_shows_the_same_cells():
    row = TableRow("a", "[bold]A", {"k": "1"}, (cell(0.1, 0.3), cell(1.0)), (None, None))
    console = Console(record=True, width=120)
    console.print(terminal(table(row)))
    text = console.export_text()
    assert "20.0 ± 14.1 (n=2)" in text
    assert "[bold]A" in text


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_same_table_gives_the_same_bytes(name):
    row = TableRow("a", "A", {"k": "1"}, (cell(0.1, 0.3), cell(1.0)), (None, 0.5))
    assert FORMATS[name](table(row, baseline="B")) == FORMATS[name](table(row, baseline="B"))
