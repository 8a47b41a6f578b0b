"""One spelling for all answers: Unicode, LaTeX and Markdown flattened without losing meaning."""

from __future__ import annotations

import functools
import re
import unicodedata

LONGEST = 10_000  # characters of an answer that are read; longer ones are compared as they are

_INVISIBLE = dict.fromkeys(
    [0xAD, 0xFEFF, 0xFE0E, 0xFE0F, *range(0x200B, 0x2010), *range(0x202A, 0x202F),
     *range(0x2060, 0x2065), *range(0x2066, 0x206A)]
)  # fmt: skip
_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D, 0x02D7], "-")
_SIGNS = {0x2044: "/", 0x2215: "/", 0x2217: "*", 0x22C5: "·", 0x2219: "·", 0x2022: "·", 0x2024: "."}
_SIGNS |= {
    0xBA: "°",
    0x2DA: "°",
    0x2019: "'",
    0x2018: "'",
    0x201C: '"',
    0x201D: '"',
    0x2236: ":",
    0x3001: ",",
    0x3002: ".",
}
_FLAT = {**_INVISIBLE, **_DASHES, **_SIGNS}
_ABOVE = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ"
_BELOW = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎"
_RAISED = re.compile(f"[{_ABOVE}]+")
_LOWERED = re.compile(f"[{_BELOW}]+")
_VULGAR = re.compile("(\\d?)([¼-¾⅐-⅞↉])")

_TEXT = r"text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mbox"
_INNER = r"[^{}]*(?:\{[^{}]*\}[^{}]*)*"  # braces within braces
_WRAPPER = re.compile(rf"\\(?:{_TEXT}|operatorname|boldsymbol|bm)\s*\{{({_INNER})\}}")
_NOTHING = re.compile(
    r"(?<!\\)\\!|\\(?:left|right|displaystyle|limits)(?![a-zA-Z])|\\[bB]ig[gG]?[lr]?(?![a-z])"
)
_SPACING = re.compile(r"(?<!\\)\\[;:, ]|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])|~")
_DEGREES = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\s*\\degree(?![a-zA-Z])")
_BRACED_POWER = re.compile(r"([\^_])\s*\{\s*(-?\w+)\s*\}")
_BOLD = re.compile(r"(?<![\w)*])(\*\*|__)(?=\S)(.+?)(?<=\S)\1(?![\w(*])", re.DOTALL)
_DOLLARS = re.compile(r"(?<!\\)\$(?=\S)([^$]*?)(?<=[^\s\\])\$(?!\d)")
_MARKUP = re.compile(r"</?(?:b|i|u|em|strong|sub|sup)>", re.IGNORECASE)
_COMMANDS = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "lt": "<", "gt": ">", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "le": "<=", "leq": "<=", "leqslant": "<=", "ldots": "...",
    "dots": "...", "cdots": "...", "dotsc": "...", "infty": "∞", "cup": "∪", "ne": "\\neq",
    "lbrace": "\\{", "rbrace": "\\}", "Omega": "Ω", "mu": "μ", "approx": "≈", "euro": "€",
    "pounds": "£", "yen": "¥", "percent": "%", "minus": "-",
}  # fmt: skip
_COMMAND = re.compile(rf"\\({'|'.join(_COMMANDS)})(?![a-zA-Z])\s*")
_OPERATORS = {
    "≤": "<=",
    "≥": ">=",
    "⩽": "<=",
    "⩾": ">=",
    "\\%": "%",
    "\\$": "$",
    "{,}": ",",
    "\\#": "#",
    "\\_": "_",
}
_OPERATOR = re.compile("|".join(map(re.escape, _OPERATORS)))
_LOOSE_SPACE = re.compile(r"(?<!\w) | (?!\w)")  # beside anything but letters and digits
_GROUPED = re.compile(
    "|".join(
        r"(?<![\d.,'(\[])" + groups
        for groups in (
            r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,'])",
            r"[1-9]\d?(?:,\d{2})+,\d{3}(?![\d,'])",  # 12,34,567 as in India
            r"[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.'])",
            r"[1-9]\d{0,2}(?:[' ]\d{3})+(?![\d,' /])",
        )
    )
)
_INDEX = re.compile(r"(?<=[a-zA-Z)\]])_\{?(\d+)\}?")  # H_2O as H2O

_WRAPPINGS = tuple(
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"<answer>(.*)</answer>",
        r"####\s*(.*)",
        r"(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:[:：]|is\b:?)\s*(.*)",
        r"\$\$(.+)\$\$", r"\$(?=\S)([^$]+)\$", r"\\\((.+)\\\)", r"\\\[(.+)\\\]",
        r"\*{1,3}(?!\s)([^*]+)(?<!\s)\*{1,3}", r"__?(?=\S)([^_]+)__?", r"`+([^`]+)`+",
        r'"([^"]+)"', r"“([^”]+)”",
        r"\\displaystyle(?![a-z])(.+)", r"\{([^{},]*)\}",
    )
)  # fmt: skip
# What holds an answer in a longer text; around all of it, it is taken off.
_MARKS = ("<answer>", "</answer>", "\\boxed", "####", "<think>", "</think>")
_END_TOKEN = re.compile(r"(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>)\s*$")  # of a turn
_BOXED = re.compile(r"\\f?boxed?\s*\{")


def unwrapped(answer: str) -> str:
    """The answer without what says that it is one: `\\boxed{5}`, `<answer>5</answer>`, `#### 5`.

    Only where the wrapping holds all of the text; dollar signs and bold around all of it go too.
    """
    answer = answer.strip()
    for _ in range(6):  # wrappings may be nested; not without end
        inner = _inside(answer)
        if inner is None:
            return answer
        answer = inner.strip()
    return answer


def wrapping_left(gold: str) -> str | None:
    """Reason why a gold answer that stands within other text cannot be read; None for others."""
    inner = unwrapped(gold)
    mark = next((mark for mark in _MARKS if mark in inner), None)
    if mark is None and (token := _END_TOKEN.search(inner)):
        return f"it ends in the control token {token[0]!r}"
    return mark and f"it stands within other text, marked by {mark!r}"


def _inside(answer: str) -> str | None:
    if (box := _BOXED.match(answer)) and answer.endswith("}"):
        depth, inside = 0, answer[box.end() : -1]
        for token in re.finditer(r"\\.|[{}]", inside, re.DOTALL):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if depth < 0:
                return None
        return inside if depth == 0 else None
    if answer.endswith(".") and _BOXED.match(answer):
        return answer[:-1]
    for wrapping in _WRAPPINGS:
        if match := wrapping.fullmatch(answer):
            return match[1]
    return None


@functools.lru_cache(maxsize=1024)
def plain_math(text: str) -> str:
    """LaTeX without delimiters, text wrappers, spacing and escapes; Unicode signs by their ASCII.

    Superscripts become powers, vulgar fractions become fractions, every dash a minus sign, degree
    signs `°`. Case stays as it is, and so do spaces.
    """
    text = _ascii(unwrapped(_MARKUP.sub(_as_latex, text)))
    text = _DOLLARS.sub(r"\1", text)
    text = _OPERATOR.sub(lambda match: _OPERATORS[match[0]], _DEGREES.sub("°", text))
    text = _SPACING.sub(" ", _NOTHING.sub("", text))
    for _ in range(3):  # wrappers may be nested, as in \text{\bf{a}}; not without end
        text = _WRAPPER.sub(r"\1", text)
    text = _COMMAND.sub(lambda match: _COMMANDS[match[1]], text)
    text = _BRACED_POWER.sub(_short_power, _BOLD.sub(r"\2", text))
    return text.strip()


def _as_latex(tag: re.Match[str]) -> str:
    """Nothing for a tag of HTML, but a power or an index for what it raises or lowers."""
    return {"<sup>": "^{", "<sub>": "_{", "</sup>": "}", "</sub>": "}"}.get(tag[0].casefold(), "")


def _ascii(text: str) -> str:
    """Unicode signs by their ASCII, before and after the compatibility forms are taken apart."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = _VULGAR.sub(lambda match: f"{match[1]} {match[2]}" if match[1] else match[2], text)
    text = unicodedata.normalize("NFKC", text.translate(_FLAT)).translate(_FLAT)
    return text.replace("…", "...")


def _short_power(match: re.Match[str]) -> str:
    """`x^{4}` as `x^4`; longer and negative ones keep their braces."""
    short = len(match[2]) == 1
    return match[1] + (match[2] if short else f"{{{match[2]}}}")


def without_thousands(text: str) -> str:
    """Plain digits where a number is written in groups: `1,234`, `1 234`, `1'234`, `1.234.567`."""
    return _GROUPED.sub(lambda match: re.sub("[,.' ]", "", match[0]), text)


def normalized(text: str, *, fold: bool = True) -> str:
    """The spelling in which answers are compared as text: case, loose spaces, a final stop gone."""
    text = without_thousands(" ".join(plain_math(text).split()))
    text = re.sub(r"(?<![.\s])\s*\.$", "", text.casefold() if fold else text)
    return _LOOSE_SPACE.sub("", _INDEX.sub(r"\1", text))
