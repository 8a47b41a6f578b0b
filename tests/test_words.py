"""Names say one thing: what a reader of the code may rely on."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import vexp

FILES = sorted(Path(vexp.__file__).parent.rglob("*.py"))


def test_no_public_class_name_is_defined_twice():
    homes = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(path.name)
    assert len(homes) > 300
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
