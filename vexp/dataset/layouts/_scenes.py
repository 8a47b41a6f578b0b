"""Questions of CLEVR and Super-CLEVR: running their programs on a scene finds the evidence.

A program is a list of steps; each takes the results of earlier ones. The evidence is what its
answer was read from: the objects that a step `unique` singled out, and those that were counted or
looked for (`count`, `exist`). Of a question to which the answer is "none" there is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Scene = Mapping[str, Any]
HIERARCHY = {  # Super-CLEVR's kinds of vehicles, which questions may name instead of a shape
    "car": ("suv", "wagon", "minivan", "sedan", "truck", "addi"),
    "bus": ("articulated", "regular", "double", "school"),
    "motorbike": ("chopper", "dirtbike", "scooter", "cruiser"),
    "aeroplane": ("jet", "fighter", "biplane", "airliner"),
    "bicycle": ("road", "utility", "mountain", "tandem"),
}
READ = ("unique", "count", "exist")
_PART_STEPS = ("object2part", "part2object")


class NoEvidence(ValueError):
    """A question without evidence that can be pointed at; the message says why."""


def scene_of(image: str, scenes: Mapping[str, Scene]) -> Scene:
    """The scene of an image file.

    Raises:
        NoEvidence: if there is none.
    """
    if image not in scenes:
        raise NoEvidence("its image has no scene")
    return scenes[image]


def evidence(program: Sequence[Mapping[str, Any]], scene: Scene) -> list[int]:
    """The objects an answer was read from, by their place in the scene.

    Raises:
        NoEvidence: if there are none, or the program cannot be run.
    """
    try:
        found = _read(program, scene)
    except NoEvidence:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise NoEvidence("its program does not fit the scene") from error
    if not found:
        raise NoEvidence("the answer is that there is none")
    return sorted(found)


def _read(program: Sequence[Mapping[str, Any]], scene: Scene) -> set[int]:
    """The objects in what the steps read, running them one after the other."""
    results: list[Any] = []
    found: set[int] = set()
    for step in program:
        name = step.get("function") or step.get("type") or ""
        values = step.get("value_inputs") or step.get("side_inputs") or ()
        inputs = [results[place] for place in step["inputs"]]
        results.append(_run(name, inputs, values, scene))
        if name in READ:
            found |= set(inputs[0])
    return found


def _run(name: str, inputs: Sequence[Any], values: Sequence[str], scene: Scene) -> Any:
    objects = scene["objects"]
    if name in _PART_STEPS or name.startswith("partfilter"):
        raise NoEvidence("it asks about parts of objects")
    if name == "scene":
        return list(range(len(objects)))
    kind, _, attribute = name.partition("_")
    if kind == "filter":
        return [i for i in inputs[0] if _fits(values[0], str(objects[i][attribute]))]
    if kind == "same":
        (one,) = inputs[0]
        own = objects[one][attribute]
        return [i for i, thing in enumerate(objects) if i != one and thing[attribute] == own]
    if name == "relate":
        (one,) = inputs[0]
        return list(scene["relationships"][values[0]][one])
    step = _STEPS.get(name)
    if step is None and kind not in ("query", "equal", "less", "greater"):
        raise NoEvidence(f"its program has an unknown step {name!r}")
    return step(*inputs) if step else None


def _unique(found: Sequence[int]) -> Sequence[int]:
    if len(found) != 1:
        raise NoEvidence("its program does not fit the scene")
    return found


def _fits(asked: str, own: str) -> bool:
    """Whether an object has the value asked for; "school bus" means the shape "school"."""
    return own in (asked, asked.split(" ")[0]) or own in HIERARCHY.get(asked, ())


_STEPS: dict[str, Callable[..., Any]] = {
    "unique": _unique,
    "union": lambda a, b: sorted({*a, *b}),
    "intersect": lambda a, b: sorted({*a} & {*b}),
    "count": lambda found: found,
    "exist": lambda found: found,
}
