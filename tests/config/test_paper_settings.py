"""The papers' settings: each published value, typed in by hand, is in the resolved config.

The values are those of the papers' tables of training settings, or of their released code where
the text has none. What a config cannot say (hardware, pixel limits, prompt lengths, LoRA) is in the
comments of conf/scale.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vexp.errors import ConfigError
from vexp.spec.resolve import resolve

FILTER = ("group_filter.name", "group_filter.low", "group_filter.high", "group_filter.max_batches")
UNLIMITED = "group_filter=dynamic_sampling_unlimited"


def settings(
    *,
    prompts,  # per rollout batch
    update,  # prompts per optimiser step
    group,  # responses per prompt
    rate,
    decay,
    clip_norm,
    length,  # of a response
    clip,
    kl,
    aggregation="token-mean",
    top_p=1.0,
    freeze=(),
    **more,
):
    """A column of the table, by the paths of our config."""
    return {
        "rl.prompts_per_step": prompts,
        "rl.prompts_per_update": update,
        "rollout.group_size": group,
        "rollout.temperature": 1.0,
        "rollout.top_p": top_p,
        "rl.learning_rate": rate,
        "rl.weight_decay": decay,
        "rl.max_grad_norm": clip_norm,
        "rollout.max_response_length": length,
        "algorithm.clip_low": clip[0],
        "algorithm.clip_high": clip[1],
        "algorithm.kl_coef": kl,
        "algorithm.aggregation": aggregation,
        "rl.freeze": freeze,
        "stages": ("rl",),
    } | {name.replace("__", "."): value for name, value in more.items()}


PAPERS = {
    "experiment=ease scale=ease_paper": settings(
        prompts=512, update=64, group=5, rate=1e-6, decay=1e-2, clip_norm=1.0, length=1024,
        clip=(0.2, 0.3), kl=0.0,
        group_filter__name="none",
        algorithm__dual_clip=3.0,
        auxiliary__ease__coef=1e-3,
        auxiliary__ease__target__smoothing=0.1,
        auxiliary__ease__target__sigma_scale=0.25,
        auxiliary__ease__layer__name="two_thirds",
        auxiliary__ease__rows=64,
        auxiliary__ease__gate__threshold=0.5,
        reward__terms__format__weight=0.0,
    ),
    "experiment=vicra scale=vicra_paper": settings(
        prompts=512, update=128, group=5, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.3), kl=1e-2,
        rl__steps=150,
        credit__name="vicra",
    ),
    f"experiment=vgpo scale=vgpo_paper {UNLIMITED}": settings(
        prompts=512, update=128, group=8, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.28), kl=0.0, top_p=0.99,
        rl__steps=150,
        group_filter__low=0.01, group_filter__high=0.99,
        algorithm__dual_clip=3.0,
        credit__beta=0.3, credit__gamma=0.5, credit__kappa=0.2,
        reward__terms__accuracy__weight=1.0, reward__terms__format__weight=0.0,
    ),
    "experiment=sayo scale=sayo_paper": settings(
        prompts=24, update=None, group=16, rate=5e-6, decay=1e-2, clip_norm=0.8, length=110,
        clip=(0.2, 0.2), kl=1e-3, top_p=0.9,
        aggregation="seq-mean-token-mean",  # TRL's default changed with its version
        reward__terms__attention__share=0.3, reward__terms__attention__eps=1e-8,
        reward__terms__accuracy__weight=0.0,
    ),
    f"experiment=vppo scale=vppo_paper {UNLIMITED}": settings(
        prompts=384, update=128, group=8, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.28), kl=0.0, top_p=0.99,
        algorithm__dual_clip=3.0,
        credit__rho=0.4, credit__b_min=0.9,
        credit__distortion__mask_ratio=0.5, credit__distortion__per="rollout",
        auxiliary__entropy_penalty__coef=0.06,
        reward__terms__format__weight=0.0,
    ),
    "experiment=papo_g scale=papo_paper": settings(
        prompts=384, update=128, group=5, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.3), kl=1e-2, top_p=0.99,
        auxiliary__papo__coef=0.02, auxiliary__papo__entropy_coef=0.0,
        auxiliary__papo__distortion__mask_ratio=0.6, auxiliary__papo__distortion__patch_size=14,
        reward__terms__accuracy__weight=0.9, reward__terms__format__weight=0.1,
    ),
    "experiment=papo_d scale=papo_paper": settings(
        prompts=384, update=128, group=5, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.28), kl=0.0, top_p=0.99,
        group_filter__low=0.01, group_filter__high=0.99,
        auxiliary__papo__coef=0.01, auxiliary__papo__entropy_coef=0.03,
        algorithm__dual_clip=3.0,
    ),
    "experiment=noisy_rollout scale=noisy_rollout_paper": settings(
        prompts=512, update=128, group=6, rate=1e-6, decay=1e-2, clip_norm=1.0, length=2048,
        clip=(0.2, 0.2), kl=0.0, freeze=("vision",),
        rollout__responses_per_prompt=12,
        rollout__distortion__step=500, rollout__steepness=30.0, rollout__midpoint=40.0,
    ),
    "experiment=mm_eureka scale=mm_eureka_paper": settings(
        prompts=128, update=16, group=8, rate=1e-6, decay=0.0, clip_norm=1.0, length=4096,
        clip=(0.2, 0.2), kl=0.0, freeze=("vision",), aggregation="seq-mean-token-mean",
        algorithm__dual_clip=3.0,
        group_filter__name="accuracy_band", group_filter__low=0.1, group_filter__high=0.9,
        reward__terms__format__weight=0.5,
        rl__beta2=0.95, rl__schedule="cosine", rl__min_lr_ratio=0.1,
    ),
    "experiment=vl_rethinker scale=vl_rethinker_paper": settings(
        prompts=512, update=64, group=8, rate=1e-6, decay=0.0, clip_norm=1.0, length=2048,
        clip=(0.2, 0.35), kl=0.0, top_p=0.95,
        algorithm__name="dr_grpo",
        group_filter__alpha=1.0, group_filter__ratio=0.5,
        rollout__prob=0.65, rollout__cut_answer=0.5, rollout__continuation_temperature=0.9,
        rollout__room=1024, rollout__max_per_prompt=2, rollout__max_hesitations=4,
        rollout__keep_only_correct=True,
        rl__beta2=0.95, rl__schedule="cosine", rl__min_lr_ratio=0.5,
    ),
}  # fmt: skip


def dapo(name, low, high, tries, clip):
    return dict(zip(FILTER, (name, low, high, tries), strict=True)) | {
        "algorithm.name": "dapo",
        "algorithm.clip_low": 0.2,
        "algorithm.clip_high": clip,
        "algorithm.kl_coef": 0.0,
        "algorithm.aggregation": "token-mean",
        "credit.name": "uniform",
        "auxiliary": {},
    }


# What "DAPO" means in each paper (no overlong shaping in any of them).
DAPO = {
    "experiment=dapo": dapo("dynamic_sampling", 0.01, 0.99, 20, 0.28),
    "experiment=dapo scale=papo_paper": dapo("dynamic_sampling", 0.01, 0.99, 20, 0.28),
    f"experiment=dapo scale=vgpo_paper {UNLIMITED}": dapo(
        "dynamic_sampling", 0.01, 0.99, 1_000_000, 0.28
    ),
    f"experiment=dapo scale=vppo_paper {UNLIMITED}": dapo(
        "dynamic_sampling", 0.01, 0.99, 1_000_000, 0.28
    ),
    "experiment=dapo scale=vicra_paper": dapo("dynamic_sampling", 0.01, 0.99, 20, 0.28),
    "experiment=dapo_ease scale=ease_paper": {
        name: value
        for name, value in dapo("none", None, None, None, 0.3).items()
        if name not in FILTER[1:]
    },
}


def value_at(run, path):
    found = run
    for key in path.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    return found


@pytest.fixture(scope="module")
def resolved():
    return {overrides: resolve(overrides.split()) for overrides in PAPERS | DAPO}


@pytest.mark.parametrize("overrides", PAPERS | DAPO)
def test_the_config_has_the_published_values(overrides, resolved):
    wanted = (PAPERS | DAPO)[overrides]
    found = {path: value_at(resolved[overrides], path) for path in wanted}
    assert found == wanted


def test_no_baseline_of_the_papers_shapes_overlong_responses(resolved):
    for run in resolved.values():
        assert "overlong" not in {term.name for term in run.reward.terms.values()}


def test_the_noise_reaches_its_midpoint_within_the_papers_steps(resolved):
    run = resolved["experiment=noisy_rollout scale=noisy_rollout_paper"]
    assert run.rollout.strength(1, run.rl.steps) == pytest.approx(1.0, abs=1e-6)
    assert run.rollout.strength(40, run.rl.steps) == 0.5
    assert run.rollout.strength(run.rl.steps, run.rl.steps) < 1e-4


# The mark of each paper's answer; MM-Eureka's is a box within tags.
ANSWERS = {
    "ease": "<answer>", "sayo": "<answer>", "mm_eureka": "<answer>", "vicra": "\\boxed{}",
    "vgpo": "\\boxed{}", "papo": "\\boxed{}", "vppo": "\\boxed{}", "noisy_rollout": "\\boxed{}",
    "vl_rethinker": "\\boxed{}", "faithful_mr1": "\\boxed{}",
}  # fmt: skip


def test_every_paper_has_its_prompt():
    files = Path("conf/scale").glob("*_paper.yaml")
    assert {file.stem.removesuffix("_paper") for file in files} == ANSWERS.keys()


@pytest.mark.parametrize("paper", ANSWERS)
def test_the_prompt_of_every_paper_asks_for_its_answer_format(paper):
    overrides = [f"scale={paper}_paper", "stages=[rl]", "backbone=qwen2_5_vl_3b"]
    prompt = resolve(overrides).prompt  # a prompt that does not ask is an error
    asked = f"{prompt.system} {prompt.instruction}"
    assert ANSWERS[paper] in asked
    assert "  " not in asked.strip()
    assert "\n" not in asked  # folded, as it is in the papers
    if paper not in ("sayo", "vl_rethinker"):
        assert "<think> </think>" in asked


def test_a_paper_without_its_prompt_is_refused():
    overrides = ["scale=vgpo_paper", "prompt.instruction=''", "backbone=qwen2_5_vl_3b"]
    with pytest.raises(ConfigError, match="neither the prompt nor the questions ask"):
        resolve(overrides)


def test_the_dapos_differ(resolved):
    def meaning(run):
        clip, group_filter = run.algorithm.clip_high, run.group_filter
        return clip, group_filter.name, getattr(group_filter, "max_batches", None)

    unlike = {meaning(resolved[overrides]) for overrides in DAPO}
    assert len(unlike) == 3
