"""What is wrong with a run beyond its single sections: where its parts contradict each other."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vexp.auxiliary.base import Auxiliary
from vexp.errors import ConfigError, Problem
from vexp.layer.base import Layer
from vexp.registry import WHICH, Component
from vexp.spec.format_problems import format_problems

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec, Shard


def problems_of(run: RunSpec) -> list[Problem]:
    """Everything at once; a pure function of the sections that it reads."""
    return [*contradictions_of(run), *_fruitless(run)]


def contradictions_of(run: RunSpec) -> list[Problem]:
    """Of `problems_of` what is wrong with a run also once it has been trained."""
    return list(_problems(run))


def _fruitless(run: RunSpec) -> Iterator[Problem]:
    """Training that could be done and that would learn little or nothing."""
    yield from format_problems(run)
    yield from _half_problems(run)


def spread_of(shard: Shard) -> str:
    """What above all lies in shards."""
    return "weights" if shard == "fsdp2" else "moments"


def _problems(run: RunSpec) -> Iterator[Problem]:
    if len(set(run.stages)) != len(run.stages):
        yield Problem("a stage is listed twice", where="stages")
    elif "warm_start" in run.stages and run.stages[0] != "warm_start":
        yield Problem("`warm_start` has to be the first stage", where="stages")
    elif "rl" in run.stages and run.stages[-1] != "rl":
        yield Problem("`rl` has to be the last stage", where="stages")
    if run.stages and not run.mix.datasets:
        yield Problem(
            "there is no dataset to train on",
            where="mix.datasets",
            remedy="name one, e.g. mix.datasets.main=digits_vqa",
        )
    if "rl" in run.stages:
        yield from _rl_problems(run)
    if "anchor" in run.stages:
        yield from _anchor_problems(run)
    yield from _unmet_needs(run)
    yield from _unsaid_needs(run)
    yield from _beyond_backbone(run)
    yield from _rate_problems(run)
    yield from _lora_problems(run)
    yield from _shard_problems(run)
    yield from _layer_problems(run)
    for path, component in _checked(run):
        for problem in component.problems(run):
            where = f"{path} ({component.name})" + (f": {problem.where}" if problem.where else "")
            yield Problem(
                problem.what, where=where, accepted=problem.accepted, remedy=problem.remedy
            )


def _rl_problems(run: RunSpec) -> Iterator[Problem]:
    if not run.reward.terms:
        yield Problem(
            "there is no reward",
            where="reward.terms",
            remedy="add reward.terms.accuracy=accuracy",
        )
    per_update = run.rl.prompts_per_update
    if per_update is not None and run.rl.prompts_per_step % per_update:
        yield Problem(
            f"rl.prompts_per_step ({run.rl.prompts_per_step}) is not a multiple of "
            f"rl.prompts_per_update ({per_update})",
            where="rl.prompts_per_update",
            remedy="every update of a step has to have the same number of groups",
        )
    if run.rollout.responses_per_prompt < 2:
        yield Problem(
            "a group of one response has no baseline",
            where="rollout.group_size",
            accepted="expected at least 2",
        )


def _anchor_problems(run: RunSpec) -> Iterator[Problem]:
    focus = run.anchor.focus
    for need in focus.required():
        if need != "boxes":
            yield Problem(
                f"auxiliary {focus.name!r} needs {need!r}, which the supervised stage 'anchor' "
                "does not supply",
                where=f"anchor.focus ({focus.name}) and stages",
                remedy="use it in `auxiliary`, which is part of the stage `rl`",
            )


def _unsaid_needs(run: RunSpec) -> Iterator[Problem]:
    """Needs of components that lack the field which says what exactly they need."""
    for path, component in _checked(run):
        live = component.live if isinstance(component, Auxiliary) else ()
        for need in (*component.required(), *live):
            if need in WHICH and not hasattr(component, WHICH[need]):
                yield Problem(
                    f"{component.kind} {component.name!r} needs {need!r} but has no field "
                    f"`{WHICH[need]}` that says which",
                    where=path,
                    remedy=f"give the component a field `{WHICH[need]}`",
                )


def _beyond_backbone(run: RunSpec) -> Iterator[Problem]:
    """What no model of the backbone's family has, and a component reads or adds."""
    if not run.backbone.lacks:
        return
    said = {
        "attention": "reads attention on image tokens",
        "similarity": "compares states with those of image tokens",
        "emits": "adds a token to the vocabulary",
    }
    for path, component in run.components():
        live = component.live if isinstance(component, Auxiliary) else ()
        wanted = {*component.required(), *live, *component.reads}
        wanted |= {"emits"} if component.emits else set()
        if lacking := [said[need] for need in run.backbone.lacks if need in wanted]:
            yield Problem(
                f"{component.kind} {component.name!r} {' and '.join(lacking)}, which backbone "
                f"{run.backbone.name!r} does not have",
                where=f"{path} and backbone ({run.backbone.name})",
                remedy="choose a backbone with image tokens among the text, such as a Qwen-VL, "
                "InternVL or SmolVLM one, or another component",
            )


def _rate_problems(run: RunSpec) -> Iterator[Problem]:
    """A floor for a learning rate that does not fall."""
    for stage in run.stages:
        settings = getattr(run, stage)
        if settings.min_lr_ratio and settings.schedule == "constant":
            yield Problem(
                f"the learning rate of the stage {stage!r} never falls to "
                f"{settings.min_lr_ratio:g} of itself: its schedule is constant",
                where=f"{stage}.min_lr_ratio and {stage}.schedule",
                remedy=f"set {stage}.schedule=cosine or linear, or {stage}.min_lr_ratio=0",
            )


def _lora_problems(run: RunSpec) -> Iterator[Problem]:
    """What cannot be learned while all but low-rank changes of the decoder stays as it is."""
    if not run.backbone.lora.rank:
        return
    if not run.backbone.lora.targets:
        yield Problem("LoRA has no map to change", where="backbone.lora.targets")
    for path, component in run.components():
        if component.emits:
            yield Problem(
                f"{component.kind} {component.name!r} adds a token, whose embedding LoRA "
                "leaves as it starts",
                where=f"{path} and backbone.lora.rank",
                remedy="set backbone.lora.rank=0, or choose another component",
            )


def _half_problems(run: RunSpec) -> Iterator[Problem]:
    """Weights in bfloat16 that learn by an optimiser that rounds their updates away."""
    if run.backbone.bytes_per_parameter != 2 or run.backbone.lora.rank:
        return
    for stage in run.stages:
        if getattr(run, stage).optimizer == "adamw_8bit":
            yield Problem(
                "adamw_8bit rounds the updates of weights in bfloat16, and at small learning rates "
                "most of them are lost",
                where=f"backbone.weights=bf16 and {stage}.optimizer=adamw_8bit",
                remedy=f"set {stage}.optimizer=adamw, which keeps what rounding would lose, or "
                "backbone.weights=fp32",
            )


def _shard_problems(run: RunSpec) -> Iterator[Problem]:
    """What weights or moments in shards cannot be had with."""
    shard = run.compute.shard
    if shard == "none":
        return
    if run.processes == 1:
        yield Problem(
            f"one process has nobody to share its {spread_of(shard)} with",
            where=f"compute.shard={shard} and compute.processes",
            accepted="two processes or more",
            remedy="set compute.processes (on Slurm launcher.tasks_per_node, launcher.nodes), "
            "or compute.shard=none",
        )
    if shard == "fsdp2" and "rl" in run.stages and run.rl.staleness:
        yield Problem(
            "weights that lie in shards are not kept for the next step's responses",
            where=f"rl.staleness=1 and compute.shard={shard}",
            remedy="set rl.staleness=0, or compute.shard=zero2",
        )
    half = run.backbone.bytes_per_parameter == 2 and not run.backbone.lora.rank
    if shard != "fsdp2" and half and run.stages:
        yield Problem(
            "DeepSpeed updates a float32 copy of weights in bfloat16, where other runs update "
            "the weights: the numbers would not be those of this run",
            where=f"backbone.weights=bf16 and compute.shard={shard}",
            remedy="set backbone.weights=fp32, or compute.shard=fsdp2",
        )
    for stage in run.stages:
        if getattr(run, stage).optimizer == "adamw_8bit":
            yield Problem(
                "moments in 8 bits have a scale per block, and a shard may end within one",
                where=f"{stage}.optimizer=adamw_8bit and compute.shard={shard}",
                remedy="use adamw, whose moments are spread as well, or compute.shard=none",
            )


def _layer_problems(run: RunSpec) -> Iterator[Problem]:
    """Layers that the backbone does not have, as far as that is known before it is loaded."""
    layers = run.backbone.decoder_layers
    for path, component in _checked(run):
        if layers is not None and isinstance(component, Layer):
            try:
                component.index(layers)
            except ConfigError as error:
                for problem in error.problems:
                    where = f"{path} and backbone ({run.backbone.name})"
                    yield Problem(
                        problem.what,
                        where=where,
                        accepted=problem.accepted,
                        remedy=problem.remedy,
                    )


def _unmet_needs(run: RunSpec) -> Iterator[Problem]:
    if not run.mix.datasets:
        return
    per_dataset = [set(d.provides) for d in run.mix.datasets.values()]
    provided = set(run.backbone.provides) | set.intersection(*per_dataset)
    for path, component in _checked(run):
        if "boxes" in component.required() and "boxes" not in provided:
            lacking = [n for n, d in run.mix.datasets.items() if "boxes" not in d.provides]
            yield Problem(
                f"{component.kind} {component.name!r} needs evidence boxes, which dataset "
                f"{lacking[0]!r} does not have",
                where=f"{path} and mix.datasets.{lacking[0]}",
                remedy="choose a dataset with boxes, or another component",
            )


def _checked(run: RunSpec) -> list[tuple[str, Component]]:
    """The components that may be at odds with the run: few, and a sweep has many runs."""
    return [entry for entry in run.components() if _has_checks(type(entry[1]))]  # type: ignore[arg-type]


@functools.cache
def _has_checks(cls: Any) -> bool:
    """Whether a component of this class asks for anything or checks anything."""
    own = (cls.problems, cls.required, cls.needs)
    return own != (Component.problems, Component.required, ()) or issubclass(
        cls, (Auxiliary, Layer)
    )
