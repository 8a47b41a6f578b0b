"""A sheet as an HTML fragment: one `table` element with caption and notes, nothing but text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vexp.tables.rendered import Heading, RenderedCell, Sheet

_OPEN = '<table class="vexp-table">'


def html(sheet: Sheet) -> str:
    """The table with its notes; the best cell is `strong`, the second `u`. Texts are escaped."""
    return "\n".join([_OPEN, *_lines(sheet), *_foot(sheet), "</table>"]) + "\n"


def table_element(sheet: Sheet) -> str:
    """The table alone, for a page that has the notes elsewhere."""
    return "\n".join([_OPEN, *_lines(sheet), "</table>"]) + "\n"


def _lines(sheet: Sheet) -> Iterator[str]:
    yield f"<caption>{escape(sheet.title)}</caption>"
    yield "<thead>"
    if groups := sheet.column_groups():
        titles = (
            f'<th colspan="{width}" scope="colgroup">{escape(group)}</th>'
            if group
            else f'<td colspan="{width}"></td>'
            for group, width in groups
        )
        yield f"<tr>{''.join(titles)}</tr>"
    headings = "".join(f'<th scope="col">{escape(h.text)}</th>' for h in sheet.headings)
    yield f"<tr>{headings}</tr>"
    yield "</thead>"
    for group, members in sheet.sections():
        yield "<tbody>"
        if group:
            width = len(sheet.headings)
            yield f'<tr><th colspan="{width}" scope="rowgroup">{escape(group)}</th></tr>'
        for line in members:
            first, *rest = line.cells
            cells = "".join(map(_cell, rest, sheet.headings[1:]))
            yield f'<tr><th scope="row">{_marked(first)}</th>{cells}</tr>'
        yield "</tbody>"


def _foot(sheet: Sheet) -> Iterator[str]:
    notes = [*sheet.notes, sheet.origin]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    yield f'<tfoot><tr><td colspan="{len(sheet.headings)}"><ul>{items}</ul></td></tr></tfoot>'


def _cell(cell: RenderedCell, heading: Heading) -> str:
    """A cell of a numeric column says the number to sort it by, which is empty where none is."""
    value = "" if cell.value is None else repr(cell.value)
    attribute = f' data-value="{value}"' if heading.numeric else ""
    return f"<td{attribute}>{_marked(cell)}</td>"


def _marked(cell: RenderedCell) -> str:
    text = escape(cell.text)
    return {"best": f"<strong>{text}</strong>", "second": f"<u>{text}</u>", "": text}[cell.rank]
