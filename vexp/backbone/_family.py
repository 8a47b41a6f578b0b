"""The families of models, by the `model_type` of a transformers configuration."""

from __future__ import annotations

from vexp.backbone._mllama import Mllama
from vexp.backbone._qwen_vl import Qwen3VL, QwenVL
from vexp.backbone._tiles import InternVL, SmolVLM
from vexp.policy.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QwenVL(),
    "qwen2_5_vl": QwenVL(),
    "qwen3_vl": Qwen3VL(),
    "internvl": InternVL(),
    "smolvlm": SmolVLM(),
    "mllama": Mllama(),
}
