"""Hydra's grammar of overrides: reading one, and writing text so that it is read back."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from vexp.config.scalars import read_scalar
from vexp.errors import ConfigError, Problem, suggest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# Text that the grammar reads back as the same text when it stands unquoted.
_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_REFERENCE = re.compile(r"\$\{[A-Za-z0-9_.]+\}")
_SETTING = re.compile(r"(?P<key>\+{0,2}[A-Za-z_][\w./@-]*)=(?P<value>.*)", re.DOTALL)
# Signs that mean something to the grammar; a value without any of them is nothing but text.
_MEANT = frozenset("'\"[]{}(),=\\")
_LONGEST = 200  # characters of an override within a message
_SHELLS = frozenset("'\"\\$`!")  # signs that mean something within double quotes, or end them


def read_override(text: str, where: str) -> Override:
    """An override, parsed; `where` is where it was given.

    Raises:
        ConfigError: if it cannot be parsed; says how its value is written as text.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    setting = _SETTING.fullmatch(text)
    try:
        try:
            return parser.parse_override(text)
        except HydraException:
            if setting is None or _MEANT & set(setting["value"]):
                raise
            return parser.parse_override(f"{setting['key']}={quoted(setting['value'].strip())}")
    except (HydraException, ValueError, RecursionError) as error:
        raise ConfigError(_problem(text, where, setting, error)) from None


def _problem(text: str, where: str, setting: re.Match[str] | None, error: Exception) -> Problem:
    lines = str(error).splitlines() or [""]
    what = lines[0].removeprefix("Error parsing override ").removeprefix("HydraException ")
    if isinstance(error, RecursionError):
        what = "it is nested too deeply"
    elif re.search(r"\d{300}", text) and isinstance(error, ValueError):
        what = "a number of so many digits is not read"
    accepted = "expected key=value, group=option or ~key (Hydra's grammar)"
    if unknown := re.search(r"Unknown function '(\w+)'\nAvailable: (.*)", str(error)):
        what = f"there is no function {unknown[1]!r}"
        accepted = suggest(unknown[1], unknown[2].split(","), noun="functions")
    remedy = ""
    if setting and setting["value"][:1] in ("[", "{"):
        remedy = "text within a list or mapping takes quotes of its own: key=['a, b', 'c']"
    elif setting and len(text) <= _LONGEST:
        remedy = f"if the value is text, it takes quotes of its own: {_as_text(setting)}"
    what = f"this is not an override: {shortened(what)}"
    return Problem(what, where=shortened(where), accepted=accepted, remedy=remedy)


def shortened(text: str) -> str:
    """`text` as a message shows it: one of thousands of characters hides what is wrong."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def _as_text(setting: re.Match[str]) -> str:
    """The override with its value as text, quoted for a shell."""
    value = setting["value"].strip()
    own = f'"{value}"' if "'" in value and '"' not in value and "\\" not in value else quoted(value)
    text = f"{setting['key']}={own}"
    return shlex.quote(text) if _SHELLS & set(text.replace("'", "")) else f'"{text}"'


def quoted(value: str) -> str:
    """Text as the grammar writes it."""
    plain = _PLAIN_WORD.fullmatch(value) and isinstance(read_scalar(value), str)
    if plain or _REFERENCE.fullmatch(value):
        return value
    # In a quoted value backslashes count only before a quote or at the end; there they are doubled.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def several(override: Override, where: str) -> Problem:
    """The message for an override that names several values where a run takes one."""
    key = override.key_or_group
    if is_interval(override):
        return interval_problem(override, where)
    return Problem(
        "this names several values; a run takes one",
        where=where,
        accepted=f"in a sweep file `axes: {{{key}: [a, b]}}`, without one `vexp launch {key}=a,b`",
        remedy=f"text with commas takes quotes of its own: \"{key}='a,b'\"",
    )


def is_interval(override: Override) -> bool:
    """Whether it names all numbers between two, which cannot be counted."""
    from hydra.core.override_parser.types import IntervalSweep

    return isinstance(override.value(), IntervalSweep)


def interval_problem(override: Override, where: str) -> Problem:
    """The message for `interval(…)`: only a search draws from one."""
    value = override.value()
    low, high = value.start, value.end  # type: ignore[union-attr]
    key = override.key_or_group
    return Problem(
        "an interval has no end of values, and a sweep runs every one",
        where=where,
        accepted=f"single values ({key}={low:g},{high:g}) or steps ({key}=range(start,stop,step))",
        remedy="a search draws from an interval, in a sweep file: "
        f"search: {{space: {{{key}: {{type: float, low: {low:g}, high: {high:g}}}}}}}",
    )
