"""torch's process groups as vLLM sees them: a world of its own, of this one process.

The processes of a run are one world of torch's. Each has a vLLM to itself, which they start and ask
at moments of their own, so nothing that it does with torch may concern the others. vLLM expects to
be the only one who uses torch's groups: it makes the default one, or takes whatever it finds for
its own, and destroys them all when it goes. So around each call of it they are exchanged.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import _register_process_group, _resolve_process_group

# What torch knows of groups, all of it; `_world` has the default one.
_TABLES = (
    "_pg_map", "_pg_names", "_pg_group_ranks", "_pg_backend_config", "_tags_to_pg", "_pg_to_tag",
)  # fmt: skip
_STATE = ("_world", "_group_count", "_default_pg_init_method", *_TABLES)
# Groups are called by their number, and torch's C++ part has one list of names for both worlds.
_FIRST = 1 << 30

_vllms: dict[str, Any] = {name: {} for name in _TABLES}
_vllms |= {"_world": c10d._World(), "_group_count": _FIRST, "_default_pg_init_method": None}
_inside = False


@contextlib.contextmanager
def own_world() -> Iterator[None]:
    """Have torch know of no process groups but vLLM's while the block runs."""
    global _inside, _vllms
    if _inside:
        yield
        return
    theirs, hook = {name: getattr(c10d, name) for name in _STATE}, sys.excepthook
    _inside = True
    _exchange(_vllms)
    try:
        yield
    finally:
        count = _vllms["_group_count"]  # torch begins anew once all groups are destroyed
        _vllms = {name: getattr(c10d, name) for name in _STATE}
        _vllms["_group_count"] = max(count, _vllms["_group_count"])
        _exchange(theirs)
        _inside, sys.excepthook = False, hook


def _exchange(state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(c10d, name, value)
    c10d._update_default_pg(c10d._world.default_pg)
    for group, name in c10d._world.pg_names.items():
        try:  # destroying all groups of one world has C++ forget the names of the other's
            _resolve_process_group(name)
        except RuntimeError:
            _register_process_group(name, group)
