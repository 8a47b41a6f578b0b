"""The configuration keys of the published tables, and ours: one table, shown in docs/reference.md.

The papers' bookkeeping (`algo.base: dapo`, `aux.ease.layer: early`) becomes overrides of ours. What
has no counterpart in this version is `pending`: it is said, never replaced in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.errors import RunError, suggest

if TYPE_CHECKING:
    from vexp.tables.reference import Reference, ReferenceRow

Overrides = tuple[str, ...]
PENDING = "pending"  # in place of overrides: files of the user's own, `vexp convert` reads them
RECORD = "record"  # in place of overrides: says where a number is from, not how a run is set


def _backbones() -> dict[str, Overrides | str]:
    ours = {
        "Qwen2-VL-2B": "qwen2_vl_2b",
        "Qwen2.5-VL-3B": "qwen2_5_vl_3b",
        "Qwen2.5-VL-7B": "qwen2_5_vl_7b",
        "Qwen2.5-VL-32B": "qwen2_5_vl_32b",
        "Qwen3-VL-4B": "qwen3_vl_4b",
        "Qwen3-VL-8B": "qwen3_vl_8b",
        "InternVL3.5-8B": "internvl3_5_8b",
        "Llama-3.2-11B-Vision": "llama3_2_vision_11b",
    }
    found: dict[str, Overrides | str] = {
        name + ending: (f"backbone={own}",)
        for name, own in ours.items()
        for ending in ("", "-Instruct")
    }
    return found | {"not stated (3B and 7B exist)": RECORD}


# key -> value as text -> overrides. `algo.base` differs between the papers, see BASES.
KEYS: Mapping[str, Mapping[str, Overrides | str]] = {
    "model.backbone": _backbones(),
    "data.train": dict.fromkeys(("ViRL39K", "Geo3K", "MMK12"), PENDING),
    "data.mix": {
        "balanced_1_1": ("mix.datasets.main.single_share=0.5",),
        "single_only": ("mix.datasets.main.single_share=1",),
        "multi_only": ("mix.datasets.main.single_share=0",),
    },
    "data.source": dict.fromkeys(
        ("ZwZ74K", "CLEVR", "SuperCLEVR", "SpaCE10", "ViRL39K", "Total"), RECORD
    ),
    "train": {"none": ("stages=[]",)},
    "source": dict.fromkeys(("trained_here", "external", "external_report"), RECORD),
    "method": {},  # the name of an external model; any text
    "rollout.n": {"8": ("rollout.group_size=8",)},
    "credit": {
        "uniform": ("credit=uniform",),
        "entropy_adv": ("credit=entropy",),
        "vicra": ("credit=vicra",),
        "vgpo": ("credit=vgpo",),
        "vppo": ("credit=vppo", "+auxiliary.entropy_penalty=entropy_penalty"),
    },
    "credit.vicra.score": {
        "prob_diff": ("credit.score=prob_difference",),
        "kl": ("credit.score=kl",),
    },
    "credit.vicra.distortion": {
        name: (f"credit.distortion={name}",)
        for name in ("discard", "patch_black", "black", "gaussian_noise", "gaussian_blur")
    },
    "credit.vicra.distortion.mask_ratio": {"0.6": ("credit.distortion.mask_ratio=0.6",)},
    "credit.vicra.distortion.mean": {"0": ("credit.distortion.mean=0.0",)},
    "credit.vicra.distortion.std": {"200": ("credit.distortion.std=200.0",)},
    "credit.vicra.distortion.radius": {"5.0": ("credit.distortion.radius=5.0",)},
    "credit.vgpo.intra": {"true": ("credit.intra=true",), "false": ("credit.intra=false",)},
    "credit.vgpo.inter": {"true": ("credit.inter=true",), "false": ("credit.inter=false",)},
    "credit.vgpo.schedule": {
        name: (f"credit.schedule={name}",) for name in ("linear", "step", "exponential")
    },
    "credit.vgpo.scope": {"late": ("credit.scope=late",), "full": ("credit.scope=full",)},
    "credit.vgpo.exponent": {"2.0": ("credit.power=2.0",)},
    "aux": {
        "none": (),
        "ease": ("+auxiliary.ease=ease",),
        "kl_prcp": ("+auxiliary.kl_prcp=kl_prcp",),
    },
    "aux.kl_prcp.counterfactual": {
        "discard_image": ("auxiliary.kl_prcp.distortion=discard",),
    },
    "aux.ease.reward_gate": {
        "true": ("auxiliary.ease.gate=reward",),
        "false": ("auxiliary.ease.gate=always",),
    },
    "aux.ease.target": {
        name: (f"auxiliary.ease.target={name}",) for name in ("gaussian_mixture", "hard_box")
    },
    "aux.ease.kl_direction": {
        name: (f"auxiliary.ease.direction={name}",)
        for name in ("model_to_target", "target_to_model")
    },
    "aux.ease.background_alpha": {
        "0.1": ("auxiliary.ease.target.smoothing=0.1",),
        "0.0": ("auxiliary.ease.target.smoothing=0.0",),
    },
    "aux.ease.layer": {
        "floor(2N/3)": ("auxiliary.ease.layer=two_thirds",),
        "early": ("auxiliary.ease.layer=early",),
        "central_middle": ("auxiliary.ease.layer=middle",),
        "final": ("auxiliary.ease.layer=last",),
    },
    "aux.ease.max_response_tokens": {"64": ("auxiliary.ease.rows=64",)},
    "reward.attn": {
        "sayo_rv": ("+reward.terms.attention=attention", "reward.terms.attention.weight=1.0"),
        "none": ("reward.terms.attention=null",),
    },
    "reward.accuracy": {
        "true": ("reward.terms.accuracy.weight=1.0",),
        "false": ("reward.terms.accuracy.weight=0.0",),
    },
    "reward.format": {"true": ("reward.terms.format.weight=1.0",)},
    "reward.attn.top_entropy_ratio": {
        share: ("+reward.terms.attention=attention", f"reward.terms.attention.share={share}")
        for share in ("0.2", "0.3", "0.4", "1.0")
    },
}  # fmt: skip

# What a paper calls its GRPO and DAPO. KL to the reference is off in EASE's and VGPO's code.
_CLIP_HIGHER: Overrides = ("algorithm=grpo_clip_higher", "algorithm.kl_coef=0.0")
_DAPO: Overrides = ("algorithm=dapo", "group_filter=dynamic_sampling")
BASES: Mapping[str, Mapping[str, Overrides]] = {
    "ease": {"grpo": _CLIP_HIGHER, "dapo": ("algorithm=dapo_ease",)},
    "vicra": {"grpo_clip_higher": ("algorithm=grpo_clip_higher",), "dapo": _DAPO},
    "vgpo": {"grpo": _CLIP_HIGHER, "dapo": _DAPO},
    "sayo": {"grpo": ("algorithm=grpo",)},
}


@dataclass(frozen=True)
class Translated:
    """The settings of a published row in our keys."""

    overrides: Overrides
    pending: tuple[str, ...]  # what no override says, e.g. `data.train: ViRL39K`

    def settings(self) -> Iterator[tuple[str, str]]:
        """Our keys and values, as texts; the last one of a key counts."""
        found = dict(text.lstrip("+").split("=", 1) for text in self.overrides)
        yield from found.items()


def translated(found: Reference, row: ReferenceRow) -> Translated:
    """A row's settings as overrides of ours, in an order in which they can be given.

    Raises:
        RunError: for a key or a value that the table above does not know.
    """
    overrides: list[str] = []
    pending: list[str] = []
    for key, value in _flat(found.settings(row)):
        mapped = _mapped(found.paper, key, value)
        if mapped == PENDING:
            pending.append(f"{key}: {value}")
        elif isinstance(mapped, tuple):
            overrides += mapped
    kept = [text for i, text in enumerate(overrides) if text not in overrides[:i]]
    # Components first, their settings after them: choosing one drops the settings of another.
    return Translated(tuple(sorted(kept, key=_depth)), tuple(pending))


def _depth(override: str) -> int:
    return override.partition("=")[0].count(".")


def _mapped(paper: str, key: str, value: str) -> Overrides | str:
    values = BASES.get(paper, {}) if key == "algo.base" else KEYS.get(key)
    if key == "method":
        return RECORD
    if values is None or value not in values:
        known = KEYS if values is None else values
        raise RunError(
            f"the published setting {key}: {value} has no counterpart in vexp.tables.source_keys",
            accepted=suggest(key if values is None else value, known),
        )
    return values[value]


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", text) for name, text in _flat(value))
        else:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)
