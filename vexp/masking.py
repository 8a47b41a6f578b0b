"""Secrets are never written: where a value would stand, the name of its variable does.

A secret is the value of an environment variable that is named like one (HF_TOKEN, WANDB_API_KEY),
and every value of `launcher.environment`. `***HF_TOKEN***` stands in its place, from which a
process that has the variable finds the value again. Arguments are also masked by their form
(`--api-key x`), addresses by their user and password, and tokens of known services by their shape.
"""

from __future__ import annotations

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vexp.errors import ConfigError, Problem

SHORTEST = 8  # characters of a value that is looked for in texts
_SHORTEST_LINE = 16  # of a value of several lines, each of which is looked for
_NOTHING = "***"
_PLACEHOLDER = re.compile(r"\*\*\*([A-Za-z_][A-Za-z0-9_]*)\*\*\*")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(
    r"(.*(token|secret|password|passwd|passphrase|credentials?)|pwd|(api|access|secret|private)?key)"
)
_SECRET_KEY = re.compile(
    r"(?i)(.*[-_])?(password|passwd|passphrase|secret|credentials?)|key|token|pwd"
    r"|(.*[-_])?(api|access|secret|private|auth|hub|hf|bearer|wandb)[-_]?(key|token)"
)
_NO_SECRET_END = ("path", "file", "dir", "folder", "variable", "name", "url", "host")
_FOLDERS = ("PWD", "OLDPWD")
# Of the user and the password in an address; and tokens that say by their shape what they are.
_ADDRESS = re.compile(r"(?<=://)[^/\s:@'\"]*:[^/\s@'\"]+(?=@)|(?<=https://)[^/\s@'\"]+(?=@)")
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{30,}|AKIA[A-Z0-9]{16}|xox[abprs]-[A-Za-z0-9-]{10,})\b"
)
_QUOTED = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"")
_KEY = re.compile(r"([A-Za-z_][\w.-]*)['\"]?\s*[=:]\s*")
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s,{}\[\]&;'\"]+")
_ENVIRONMENT = re.compile(r"\+{0,2}launcher(?:\.environment(?:\.(\w+))?)?=")

_given: dict[str, str] = {}  # values of `launcher.environment` that this process was given


def hide(values: Mapping[str, str]) -> None:
    """Have these values masked from now on; placeholders among them are known already."""
    _given.update({name: v for name, v in values.items() if v != placeholder(name)})
    _pattern.cache_clear()


def placeholder(name: str) -> str:
    """The text that stands for the value of a variable."""
    return f"***{name}***"


def value_of(name: str, stored: str) -> str | None:
    """The value behind a placeholder, or `stored` if it is none; None if nobody knows it here."""
    return stored if stored != placeholder(name) else _given.get(name, os.environ.get(name))


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: `HF_TOKEN`, not `max_new_tokens`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if name in _FOLDERS or not words or words[-1] in _NO_SECRET_END:
        return False
    return any(_SECRET_WORD.fullmatch(word) for word in words)


def mask(text: str) -> str:
    """The text without any secret that is known here."""
    return _masking()(text)


def named(text: str) -> str:
    """The text with names in the place of secret values; `restored_text` finds them again."""
    known = _secrets(everything=True)
    return _replaced(text, known) if known else text


def masked(tree: Any) -> Any:
    """Plain data with `mask` on each of its texts, keys too."""
    return _each(tree, _masking())


def exported(content: Mapping[str, Any]) -> dict[str, Any]:
    """What an export holds of a run, masked also where a former vexp wrote values."""
    found = json.loads(json.dumps(content))
    launcher = ((found.get("record") or {}).get("config") or {}).get("launcher") or {}
    environment = launcher.get("environment") or {}
    hide(environment)
    for name in environment:
        environment[name] = placeholder(name)
    provenance = found.get("provenance") or {}
    if "command" in provenance:
        provenance["command"] = arguments(provenance["command"])
    return dict(_each(found, _masking(), kept="name"))


def stored(config: Any) -> Any:
    """A config as it is written: without what the environment calls secret.

    The names of components are kept: they are those of the registry.
    """
    known = _secrets(everything=False)
    return _each(config, lambda text: _replaced(text, known), kept="name") if known else config


def restored(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of `stored`; in the launcher's settings names stay, for it to look up.

    Raises:
        ConfigError: for every variable that is not set here.
    """
    missing: set[str] = set()
    launcher = config.get("launcher")
    rest = {key: item for key, item in config.items() if key != "launcher"}
    back = _each(rest, lambda text: _put_back(text, missing))
    back |= {} if launcher is None else {"launcher": launcher}
    if missing:
        raise ConfigError([_unknown(name, where) for name in sorted(missing)])
    return dict(back)


def restored_text(text: str, where: str) -> str:
    """A kept sweep file, in which texts are quoted as in JSON, with the values that it only names.

    Those of `launcher.environment` stay names, for the launcher to look up.

    Raises:
        ConfigError: for every other variable that is not set here.
    """
    missing: set[str] = set()

    def back_in(found: re.Match[str]) -> str:
        plain = found[0]
        if _PLACEHOLDER.search(plain) is None or "launcher" in plain:
            return plain
        return json.dumps(_put_back(json.loads(plain), missing), ensure_ascii=False)

    back = _QUOTED.sub(back_in, text)
    if missing:
        raise ConfigError([_unknown(name, where) for name in sorted(missing)])
    return back


def arguments(given: Sequence[str]) -> list[str]:
    """A command line as it is recorded."""
    shown: list[str] = []
    for text in given:
        former = given[len(shown) - 1] if shown else ""
        option = former.startswith("-") and "=" not in former
        secret = option and _SECRET_KEY.fullmatch(former.lstrip("-"))
        shown.append(_NOTHING if secret and not text.startswith("-") else argument(text))
    return shown


def argument(text: str) -> str:
    """One argument as it is recorded: secrets by value, by form and by place."""
    return _without_values(mask(by_name(text)))


def by_name(override: str) -> str:
    """An override with the values of `launcher.environment` replaced by names; they are hidden."""
    if _ENVIRONMENT.match(override) is None:
        return override
    key, _, value = override.partition("=")
    tree = _parsed(override)
    for part in key.lstrip("+").split(".")[:0:-1]:
        tree = {part: tree}
    environment = tree.get("environment") if isinstance(tree, dict) else None
    if not isinstance(environment, dict):
        return override
    if not all(isinstance(given, str) for given in environment.values()):
        return override  # which no launcher takes
    hide(environment)
    names = ",".join(f"{name}:{placeholder(name)}" for name in environment)
    if key.count(".") == 2:
        return f"{key}={placeholder(key.rpartition('.')[2])}"
    if key.count(".") == 1:
        return f"{key}={{{names}}}"
    return f"{key}={_with_environment(value, names)}"


def _parsed(override: str) -> Any:
    """The plain value of an override; None if it is none, which is said elsewhere."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return _plain(OverridesParser.create().parse_override(override).value())
    except HydraException:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return getattr(value, "text", value)  # a quoted string knows its quotes


def _with_environment(value: str, names: str) -> str:
    """`value`, settings of a launcher in Hydra's grammar, with `names` for its environment."""
    begin = re.search(r"\benvironment\s*:\s*\{", value)
    if begin is None:
        return value
    quote, end = "", begin.end()
    while end < len(value) and (quote or value[end] != "}"):
        if value[end] == quote:
            quote = ""
        elif not quote and value[end] in "'\"":
            quote = value[end]
        end += 2 if value[end] == "\\" else 1
    return f"{value[: begin.end()]}{names}{value[end:]}"


def _without_values(text: str) -> str:
    """The text without what follows keys that are named like secrets."""
    parts, begin = [], 0
    for key in _KEY.finditer(text):
        last = key[1].rpartition(".")[2]
        # A variable, or one of the words that stand for a secret alone: `stop_token` is a setting.
        secret = is_secret_name(last) if last.isupper() else _SECRET_KEY.fullmatch(last)
        value = _VALUE.match(text, key.end()) if secret and key.start() >= begin else None
        if value is not None and _PLACEHOLDER.search(value[0]) is None:
            parts += [text[begin : key.end()], _NOTHING]
            begin = value.end()
    return "".join([*parts, text[begin:]])


def _masking() -> Callable[[str], str]:
    """`mask` for many texts: what is secret here is looked up once."""
    known = _secrets(everything=True)

    def masked_text(text: str) -> str:
        found = _replaced(text, known) if known else text
        return _TOKEN.sub(_NOTHING, _ADDRESS.sub(_NOTHING, found))

    return masked_text


def _secrets(*, everything: bool) -> tuple[tuple[str, str], ...]:
    """Values to look for, each with its variable; longer ones first, as one may contain another.

    With `everything`, also values of `launcher.environment` whose names say nothing.
    """
    known = [(n, v) for n, v in os.environ.items() if is_secret_name(n)]
    known += [(n, v) for n, v in _given.items() if everything or is_secret_name(n)]
    pairs = {form: name for name, value in known for form in _forms(value)}.items()
    return tuple(sorted(pairs, key=lambda pair: (-len(pair[0]), pair)))


def _forms(value: str) -> Iterable[str]:
    """How a value may be written: as it is, in an address, in JSON, and each of its lines."""
    if len(value) < SHORTEST or _PLACEHOLDER.fullmatch(value) or _is_path(value):
        return ()
    quoted = json.dumps(value, ensure_ascii=False)[1:-1]
    lines = [line for line in value.split("\n") if len(line) >= _SHORTEST_LINE]
    return {value, quoted, urllib.parse.quote(value, safe=""), *lines}


def _is_path(value: str) -> bool:
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _replaced(text: str, known: tuple[tuple[str, str], ...]) -> str:
    names = dict(known)
    return _pattern(known).sub(lambda found: placeholder(names[found[0]]), text)


@functools.lru_cache(maxsize=8)
def _pattern(known: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(value) for value, _ in known))


def _each(tree: Any, change: Any, kept: str = "") -> Any:
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, Mapping):
        return {
            change(key) if isinstance(key, str) else key: item
            if key == kept and isinstance(item, str)
            else _each(item, change, kept)
            for key, item in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_each(item, change, kept) for item in tree]
    return tree


def _put_back(text: str, missing: set[str]) -> str:
    def value(found: re.Match[str]) -> str:
        known = _given.get(found[1], os.environ.get(found[1]))
        if known is None:
            missing.add(found[1])
        return found[0] if known is None else known

    return _PLACEHOLDER.sub(value, text)


def _unknown(name: str, where: str) -> Problem:
    return Problem(
        f"a setting holds the value of the environment variable {name}, which is not kept",
        where=where,
        remedy=f"set {name} to what it was, then run the same command",
    )
