"""Generation with vLLM, in the training process or beside it, with the weights of the moment."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import UNHASHED, Positive, PositiveInt
from vexp.engine.base import Engine, Generated, Sampling
from vexp.errors import ConfigError, Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec import RunSpec
    from vexp.train.policy import Policy
    from vexp.train.prompts import PromptBatch


# By the `model_type` of a transformers configuration: whose images vLLM takes as patches.
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@register("engine", "vllm")
@dataclass(frozen=True, kw_only=True)
class VLLM(Engine):
    """Decodes with vLLM, which gets the policy's weights in memory whenever they have changed.

    Kwon et al. 2023, "PagedAttention" (arXiv:2309.06180). vLLM computes the logits; tokens are
    drawn from them by the code and the noise of `hf`, so the two differ by rounding only.
    """

    max_length: Annotated[PositiveInt, UNHASHED] = 4096  # tokens of a prompt and its response
    cache_gb: Annotated[Positive, UNHASHED] = 1.0  # for keys and values of what is decoded at once
    max_sequences: Annotated[PositiveInt, UNHASHED] = 256  # responses decoded at once
    separate: Annotated[bool, UNHASHED] = False  # in a process of its own; false: in the trainer's
    patience_s: Annotated[Positive, UNHASHED] = 600.0  # how long a process of its own may be silent

    def check(self) -> None:
        from vexp.train import parallel

        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                Problem(
                    "vLLM is not installed in this Python",
                    where="engine (vllm)",
                    remedy="install vexp[vllm] (docs/engines.md says where), or use engine=hf",
                )
            )
        if parallel.world() > 1 and not self.separate:
            raise ConfigError(_one_process())

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        family = getattr(run.backbone, "model_type", None)
        if family is not None and family not in FAMILIES:
            yield unserved(family)
        if (run.compute.processes or 1) > 1 and not self.separate:
            yield _one_process()
        if run.rollout.max_response_length >= self.max_length:
            yield Problem(
                f"a response may be as long as {run.rollout.max_response_length} tokens "
                f"(rollout.max_response_length), which leaves no room for a prompt within "
                f"{self.max_length}",
                where="max_length",
                remedy="raise it; it does not change a run's id",
            )

    def generate(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> Generated:
        """See `Engine.generate`.

        Raises:
            ConfigError: if vLLM is not installed, or cannot serve this model on this machine.
            DataError: names the item whose prompt is too long for `max_length`.
            EngineFailed: if vLLM breaks down.
        """
        self.check()
        from vexp.engine import _stop, _vllm

        found = _vllm.generate(self, policy, prompts, item_ids, sampling)
        return _stop.cut(policy, found, sampling)

    @property
    def works_ahead(self) -> bool:
        return self.separate

    def begin(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> None:
        if self.separate:
            self.check()
            from vexp.engine import _vllm

            _vllm.begin(self, policy, prompts, item_ids, sampling)

    def close(self) -> None:
        if (module := sys.modules.get("vexp.engine._vllm")) is not None:
            module.close()


def unserved(family: str) -> Problem:
    """The message for a family that this engine does not serve."""
    return Problem(
        f"engine=vllm does not serve models of the family {family!r}",
        where="backbone",
        accepted="families: " + ", ".join(FAMILIES),
        remedy="use engine=hf, which serves every backbone",
    )


def _one_process() -> Problem:
    return Problem(
        "vLLM in the training process works with one process per run",
        where="compute.processes",
        remedy="set engine.separate=true (a vLLM beside each process; the id stays), "
        "compute.processes=1, or use engine=hf",
    )
