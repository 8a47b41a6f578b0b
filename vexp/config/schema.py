"""From a plain dict to typed, frozen dataclasses, reporting every problem at once.

A field's annotation says what it holds: a plain type, a `Literal`, an `Annotated` range, a nested
dataclass (a section), a component's interface (a slot for one), or a dict of interfaces (a slot for
many, by name). Where a component stands, a plain word is its name.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from vexp.config.types import BY_NAME, USER_PATH, Between, Elsewhere
from vexp.errors import ConfigError, Problem, indefinite, suggest
from vexp.masking import placeholder
from vexp.paths import expanded, path_problem
from vexp.registry import REGISTRY, Component, unknown_component

T = TypeVar("T")
Path = tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where a value was set. `user` is true for overrides and sweep files, false for conf files."""

    text: str
    user: bool = False
    intended: str | None = None  # the component name this key was written for, in conf files

    def __str__(self) -> str:
        return self.text


@dataclass
class ConfigReading:
    """One pass over a config: where values came from, and what was found wrong so far."""

    origins: Mapping[Path, Origin] = field(default_factory=dict)
    variant: Callable[[str, str], Mapping[str, Any] | None] = lambda _kind, _name: None
    variants: Callable[[str], Iterable[str]] = lambda _kind: ()
    problems: list[Problem] = field(default_factory=list)
    dropped: list[tuple[Path, Origin]] = field(default_factory=list)

    def origin(self, path: Path) -> Origin | None:
        """Where the value at `path` was set, or the nearest mapping above it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return None

    def where(self, path: Path) -> str:
        origin = self.origin(path)
        return f"{dotted(path)}, set by {origin}" if origin else dotted(path) or "the top level"

    def complain(self, path: Path, what: str, accepted: str = "", remedy: str = "") -> None:
        where = self.where(path)
        self.problems.append(Problem(what, where=where, accepted=accepted, remedy=remedy))


def dotted(path: Path) -> str:
    return ".".join(path)


def build(cls: type[T], tree: Mapping[str, Any], reading: ConfigReading | None = None) -> T:
    """Build the dataclass `cls` from a plain dict.

    Raises:
        ConfigError: with every unknown key, wrong type, value out of range and unknown component
            name in `tree`, each with its origin and what would be accepted.
    """
    reading = reading or ConfigReading()
    built = _section(cls, tree, (), reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    return typing.cast(T, built)


def build_field(cls: type, key: str, tree: Any, reading: ConfigReading) -> Any:
    """The value of one field of `cls`, from its part of the plain dict.

    Raises:
        ConfigError: with everything that is wrong in this part.
    """
    built = _field(cls, key, tree, (), reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    return built


def field_types(cls: type) -> dict[str, Any]:
    """Resolved annotations of the settable fields of a dataclass, in order of definition."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: Hashable) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]


def slot_kind(hint: Any) -> str | None:
    """The kind of component that a field with this annotation holds, if it holds one."""
    bare = _strip(hint)[0]
    if isinstance(bare, type) and issubclass(bare, Component):
        return bare.kind
    return None


def many_kind(hint: Any) -> str | None:
    """The kind of components that a dict field holds by name, if it holds any."""
    if get_origin(hint) is dict:
        return slot_kind(get_args(hint)[1])
    return None


def to_dict(value: Any) -> Any:
    """The inverse of `build`: plain dicts and lists; a component's name stands first.

    Variables of the environment are named, with placeholders for their values.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"name": value.name} if isinstance(value, Component) else {}
        fields = [f for f in dataclasses.fields(value) if f.init]
        found = named | {f.name: to_dict(getattr(value, f.name)) for f in fields}
        for name in _kept_by_name(type(value)):
            found[name] = {variable: placeholder(variable) for variable in found[name]}
        return found
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    return value


@functools.cache
def _kept_by_name(cls: Hashable) -> tuple[str, ...]:
    hints = field_types(typing.cast("type", cls))
    return tuple(name for name, hint in hints.items() if BY_NAME in get_args(hint)[1:])


_FAILED = object()
_LONGEST_INT = 1000  # bits; a float holds 1023


def _section(cls: type, tree: Any, path: Path, reading: ConfigReading, *, extra: Path = ()) -> Any:
    if not isinstance(tree, Mapping):
        reading.complain(
            path,
            f"expected settings below {dotted(path)!r}, got {_show(tree)}",
            f"keys: {', '.join(field_types(cls))}",
        )
        return _FAILED
    hints = field_types(cls)
    values: dict[str, Any] = {}
    for key in tree:
        if key not in hints and key not in extra:
            label = f"{cls.kind} {cls.name!r} has" if issubclass(cls, Component) else "there is"
            reading.complain(
                (*path, key), f"{label} no setting {key!r}", suggest(key, hints, noun="settings")
            )
    for key in hints:
        if key in tree:
            values[key] = _field(cls, key, tree[key], path, reading)
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.init
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in tree
    ]
    for key in required:
        reading.complain((*path, key), f"{dotted((*path, key))!r} has to be set")
    if required or any(value is _FAILED for value in values.values()):
        return _FAILED
    try:
        return cls(**values)
    except ConfigError as error:
        reading.problems += [_located(problem, path, reading) for problem in error.problems]
        return _FAILED


def _field(cls: type, key: str, tree: Any, path: Path, reading: ConfigReading) -> Any:
    about = cls.__dict__["__dataclass_fields__"][key].metadata
    default = about.get("slot")
    value = _with_slot_settings(tree, default, about.get("settings") or {})
    return _value(field_types(cls)[key], value, (*path, key), reading, default)


def _located(problem: Problem, path: Path, reading: ConfigReading) -> Problem:
    """A problem that the whole section reported, with the origin of the key that it names."""
    named = tuple(problem.where.split(" ")[0].split(".")) if problem.where else ()
    origin = reading.origins.get((*path, *named)) or reading.origins.get((*path, *named, "name"))
    where = dotted(path) + "." * bool(path and named) + problem.where
    if origin:
        where += f", set by {origin}"
    return Problem(problem.what, where=where, accepted=problem.accepted, remedy=problem.remedy)


def _component(
    kind: str,
    tree: Any,
    path: Path,
    reading: ConfigReading,
    default: str | None,
    aliases: tuple[str, ...] = (),
) -> Any:
    tree = {"name": tree} if isinstance(tree, str) else tree
    if not isinstance(tree, Mapping):
        reading.complain(
            path,
            f"expected a name or settings with a `name`, got {_show(tree)}",
            suggest("", REGISTRY.names(kind)),
        )
        return _FAILED
    name = tree.get("name", default)
    known = {*REGISTRY.names(kind), *reading.variants(kind)}
    if not isinstance(name, str):
        reading.complain(
            (*path, "name"), f"no {kind} is named at {dotted(path)!r}", suggest("", known)
        )
        return _FAILED
    if name not in REGISTRY.names(kind):
        preset = reading.variant(kind, name)
        if preset is None:
            where = reading.where((*path, "name"))
            reading.problems.append(unknown_component(kind, name, known, where))
            return _FAILED
        explicit = {key: value for key, value in tree.items() if key != "name"}
        explicit = _for_name(explicit, (name, *aliases), path, reading)
        return _component(kind, merged(preset, explicit), path, reading, name, (name, *aliases))
    cls = REGISTRY.get(kind, name)
    kept = _for_name(tree, (name, *aliases), path, reading)
    return _section(cls, kept, path, reading, extra=("name",))


def _with_slot_settings(value: Any, default: str | None, settings: Mapping[str, Any]) -> Any:
    """A slot's own settings below what is set, as long as its component keeps its name."""
    if not settings:
        return value
    tree = {"name": value} if isinstance(value, str) else value
    if not isinstance(tree, Mapping) or tree.get("name", default) != default:
        return value
    return merged(settings, tree)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid on top, mappings key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _for_name(
    tree: Mapping[str, Any], names: tuple[str, ...], path: Path, reading: ConfigReading
) -> dict[str, Any]:
    """Drop keys that a conf file set for a component of another name; keep the user's own."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        origin = reading.origins.get((*path, key))
        written_for = origin.intended if origin and not origin.user else None
        if key != "name" and origin and written_for is not None and written_for not in names:
            reading.dropped.append(((*path, key), origin))
        else:
            kept[key] = value
    return kept


def _value(
    hint: Any, value: Any, path: Path, reading: ConfigReading, default: str | None = None
) -> Any:
    whole, (hint, limits, optional) = hint, _strip(hint)
    if known := _known_elsewhere(whole, value):
        reading.complain(path, f"{_show(value)} is not one of the choices", remedy=known.remedy)
        return _FAILED
    if value is None:
        if optional or hint is Any:
            return None
        reading.complain(path, "null is not accepted here", f"expected {_describe(hint, limits)}")
        return _FAILED
    kind = slot_kind(hint)
    if kind:
        return _component(kind, value, path, reading, default)
    if isinstance(value, str) and USER_PATH in get_args(whole)[1:]:
        return _path(value, path, reading)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _section(hint, value, path, reading)
    return _plain(hint, limits, value, path, reading)


def _path(value: str, path: Path, reading: ConfigReading) -> Any:
    """A path of the user with `~` expanded; what a shell would have replaced is refused."""
    place = str(expanded(value))
    if problem := path_problem(place):
        reading.complain(path, problem.what, problem.accepted, problem.remedy)
        return _FAILED
    return place if value.startswith("~") else value


def _plain(hint: Any, limits: list[Between], value: Any, path: Path, reading: ConfigReading) -> Any:
    origin = get_origin(hint)
    if origin is dict and isinstance(value, Mapping):
        return _mapping(hint, value, path, reading)
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(hint, value, path, reading)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in get_args(hint)):
            return value
        options = [str(option) for option in get_args(hint)]
        reading.complain(
            path, f"{_show(value)} is not one of the choices", suggest(str(value), options)
        )
        return _FAILED
    if type(value) is int and value.bit_length() > _LONGEST_INT:
        reading.complain(path, "a whole number of so many digits is out of range")
        return _FAILED
    if hint is float and type(value) is int:
        value = float(value)
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        for limit in limits:
            if not limit.accepts(value):
                reading.complain(path, f"{_show(value)} is out of range", f"expected {limit}")
                return _FAILED
        return value
    remedy = ""
    if hint is str and isinstance(value, int | float | bool):
        remedy = f"quote it to keep it as text: {path[-1]}: '{value}'"
    expected = _describe(hint, limits)
    reading.complain(path, f"expected {expected}, got {_show(value)}", remedy=remedy)
    return _FAILED


def _mapping(hint: Any, value: Mapping[str, Any], path: Path, reading: ConfigReading) -> Any:
    item = get_args(hint)[1]
    kind = slot_kind(item)
    built: dict[str, Any] = {}
    for key, below in value.items():
        if below is None:  # `terms.format: null` takes a named entry out
            continue
        here = (*path, str(key))
        built[str(key)] = (
            _component(kind, below, here, reading, str(key))
            if kind
            else _value(item, below, here, reading)
        )
    return _FAILED if any(entry is _FAILED for entry in built.values()) else built


def _tuple(hint: Any, value: Iterable[Any], path: Path, reading: ConfigReading) -> Any:
    args = get_args(hint)
    items = list(value)
    if args[-1:] != (Ellipsis,) and len(items) != len(args):
        reading.complain(path, f"expected {len(args)} values, got {len(items)}")
        return _FAILED
    hints = [args[0]] * len(items) if args[-1:] == (Ellipsis,) else args
    built = [
        _value(each, item, (*path, str(i)), reading)
        for i, (each, item) in enumerate(zip(hints, items, strict=True))
    ]
    return _FAILED if any(item is _FAILED for item in built) else tuple(built)


def _strip(hint: Any) -> tuple[Any, list[Between], bool]:
    """The bare type of an annotation, its ranges, and whether null is accepted."""
    limits: list[Between] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            limits += [mark for mark in marks if isinstance(mark, Between)]
        elif get_origin(hint) in (Union, types.UnionType):
            rest = [arg for arg in get_args(hint) if arg is not type(None)]
            if len(rest) != 1:
                raise TypeError(f"a field's type may be `X` or `X | None`, not {hint}")
            hint, optional = rest[0], True
        else:
            return hint, limits, optional


def _known_elsewhere(hint: Any, value: Any) -> Elsewhere | None:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    found = (m for m in marks if isinstance(m, Elsewhere) and m.value == value)
    return next(found, None)


def _describe(hint: Any, limits: list[Between]) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if get_origin(hint) is tuple:
        return "a list"
    if get_origin(hint) is dict:
        return "named entries"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if kind := slot_kind(hint):
        return indefinite(kind)
    ranges = "".join(f" {limit}" for limit in limits)
    return names.get(hint, getattr(hint, "__name__", str(hint))) + ranges


def describe(hint: Any) -> str:
    """What a field with this annotation accepts, in words for `vexp list`."""
    bare, limits, optional = _strip(hint)
    if many := many_kind(bare):
        return f"{many}s by name"
    return _describe(bare, limits) + (" or null" if optional else "")


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list | tuple) else "named settings"
