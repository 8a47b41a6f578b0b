r"""A sheet as LaTeX: a `table` environment that needs `\usepackage{booktabs}` and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from vexp.tables.rendered import RenderedCell, Sheet

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", "Δ": r"$\Delta$", "†": r"$\dagger$", "‡": r"$\ddagger$", "≠": r"$\neq$",
    "§": r"\S{}", "¦": r"$\mid$", "×": r"$\times$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$",
    "→": r"$\to$", "↑": r"$\uparrow$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$",
    "κ": r"$\kappa$", "λ": r"$\lambda$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "…": r"\ldots{}", "–": "--", "—": "---",
}  # fmt: skip


def latex(sheet: Sheet) -> str:
    """The table with its groups, caption, label and notes; the best bold, the second underlined."""
    columns = "".join("r" if heading.numeric else "l" for heading in sheet.headings)
    lines = [
        f"% {_comment(sheet.origin)}",
        r"% \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escaped(sheet.title)}}}",
        rf"\label{{tab:{_label(sheet.name)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_column_groups(sheet),
        _row(escaped(heading.text) for heading in sheet.headings),
    ]
    for group, members in sheet.sections():
        lines.append(r"\midrule")
        if group:
            title = rf"\multicolumn{{{len(sheet.headings)}}}{{l}}{{\textit{{{escaped(group)}}}}}"
            lines.append(rf"{title} \\")
        lines += [_row(_marked(cell) for cell in line.cells) for line in members]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if sheet.notes:
        notes = r" \\ ".join(escaped(note) for note in sheet.notes)
        lines += ["", rf"\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return " ".join("".join(_SPECIAL.get(sign, sign) for sign in text).split())


def _column_groups(sheet: Sheet) -> list[str]:
    groups = sheet.column_groups()
    if not groups:
        return []
    titles, rules, start = [], [], 1
    for group, width in groups:
        if group:
            titles.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        else:
            titles += [""] * width
        start += width
    return [_row(titles), " ".join(rules)]


def _marked(cell: RenderedCell) -> str:
    text = escaped(cell.text)
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[cell.rank]


def _row(cells: Iterable[str]) -> str:
    # A cell that begins with a bracket would be read as an argument of the line break before it.
    return " & ".join("{}" + cell if cell[:1] in "[*" and cell else cell for cell in cells) + r" \\"


def _label(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)


def _comment(text: str) -> str:
    return " ".join(text.split())
