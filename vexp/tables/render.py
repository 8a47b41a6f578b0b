"""A sheet as text: Markdown, CSV, JSON, and for the terminal. A sheet always gives one text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vexp.csv_cells import cell
from vexp.tables.html import html
from vexp.tables.latex import latex
from vexp.tables.rendered import RenderedCell, Sheet

if TYPE_CHECKING:
    from rich.table import Table


def markdown(sheet: Sheet) -> str:
    """GitHub's Markdown; the best cell is bold, the second underlined."""
    rule = ["---:" if heading.numeric else "---" for heading in sheet.headings]
    lines = [f"# {_escaped(sheet.title)}", ""]
    groups = _column_groups(sheet)
    lines += [f"Columns: {groups}.", ""] if groups else []
    lines += [_line(_escaped(heading.text) for heading in sheet.headings), f"|{'|'.join(rule)}|"]
    for group, members in sheet.sections():
        empty = [""] * (len(sheet.headings) - 1)
        lines += [_line([f"*{_escaped(group)}*", *empty])] if group else []
        lines += [_line(_marked(cell) for cell in line.cells) for line in members]
    lines += ["", *(f"- {_escaped(note)}" for note in sheet.notes)]
    return "\n".join([*lines, "", _with_code(sheet.origin), ""])


def csv_text(sheet: Sheet) -> str:
    """One line per cell, on the metric's own scale, for scripts."""
    out = io.StringIO()
    if records := sheet.records():
        writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
        writer.writerow({key: cell(key) for key in records[0]})
        for record in records:
            writer.writerow({key: cell(value) for key, value in record.items()})
    return out.getvalue()


def json_text(sheet: Sheet) -> str:
    """Everything the table knows, on the metrics' own scales."""
    return json.dumps(sheet.document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def terminal(sheet: Sheet) -> Table:
    """For a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    caption = Text("\n".join(sheet.notes))
    table = Table(title=Text(sheet.title), caption=caption, caption_justify="left")
    for heading in sheet.headings:
        text = f"{heading.group}\n{heading.text}" if heading.group else heading.text
        table.add_column(Text(text), justify="right" if heading.numeric else "left")
    styles = {"best": "bold", "second": "underline", "": ""}
    for group, members in sheet.sections():
        if group:
            table.add_section()
            table.add_row(Text(group, style="italic"))
        for line in members:
            table.add_row(*(Text(cell.text, style=styles[cell.rank]) for cell in line.cells))
    return table


# Text formats by the name that `--format` takes, which is also the file's suffix.
FORMATS: dict[str, Callable[[Sheet], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": csv_text,
    "html": html,
    "json": json_text,
}
ALIASES = {"latex": "tex", "markdown": "md"}


def _column_groups(sheet: Sheet) -> str:
    start, found = 0, []
    for group, width in sheet.column_groups():
        members = sheet.headings[start : start + width]
        start += width
        if group:
            found.append(f"{_escaped(group)} ({', '.join(_escaped(h.text) for h in members)})")
    return "; ".join(found)


def _marked(cell: RenderedCell) -> str:
    text = _escaped(cell.text)
    return {"best": f"**{text}**", "second": f"<u>{text}</u>", "": text}[cell.rank]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is and that stays on one line of a table."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _with_code(text: str) -> str:
    """A sentence with one piece of code, between backticks, whatever that piece holds."""
    before, _, rest = " ".join(text.split()).partition("`")
    code, _, after = rest.rpartition("`")
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    space = " " if "`" in code else ""
    return f"{before}{fence}{space}{code}{space}{fence}{after}"
