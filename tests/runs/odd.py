"""Contents of which one field is not what it should be: of another type, missing, huge, hostile."""

from __future__ import annotations

import json
import shutil

from vexp.errors import VexpError

ODD = {
    "missing": ..., "null": None, "number": 5, "negative": -1, "text": "x", "list": [[]],
    "object": {"a": {"b": 1}}, "true": True, "nan": float("nan"), "huge": 10**400, "deep": None,
    "surrogate": "\ud800", "dots": "../../x", "hidden": ".x", "slash": "a/b", "control": "a\nb",
    "long": "n" * 5000,
}  # fmt: skip


def deep(levels=2000):
    return "[" * levels + "]" * levels


def variants(content, path=()):
    """The content with each of its fields, and each key of an open mapping, made odd."""
    for key in list(content):
        for name, odd in ODD.items():
            changed = json.loads(json.dumps(content))
            if odd is ...:
                del changed[key]
            else:
                changed[key] = "DEEP" if name == "deep" else odd
            yield f"{'.'.join((*path, key))}:{name}", changed
        if isinstance(content[key], dict):
            for name, below in variants(content[key], (*path, key)):
                yield name, content | {key: below}
            for odd in ("dots", "hidden", "slash", "control", "long", "surrogate"):
                below = dict.fromkeys([ODD[odd]], next(iter(content[key].values()), None))
                yield f"{'.'.join((*path, key))}:keys {odd}", content | {key: below}


def dumped(content):
    return json.dumps(content).replace('"DEEP"', deep())


def files_below(folder):
    return sorted(path for path in folder.rglob("*"))


def odd_imports(content, importing, root, clear=None):
    """Import every variant of `content`; count those that end in a message, which leave nothing."""
    refused = 0
    for name, changed in variants(content):
        before = files_below(root)
        try:
            importing(dumped(changed))
        except VexpError as error:
            refused += 1
            assert files_below(root) == before, name
            assert len(str(error).encode()) < 2000, name
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        else:
            outside = [p for p in files_below(root.parent) if ".." in p.parts or p.name == "x"]
            assert not outside, name
            (clear or clear_evaluations)(root)
    return refused


def clear_evaluations(root):
    for folder in root.glob("runs/*/evaluations"):
        shutil.rmtree(folder)
