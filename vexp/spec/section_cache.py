"""A function of a run that is asked for many runs: what it reads decides when it is called again.

Of the ten thousand runs of a sweep, few differ in what an evaluator's protocol looks at.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from vexp.config.schema import field_types

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

T = TypeVar("T")
Names = tuple[str, ...]


class SectionCache(Generic[T]):
    """Remembers the values of a pure function of a run by the sections that it read.

    A run that holds the very same sections there has the same value. A function that reads a run
    in another way than by its sections is called each time.
    """

    def __init__(self, function: Callable[[RunSpec], T]) -> None:
        self._function = function
        # The sections are kept, so that no other one can come to have their ids.
        self._known: dict[Names, dict[tuple[int, ...], tuple[list[Any], T]]] = {}

    def __call__(self, run: RunSpec) -> T:
        for names, values in self._known.items():
            found = values.get(tuple([id(getattr(run, name)) for name in names]))
            if found is not None:
                return found[1]
        witness = _AccessRecorder(run)
        try:
            value = self._function(cast("RunSpec", witness))
        except Exception:  # noqa: BLE001  (it may be one that no stand-in satisfies)
            witness.whole = True
        if witness.whole:
            return self._function(run)
        sections = list(witness.read.values())
        self._known.setdefault(tuple(witness.read), {})[tuple(map(id, sections))] = sections, value
        return value


class _AccessRecorder:
    """Stands in for a run and notes which sections are read; `whole` if it was more than that."""

    __slots__ = ("read", "run", "whole")  # so that `vars` fails instead of missing the sections

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self.read: dict[str, Any] = {}
        self.whole = False

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:  # for `isinstance`
        return type(self.run)

    def __getattr__(self, name: str) -> Any:
        cls = type(self.run)
        if name in field_types(cls):
            self.read[name] = value = getattr(self.run, name)
            return value
        # A method or property reads sections as well; which ones is seen by giving it this.
        own = inspect.getattr_static(cls, name, None)
        if isinstance(own, types.FunctionType):
            return types.MethodType(own, self)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if isinstance(own, functools.cached_property):
            return own.func(self)
        self.whole = True
        return getattr(self.run, name)

    __hash__ = None  # type: ignore[assignment]  # as a run's

    def __eq__(self, other: object) -> bool:
        self.whole = True
        return bool(self.run == other)
