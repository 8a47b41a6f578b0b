"""The text of cells, and of whole tables in every format."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from rich.console import Console

from vexp.sweeps.schema import Row
from vexp.sweeps.table import Column
from vexp.tables import reference
from vexp.tables.cells import Cell, Measured, Published, Score
from vexp.tables.frame import Difference, Frame, TableRow
from vexp.tables.published import sheet as published_sheet
from vexp.tables.render import FORMATS, terminal
from vexp.tables.render_text import cell_text, number, sheet_of
from vexp.tables.significance import TTest

PERCENT = Column(metric="accuracy", label="All", scale="percent")
PLAIN = Column(metric="length", digits=0)
HOSTILE = "[x](javascript:1) | <img src=x onerror=alert(1)>\n`\\input{/etc/passwd}` 5% & $x_1^2$ #~"


def cell(*values, declared=None):
    measured = tuple(
        Measured(f"r{seed}", seed, Score(value, 0.01, 50)) for seed, value in enumerate(values)
    )
    count = len(values) if declared is None else declared
    return Cell(measured, count, dict(enumerate(measured)))


def row(name, label, cells, differences=(None, None), axes=None):
    return TableRow(Row(name=name, label=label), axes or {"k": "1"}, cells, differences)


def table(*rows, baseline=None, title="A <b>title</b>"):
    return sheet_of(Frame("demo", title, (PERCENT, PLAIN), ("k",), rows, baseline))


def difference(mean, p=None, n=2):
    return Difference(mean, n, p)


@pytest.mark.parametrize(
    ("given", "column", "against", "text"),
    [
        (cell(0.4749, 0.4918), PERCENT, None, "48.3 ± 1.2 (n=2)"),
        (cell(0.5), PERCENT, None, "50.0 (n=1)"),
        (cell(0.5, declared=2), PERCENT, None, "50.0 (1/2)"),
        (cell(0.5, 0.5, declared=3), PERCENT, None, "50.0 ± 0.0 (2/3)"),
        (cell(declared=2), PERCENT, None, "0/2"),
        (cell(0.5), PERCENT, difference(0.038), "50.0 (n=1) Δ +3.8"),
        (cell(0.5), PERCENT, difference(-0.0001), "50.0 (n=1) Δ +0.0"),
        (cell(10.0, 11.0), PLAIN, difference(-2.0), "10 ± 1 (n=2) Δ -2"),
        (cell(0.5), PERCENT, difference(0.038, p=0.03), "50.0 (n=1) Δ +3.8*"),
        (cell(0.5), PERCENT, difference(0.038, p=0.2), "50.0 (n=1) Δ +3.8"),
        (Cell(text="A * psi(w)"), PLAIN, None, "A * psi(w)"),
        (Cell(published=Published(0.901, "90.1")), PERCENT, None, "90.1"),
        (Cell(comparison=TTest(5, 0.1, 3.0, 0.0123)), PERCENT, None, "0.012 (n=5)"),
    ],
)
def test_cells(given, column, against, text):
    assert cell_text(given, column, against) == text


def test_the_published_number_stands_beside_ours_with_the_difference():
    published = Published(0.55, "55.0")
    given = dataclasses.replace(cell(0.5, 0.54), published=published)
    assert cell_text(given, PERCENT) == "52.0 ± 2.8 (n=2) | 55.0 | -3.0"
    other = dataclasses.replace(published, differs=("backbone tiny",))
    assert cell_text(dataclasses.replace(given, published=other), PERCENT).endswith("| -3.0 ≠")
    missing = dataclasses.replace(cell(declared=3), published=other)
    assert cell_text(missing, PERCENT) == "0/3 | 55.0 ≠"


def test_no_negative_zero():
    assert number(-0.00001, PERCENT) == "0.0"


def test_headings_say_the_scale():
    assert [PERCENT.heading, PLAIN.heading] == ["All (%)", "length"]


def test_json_and_csv_are_exact_and_complete():
    found = table(
        row("a", "A", (cell(0.1, 0.2), cell(declared=2)), (difference(0.1 + 0.2, 0.04), None))
    )
    data = json.loads(FORMATS["json"](found))
    first, second = data["rows"][0]["cells"]
    assert [value["value"] for value in first["values"]] == [0.1, 0.2]
    assert (first["n"], first["declared"], first["mean"]) == (2, 2, pytest.approx(0.15))
    assert (first["difference"], first["p_holm"]) == (0.1 + 0.2, 0.04)
    assert (second["n"], second["declared"], second["mean"], second["values"]) == (0, 2, None, [])
    assert data["columns"][0]["scale"] == "percent"
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](found))))
    assert float(lines[0]["difference"]) == 0.1 + 0.2
    assert float(lines[0]["mean"]) == first["mean"]
    assert (lines[1]["row"], lines[1]["k"], lines[1]["mean"], lines[1]["n"]) == ("a", "1", "", "0")


def test_markdown_shows_hostile_labels_as_text():
    found = row("a", "[x](javascript:1) | <img>\n`", (cell(0.1), cell(1.0)), axes={"k": "*"})
    text = FORMATS["md"](table(found))
    assert "| \\[x\\](javascript:1) \\| \\<img\\> \\` | \\* | 10.0 (n=1) | 1 (n=1) |" in text
    assert "# A \\<b\\>title\\</b\\>" in text


def test_a_backtick_does_not_end_the_code_that_it_is_in():
    origin = "Made by `vexp table 'a`<img src=x>\n``b'` from results alone."
    text = FORMATS["md"](dataclasses.replace(table(), origin=origin))
    assert "Made by ``` vexp table 'a`<img src=x> ``b' ``` from results alone." in text


class Texts(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_html_shows_hostile_labels_as_text():
    found = Texts(FORMATS["html"](table(row("a", HOSTILE, (cell(0.1), cell(1.0))))))
    assert HOSTILE in found.texts
    assert "img" not in found.tags and "b" not in found.tags


@pytest.mark.parametrize("name", reference.names())
def test_latex_is_balanced_and_has_as_many_cells_as_columns(name):
    text = FORMATS["tex"](published_sheet(name, reference.load(name)))
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    for line in body.splitlines():
        if line.endswith("\\\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX with booktabs")
def test_latex_compiles_as_it_is(tmp_path):
    sheets = [published_sheet(name, reference.load(name)) for name in reference.names()]
    sheets.append(table(row("a", HOSTILE, (cell(0.1), cell(declared=2))), title=HOSTILE))
    tables = "\n\\clearpage\n".join(FORMATS["tex"](each) for each in sheets)
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        f"{tables}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode"]
    done = subprocess.run([*command, "all.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "multiply defined" not in done.stdout
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_the_terminal_shows_the_same_cells():
    console = Console(record=True, width=120)
    console.print(terminal(table(row("a", "[bold]A", (cell(0.1, 0.3), cell(1.0))))))
    text = console.export_text()
    assert "20.0 ± 14.1 (n=2)" in text
    assert "[bold]A" in text


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_same_table_gives_the_same_bytes(name):
    found = row("a", "A", (cell(0.1, 0.3), cell(1.0)), (None, difference(0.5)))
    assert FORMATS[name](table(found, baseline="B")) == FORMATS[name](table(found, baseline="B"))
