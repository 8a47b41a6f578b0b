"""Ids of every shipped sweep, at its own scale and at every other one, as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vexp.errors import ConfigError
from vexp.paths import shipped
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep

GOLDEN = Path(__file__).with_name("golden_sweep_ids.json")
SWEEPS = sorted(shipped("sweeps").rglob("*.yaml"))
SCALES = sorted(path.stem for path in (shipped("conf") / "scale").glob("*.yaml"))
CHANGED = "ids changed: if that is meant, say so in the changelog and run this file as a module"


def name_of(path: Path) -> str:
    return path.relative_to(shipped("sweeps")).with_suffix("").as_posix()


def digest(path: Path, *overrides: str) -> str:
    """Every point's label and id, hashed; `refused` where a sweep does not compose so."""
    try:
        found = points(read_sweep(path, extra=overrides))
    except ConfigError:
        return "refused"
    lines = [f"{point.label} {point.identity.name}\n" for point in found]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def at_scales(path: Path) -> dict[str, str]:
    return {scale: digest(path, f"scale={scale}") for scale in SCALES}


@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_at_its_own_scale(path):
    assert digest(path) == json.loads(GOLDEN.read_text())[name_of(path)]["own"], CHANGED


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_at_every_scale(path):
    assert at_scales(path) == json.loads(GOLDEN.read_text())[name_of(path)]["scales"], CHANGED


def main() -> None:
    """Write the golden file anew."""
    ids = {name_of(path): {"own": digest(path), "scales": at_scales(path)} for path in SWEEPS}
    GOLDEN.write_text(json.dumps(ids, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
