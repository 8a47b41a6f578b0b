"""The registry: every component a config can name, by (kind, name).

A component is a frozen, keyword-only dataclass registered under a kind and a name. Its fields are
its schema, its defaults the vetted setting, its methods the behaviour. Shipped components live in
`vexp/<kind>/<name>.py`, one per file, so that their names are known without importing them; users
add their own with a plugin file or the entry point group `vexp.components`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from vexp.errors import ConfigError, Problem, suggest
from vexp.paths import expanded

if TYPE_CHECKING:
    from vexp.hub import Repository
    from vexp.spec.run import RunSpec

ENTRY_POINT_GROUP = "vexp.components"

# The order of the table in docs/components.md, of `vexp list`, and of the config.
KINDS = (
    "backbone",
    "dataset",
    "mix",
    "rollout",
    "engine",
    "correction",
    "group_filter",
    "verifier",
    "reward",
    "algorithm",
    "credit",
    "auxiliary",
    "target",
    "layer",
    "gate",
    "distortion",
    "evaluator",
    "search",
    "launcher",
    "tracker",
    "extractor",
    "localizer",
    "validator",
)

# What a component may ask the training loop for; each is supplied once per step, whoever asks.
# Who needs a counterfactual has a field `distortion`, who needs attention a field `layer`.
NEEDS = (
    "old_logprobs",
    "entropy",
    "reference_logprobs",
    "counterfactual_logprobs",
    "counterfactual_kl",
    "similarity",
    "attention",
    "boxes",
)


# What a component remembers between steps: tensors, and values that JSON can hold, by name.
ComponentState = Mapping[str, Any]


# Needs that come in several kinds: the field of a component that says which one it means.
WHICH = {
    "counterfactual_logprobs": "distortion",
    "counterfactual_kl": "distortion",
    "attention": "layer",
}


class Component:
    """Base of every component. Subclasses are frozen, keyword-only dataclasses.

    `needs` names what the loop has to supply (see `NEEDS`); `provides` what a backbone or a dataset
    can supply; `emits` the special tokens a policy may sample because of this component. A token
    that the backbone lacks is added, and starts as the mean of those words in `emits_like` that the
    tokenizer has as one token (none: of all its tokens).
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    # What an evaluator that looks at a policy by itself reads there, by the names of needs.
    reads: ClassVar[tuple[str, ...]] = ()
    emits: ClassVar[tuple[str, ...]] = ()
    emits_like: ClassVar[tuple[str, ...]] = ()

    def required(self) -> tuple[str, ...]:
        """What this component needs as it is set; override where a setting decides it."""
        return self.needs

    def initial_state(self) -> ComponentState | None:
        """What this component remembers before the first step; None: it remembers nothing.

        The loop owns the memory: it hands it to those methods of the component that use it, takes
        the new one back and puts it into every checkpoint. A component itself never changes.
        """
        return None

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        """Conflicts between this component and the rest of the run; checked at composition."""
        return iter(())

    def unknown(self) -> Iterator[Problem]:
        """What of `content()` cannot be told on this machine; until it can, no run starts."""
        return iter(())

    def content(self) -> dict[str, Any]:
        """What identifies the data or code behind the fields (hashes of files), for the run's id.

        Fields that are paths on this machine are left out of the id; what they hold enters here.
        """
        return {}

    def repositories(self) -> Iterator[Repository]:
        """What of the Hugging Face hub this component reads; see `vexp fetch`.

        Raises:
            ConfigError: if that cannot be told on this machine.
        """
        return iter(())


C = TypeVar("C", bound=type[Component])


def component_base(kind: str) -> type[Component]:
    """The interface of a kind: the class in `vexp/<kind>/base.py` that names it.

    Raises:
        ConfigError: if there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(
            Problem(
                f"unknown kind {kind!r}",
                accepted=suggest(kind, KINDS, noun="kinds"),
                remedy="`vexp list` shows them all",
            )
        )
    base = sys.modules.get(f"vexp.{kind}.base") or importlib.import_module(f"vexp.{kind}.base")
    for value in vars(base).values():
        own = isinstance(value, type) and issubclass(value, Component)
        if own and value.__dict__.get("kind") == kind:
            return cast("type[Component]", value)
    raise TypeError(f"vexp/{kind}/base.py defines no Component with kind = {kind!r}")


class Registry:
    """Components by (kind, name). Shipped ones are imported when first asked for."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str], type[Component]] = {}
        self._plugins: dict[Path, str] = {}
        self._entry_points_read = False

    def add(self, kind: str, name: str, cls: C) -> C:
        """Register `cls`; refuses what could not serve as a schema, and a name already taken."""
        base = component_base(kind)
        here = f"{inspect.getsourcefile(cls) or cls.__module__}"
        problem = None
        fields = cls.__dict__.get("__dataclass_fields__")
        if not issubclass(cls, base):
            problem = f"must be a subclass of {base.__module__}.{base.__name__}"
        elif fields is None:
            problem = (
                "must be a dataclass: @dataclass(frozen=True, kw_only=True) goes below @register"
            )
        elif not cls.__dict__["__dataclass_params__"].frozen or any(
            field.init and not field.kw_only for field in fields.values()
        ):
            problem = "must be frozen and keyword-only: @dataclass(frozen=True, kw_only=True)"
        elif unknown := [need for need in cls.needs if need not in NEEDS]:
            problem = f"needs {unknown[0]!r}; the loop supplies only {', '.join(NEEDS)}"
        if problem:
            raise ConfigError(Problem(f"component {kind} {name!r} {problem}", where=here))
        taken = self._classes.get((kind, name))
        if taken is not None and _source(taken) != _source(cls):
            raise ConfigError(
                Problem(
                    f"two components are called {kind} {name!r}",
                    where=f"{_source(taken)} and {_source(cls)}",
                    remedy="rename one of them",
                )
            )
        cls.name = name
        self._classes[kind, name] = cls
        return cls

    def names(self, kind: str) -> list[str]:
        """Names of all components of a kind, sorted; imports none of the shipped ones."""
        component_base(kind)
        self._read_entry_points()
        known = {name for k, name in self._classes if k == kind}
        return sorted(known | _shipped(kind).keys())

    def get(self, kind: str, name: str) -> type[Component]:
        """The component class.

        Raises:
            ConfigError: if the kind or the name is unknown; names the close matches.
        """
        component_base(kind)
        if (kind, name) not in self._classes:
            if name in _shipped(kind):
                importlib.import_module(f"vexp.{kind}.{name}")
            else:
                self._read_entry_points()
        if (kind, name) not in self._classes:
            raise ConfigError(unknown_component(kind, name, self.names(kind)))
        return self._classes[kind, name]

    def load_plugins(self, paths: Iterable[str | Path], *, origin: str = "plugins") -> None:
        """Import user files so that their components register; each file once.

        Raises:
            ConfigError: for a missing file and for one that fails to import, all at once.
        """
        found: list[Problem] = []
        for path in map(Path, paths):
            problem = self._load_plugin(path, origin)
            if problem:
                found.append(problem)
        if found:
            raise ConfigError(found)

    def plugin_hashes(self) -> dict[str, str]:
        """SHA-256 of every loaded plugin file's code, by file name."""
        return {path.name: digest for path, digest in sorted(self._plugins.items())}

    def _load_plugin(self, path: Path, origin: str) -> Problem | None:
        path = expanded(path).resolve()
        if path in self._plugins:
            return None
        if not path.is_file():
            return Problem(
                f"plugin file {str(path)!r} does not exist",
                where=origin,
                remedy="give a path to a Python file, relative to the folder you start vexp in",
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        module_name = f"vexp_plugin_{path.stem}_{digest[:8]}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            return Problem(f"plugin {str(path)!r} is not a Python file", where=origin)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except ConfigError as error:
            return Problem(error.problems[0].what, where=f"plugin {path}")
        except Exception as error:  # noqa: BLE001  (a user's file may fail in any way)
            sys.modules.pop(module_name, None)
            line = _last_line_in(error, path)
            return Problem(
                f"plugin {path.name!r} failed to import: {type(error).__name__}: {error}",
                where=f"{path}:{line}, set by {origin}",
                remedy="mend the file; it is imported before anything is composed",
            )
        self._plugins[path] = digest
        return None

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        from importlib.metadata import entry_points

        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                point.load()
            except Exception as error:  # a broken third-party package must not break every command
                raise ConfigError(
                    Problem(
                        f"entry point {point.name!r} failed to load: "
                        f"{type(error).__name__}: {error}",
                        where=f"{ENTRY_POINT_GROUP} of {point.dist.name if point.dist else '?'}",
                        remedy="mend or uninstall that package",
                    )
                ) from error


REGISTRY = Registry()

_PLAIN = (str, int, float, bool, type(None))  # annotations of values that hold nothing


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: makes a component available under `kind` and `name`.

    Example::

        @register("credit", "uniform")
        @dataclass(frozen=True, kw_only=True)
        class Uniform(CreditMethod): ...
    """
    return functools.partial(REGISTRY.add, kind, name)


def slot(kind: str, name: str, **settings: Any) -> Any:
    """Default of a field that holds another component: the one called `name`.

    `settings` are where it differs from its own defaults; they stay as long as it has this name.
    """
    return dataclasses.field(
        default_factory=lambda: REGISTRY.get(kind, name)(**settings),
        metadata={"slot": name, "settings": settings},
    )


def unknown_component(kind: str, name: str, known: Iterable[str], where: str = "") -> Problem:
    """The message for a name that no component of this kind has."""
    return Problem(
        f"unknown {kind} {name!r}",
        where=where,
        accepted=suggest(name, known),
        remedy=f"`vexp list {kind}` describes each",
    )


def component_slots(component: Any) -> list[tuple[str, Component]]:
    """Components held by a component's or section's fields, with dotted paths, depth first."""
    found: list[tuple[str, Component]] = []
    for name in _holders(component.__class__):
        value = getattr(component, name)
        if isinstance(value, dict):
            for key, item in value.items():
                found += _with_slots(f"{name}.{key}", item)
        elif hasattr(value, "__dataclass_fields__"):
            found += _with_slots(name, value)
    return found


def _with_slots(path: str, value: Any) -> list[tuple[str, Component]]:
    """What stands at a path, and all below. It is frozen, so it remembers what was found."""
    if not hasattr(value, "__dataclass_fields__") or isinstance(value, type):
        return []
    remembered: dict[str, list[tuple[str, Component]]] = getattr(value, "__dict__", {})
    place = f"components at {path}"
    if place not in remembered:
        below = [(f"{path}.{name}", held) for name, held in component_slots(value)]
        remembered[place] = [(path, value), *below] if isinstance(value, Component) else below
    return remembered[place]


@functools.cache
def _holders(cls: Hashable) -> tuple[str, ...]:
    """The fields of a dataclass that may hold components, as their annotations tell."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return tuple(field.name for field in fields if _may_hold(hints[field.name]))


def _may_hold(hint: Any) -> bool:
    """Whether a value of this type may be a component, or hold some in a field or by name."""
    if hint in _PLAIN or typing.get_origin(hint) in (tuple, typing.Literal):
        return False
    if typing.get_origin(hint) is not None:
        return any(map(_may_hold, typing.get_args(hint)))
    section = dataclasses.is_dataclass(hint) and not issubclass(cast("type", hint), Component)
    return bool(_holders(hint)) if section else True


@functools.cache
def _shipped(kind: str) -> dict[str, Path]:
    folder = Path(__file__).parent / kind
    files = (path for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return {path.stem: path for path in files if path.stem != "base"}


def _source(cls: type) -> str:
    return f"{inspect.getsourcefile(cls)}:{cls.__qualname__}"


def _last_line_in(error: BaseException, path: Path) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    return line
