"""A sheet as an HTML fragment: one `table` element with caption and notes, nothing but text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vexp.tables.sheet import Sheet, Shown


def html(sheet: Sheet) -> str:
    """The table; the best cell is `strong`, the second `u`. Every text is escaped."""
    return "\n".join(_lines(sheet)) + "\n"


def _lines(sheet: Sheet) -> Iterator[str]:
    yield '<table class="vexp-table">'
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
            cells = "".join(f"<td>{_marked(cell)}</td>" for cell in rest)
            yield f'<tr><th scope="row">{_marked(first)}</th>{cells}</tr>'
        yield "</tbody>"
    notes = [*sheet.notes, sheet.origin]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    yield f'<tfoot><tr><td colspan="{len(sheet.headings)}"><ul>{items}</ul></td></tr></tfoot>'
    yield "</table>"


def _marked(cell: Shown) -> str:
    text = escape(cell.text)
    return {"best": f"<strong>{text}</strong>", "second": f"<u>{text}</u>", "": text}[cell.rank]
