"""Importing transformers beside packages that are installed but do not work.

The published torchvision and torchaudio wheels are CUDA builds; beside a CPU-only torch they raise
when imported. transformers only looks whether they are installed, imports them, and dies. Nothing
in vexp's own path needs them, so broken ones are hidden before transformers is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

OPTIONAL = ("torchvision", "torchaudio")


def hide_broken_packages() -> tuple[str, ...]:
    """Make optional packages that cannot be imported look uninstalled; names the hidden ones.

    Call it before the first import of a transformers model. Working packages stay as they are.
    """
    hidden = tuple(name for name in OPTIONAL if _broken(name))
    for name in hidden:
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
        # None is Python's own mark for "not importable": find_spec answers None, import raises.
        sys.modules[name] = None  # type: ignore[assignment]
    if hidden:
        _forget_what_transformers_saw()
    return hidden


def _broken(name: str) -> bool:
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001 - a package built for another torch may fail in any way
        return True
    return False


def _forget_what_transformers_saw() -> None:
    """Drop transformers' memory of which packages exist, where it was imported before."""
    imports = sys.modules.get("transformers.utils.import_utils")
    for name, function in vars(imports).items() if imports else ():
        if any(f"is_{package}" in name for package in OPTIONAL):
            getattr(function, "cache_clear", lambda: None)()
