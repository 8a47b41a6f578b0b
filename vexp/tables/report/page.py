"""A report as one HTML page that opens from disk: no network, no other file, no framework.

The template escapes every text. What the script shows comes as JSON in a block that is no script,
with every sign escaped that could end it. The page's policy allows this style and this script by
their hashes, images from the page itself, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from importlib import resources
from typing import Any

from vexp import __version__
from vexp.tables.html import table_element
from vexp.tables.report.charts import Chart
from vexp.tables.report.contents import Report

_LINES = 10  # that are chosen in the charts to begin with
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def page(report: Report) -> str:
    """The whole page; the same results give the same text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sentence"] = _sentence
    style, script = _part("page.css"), _part("page.js")
    html = environment.from_string(_part("page.html")).render(
        report=report,
        facts=_facts(report),
        shown=_LINES,
        table=Markup(table_element(report.sheet)) if report.sheet else None,  # noqa: S704
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704  (files of this package)
        script=Markup(script),  # noqa: S704
        data=Markup(_json(_data(report))),  # noqa: S704
        command=f"vexp report {report.argument}",
        version=__version__,
    )
    # Half a surrogate pair, which JSON lines can hold, has no UTF-8.
    return html.lstrip().encode("utf-8", "replace").decode("utf-8")


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8").replace("\r\n", "\n")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(content: Any) -> str:
    """JSON that may stand in a script element: ASCII without the signs of HTML."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _data(report: Report) -> dict[str, Any]:
    charts = (*report.charts, *report.curves.more)
    questions = [asdict(question) for question in report.gallery.questions]
    return {
        "lines": [line.label for line in report.lines],
        "latex": report.latex,
        "charts": {chart.name: _chart(chart) for chart in charts},
        "questions": questions,
    }


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "x": chart.x,
        "y": chart.y,
        "kind": chart.kind,
        "log_x": chart.log_x,
        "series": [
            {
                "line": each.line,
                "n": each.n,
                "x": list(each.x),
                **{
                    name: [float(f"{value:.5g}") for value in getattr(each, name)]
                    for name in ("mean", "low", "high")
                },
            }
            for each in chart.series
        ],
    }


def _facts(report: Report) -> str:
    total = sum(report.counts.values())
    done = report.counts.get("done", 0)
    rest = [f"{n} {state}" for state, n in report.counts.items() if n and state != "done"]
    parts = [f"{done} of {total} runs done" + (f" ({', '.join(rest)})" if rest else "")]
    parts += [f"seeds {', '.join(map(str, report.seeds))}"] if report.seeds else []
    return " · ".join(parts)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
