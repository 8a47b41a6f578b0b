"""Responses with each token coloured by its weight: for the terminal, as SVG and as HTML.

Orange is more than an even share (a weight above 1), blue is less; the stronger, the further from
1. A weight below 0, which pushes a token against its response's outcome, is underlined as well.
All text comes from models and data and is escaped. The files need nothing but themselves, and
follow the reader's light or dark mode.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

LIGHT = {"page": "#ffffff", "text": "#1f2328", "quiet": "#59636e"}
DARK = {"page": "#0d1117", "text": "#f0f6fc", "quiet": "#9198a1"}
MORE, LESS, AGAINST = "#e8710a", "#2f81f7", "#d1242f"
STRONGEST = 0.6  # opacity of a colour behind text that stays readable on it
COLUMNS = 84  # characters per line of an SVG
_WIDE, _HIGH, _EDGE = 8.4, 24.0, 16.0  # pixels: a character, a line, the margin


@dataclass(frozen=True)
class ShownTokens:
    """One response: what was asked, and the text and weight of each token."""

    question: str
    verdict: str
    tokens: Sequence[tuple[str, float]]


def shown(samples: Iterable[dict[str, Any]], count: int) -> list[ShownTokens]:
    """The first `count` responses whose tokens were kept, one of each question first.

    `samples` are lines of samples.jsonl, the responses to a question one after the other.
    """
    kept = [sample for sample in samples if sample.get("tokens")]
    seen: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for index, sample in enumerate(kept):
        question = str(sample["id"]).rpartition("#")[0]
        seen[question] = seen.get(question, 0) + 1
        order.append((seen[question], index))
    return [_shown(kept[index]) for _, index in sorted(order)[:count]]


def furthest(responses: Iterable[ShownTokens]) -> float:
    """The largest distance of a weight from 1; 1 where all weights are 1."""
    return max((abs(w - 1) for shown in responses for _, w in shown.tokens), default=0.0) or 1.0


def terminal(responses: Sequence[ShownTokens]) -> Group:
    """For rich's console."""
    from rich.console import Group
    from rich.text import Text

    most = furthest(responses)
    lines: list[Text] = []
    for response in responses:
        lines.append(Text(f"{visible(response.question)}  {visible(response.verdict)}", "dim"))
        line = Text()
        for text, weight in response.tokens:
            line.append(visible(text), _rich_style(weight, most))
        lines += [line, Text()]
    legend = Text("weight  ", "dim")
    for weight in _steps(most):
        legend.append(f" {weight:.2f} ", _rich_style(weight, most))
    return Group(*lines, legend)


def svg(responses: Sequence[ShownTokens], title: str) -> str:
    """A picture that any browser, and a Markdown page, shows."""
    most, y, body = furthest(responses), _EDGE + _HIGH, list[str]()
    body.append(_svg_text(_EDGE, y, title, "t b"))
    for response in responses:
        y += 0.7 * _HIGH
        head = f"{response.question}  {response.verdict}"
        for line in _wrapped([(head, 1.0)]):
            body.append(_svg_text(_EDGE, y, "".join(text for text, _ in line), "q"))
            y += _HIGH
        for line in _wrapped(response.tokens):
            body.append(_svg_line(line, y, most))
            y += _HIGH
    y += 0.6 * _HIGH
    label = "weight, 1 is an even share: "
    body.append(_svg_text(_EDGE, y, label, "q"))
    steps = [(f" {weight:.2f} ", weight) for weight in _steps(most)]
    body.append(_svg_line(steps, y, most, _EDGE + _cells(label) * _WIDE))
    width, height = 2 * _EDGE + COLUMNS * _WIDE, y + _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{_escaped(title)}">\n'
        f"<style>{_SVG_STYLE}</style>\n"
        f'<rect class="p" width="100%" height="100%"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def page(responses: Sequence[ShownTokens], title: str) -> str:
    """A page of its own; a token's weight is in its tooltip."""
    most = furthest(responses)
    parts = [
        f'<p class="q">{_escaped(response.question)} {_escaped(response.verdict)}</p>\n'
        f'<p class="r">{spans(response.tokens, most)}</p>'
        for response in responses
    ]
    legend = spans([(f" {weight:.2f} ", weight) for weight in _steps(most)], most)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title>\n<style>{HTML_STYLE}</style>\n"
        f"<h1>{_escaped(title)}</h1>\n" + "\n".join(parts) + "\n"
        f'<p class="q">Weight, 1 is an even share: <span class="r">{legend}</span></p></html>\n'
    )


def spans(tokens: Iterable[tuple[str, float]], most: float) -> str:
    """Tokens as HTML, to be put into any page that has `HTML_STYLE`."""
    found = []
    for text, weight in tokens:
        strength = round(100 * _strength(weight, most))
        kind = "against" if weight < 0 else ""
        color = MORE if weight > 1 else LESS
        found.append(
            f'<span class="w {kind}" title="{weight:.3f}" style="background:'
            f'color-mix(in srgb,{color} {strength}%,transparent)">{_escaped(text)}</span>'
        )
    return "".join(found)


def visible(text: str) -> str:
    """The text on one line, with what cannot be seen or printed made visible."""
    return "".join(
        "⏎" if c == "\n" else "�" if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c
        for c in text
    )


def _shown(sample: dict[str, Any]) -> ShownTokens:
    verdict = "right" if sample["correct"] == 1 else f"wrong, it is {sample['answer']}"
    tokens = [(str(text), float(weight)) for text, weight in sample["tokens"]]
    return ShownTokens(str(sample["question"]), f"({verdict})", tokens)


def _strength(weight: float, most: float) -> float:
    return STRONGEST * min(1.0, abs(weight - 1) / most)


def _steps(most: float) -> list[float]:
    return [1 - most, 1 - most / 2, 1.0, 1 + most / 2, 1 + most]


def _rich_style(weight: float, most: float) -> str:
    """A background mixed with black and light text: readable whatever the terminal's own are."""
    strength = _strength(weight, most) / STRONGEST
    strong = tuple(int((MORE if weight > 1 else LESS)[i : i + 2], 16) for i in (1, 3, 5))
    color = "".join(f"{round(38 + (0.7 * c - 38) * strength):02x}" for c in strong)
    return f"#ffffff on #{color}" + (" underline" if weight < 0 else "")


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _wrapped(tokens: Iterable[tuple[str, float]]) -> list[list[tuple[str, float]]]:
    """Lines of at most `COLUMNS` characters; a longer token is cut."""
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for whole, weight in tokens:
        text = visible(whole)
        pieces = [text[i : i + COLUMNS // 2] for i in range(0, len(text), COLUMNS // 2)]
        for piece in pieces:
            if used + _cells(piece) > COLUMNS:
                lines.append([])
                used = 0
            lines[-1].append((piece, weight))
            used += _cells(piece)
    return lines


def _svg_line(tokens: Iterable[tuple[str, float]], y: float, most: float, x: float = _EDGE) -> str:
    found = []
    for text, weight in tokens:
        width = _cells(text) * _WIDE
        kind = "m" if weight > 1 else "l"
        found.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y - 16:.1f}" width="{width:.1f}" height="21" '
            f'fill-opacity="{_strength(weight, most):.2f}"><title>{weight:.3f}</title></rect>'
        )
        if weight < 0:
            found.append(
                f'<rect class="a" x="{x:.1f}" y="{y + 4:.1f}" width="{width:.1f}" height="2"/>'
            )
        found.append(_svg_text(x, y, text, "t", width))
        x += width
    return "".join(found)


def _svg_text(x: float, y: float, text: str, style: str, width: float | None = None) -> str:
    fixed = f' textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"' if width else ""
    kept = _escaped(text).replace(" ", "\u00a0")
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{fixed}>{kept}</text>'


def _modes(rules: Callable[[dict[str, str]], str]) -> str:
    return f"{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}"


_SVG_STYLE = (
    "text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}.b{font-weight:bold}"
    f".m{{fill:{MORE}}}.l{{fill:{LESS}}}.a{{fill:{AGAINST}}}"
    + _modes(lambda c: f".p{{fill:{c['page']}}}.t{{fill:{c['text']}}}.q{{fill:{c['quiet']}}}")
)
HTML_STYLE = (
    "body{font:16px/1.7 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.2rem}.q{margin:1.2rem 0 0}"
    ".r{font-family:ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;margin:0}"
    f".w{{border-radius:.2em}}.against{{border-bottom:2px solid {AGAINST}}}"
    + _modes(
        lambda c: f"body{{background:{c['page']};color:{c['text']}}}.q{{color:{c['quiet']}}}"
    )
)  # fmt: skip

# File formats by suffix.
FORMATS: dict[str, Callable[[Sequence[ShownTokens], str], str]] = {".svg": svg, ".html": page}
