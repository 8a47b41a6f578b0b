"""Tiny models saved as a hub repository would hold them, for the components of the real ones."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

from vexp.registry import REGISTRY

SIZES = {
    "layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vision_depth": 3,
    "vision_hidden_size": 32,
    "vision_heads": 2,
}
PIXELS = {"min_pixels": 32 * 32, "max_pixels": 256 * 256}
TILES = {"internvl": {"max_tiles": 4}, "smolvlm": {"tiles_per_side": 2}, "mllama": {}}
# a real component of each family
REAL = {
    "qwen2_vl": "qwen2_vl_2b",
    "qwen2_5_vl": "qwen2_5_vl_3b",
    "qwen3_vl": "qwen3_vl_4b",
    "internvl": "internvl3_5_8b",
    "smolvlm": "smolvlm2_2b",
    "mllama": "llama3_2_vision_11b",
}


@functools.cache
def _saved(family: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vexp-test-"))
    REGISTRY.get("backbone", f"tiny_{family}")(**SIZES).load().save(folder)
    (folder / "video_preprocessor_config.json").write_text('{"fps": 2}\n')
    return folder


def source(family: str, folder: Path) -> Path:
    """A copy of a saved tiny model that a test may change."""
    shutil.copytree(_saved(family), folder, dirs_exist_ok=True)
    return folder


def real(family: str, path: Path | str, **fields):
    """The component of the real model, with another model in its place."""
    return REGISTRY.get("backbone", REAL[family])(path=str(path), **(limits(family) | fields))


def limits(family: str) -> dict[str, int]:
    """Settings under which a small image stays small."""
    return TILES.get(family, PIXELS)


def change(path: Path, **values) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
