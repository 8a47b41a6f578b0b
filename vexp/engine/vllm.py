"""Generation with vLLM, in the training process or beside it, with the weights of the moment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import UNHASHED, Count, Positive, PositiveInt
from vexp.engine._vllm_images import FAMILIES
from vexp.engine.base import Engine, Generated, Sampling
from vexp.errors import ConfigError, Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec


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
    nodes: Annotated[Count, UNHASHED] = 0  # further nodes of the Slurm job, for engines alone
    tensor_parallel: Annotated[PositiveInt, UNHASHED] = 1  # GPUs that share each engine's weights
    sleep: Annotated[bool, UNHASHED] = False  # memory is given back while the policy is updated

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                Problem(
                    "vLLM is not installed in this Python",
                    where="engine (vllm)",
                    remedy="install vexp[vllm] (docs/engines.md says where), or use engine=hf",
                )
            )
        if found := [*self._at_odds(), *self._lacking()]:
            raise ConfigError(found)

    def _at_odds(self) -> Iterator[Problem]:
        """What no machine could do."""
        for name, neutral in (("nodes", 0), ("tensor_parallel", 1)):
            value = getattr(self, name)
            if value != neutral and not self.separate:
                yield Problem(
                    f"engine.{name}={value} needs vLLM in a process of its own",
                    where=f"engine.{name}",
                    remedy="set engine.separate=true; it does not change a run's id",
                )

    def _lacking(self) -> Iterator[Problem]:
        """What this machine, or this Slurm job, does not have."""
        import torch

        if self.nodes:
            yield from self._no_nodes()
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if seen and seen < self.tensor_parallel and not self.nodes:
            yield Problem(
                f"engine.tensor_parallel={self.tensor_parallel} needs as many GPUs, and torch sees "
                f"{seen} on this machine",
                where="engine.tensor_parallel",
                remedy="lower it, or give engines nodes of a Slurm job (engine.nodes)",
            )
        if self.sleep and not seen:
            yield _no_sleep("torch sees no GPU on this machine")

    def _no_nodes(self) -> Iterator[Problem]:
        count = int(os.environ.get("SLURM_JOB_NUM_NODES") or 0)
        where = f"engine.nodes={self.nodes}"
        if not os.environ.get("SLURM_JOB_ID") or shutil.which("srun") is None:
            yield Problem(
                "engines on other nodes are job steps of the run's own Slurm job, and this process "
                "is in none",
                where=where,
                remedy="launch the run with launcher=slurm, which asks for the nodes; or set "
                "engine.nodes=0 (the id stays)",
            )
        elif count <= self.nodes:
            yield Problem(
                f"this Slurm job has {count} node(s), which leaves none for the run itself",
                where=where,
                remedy="launch the run with launcher=slurm, which asks for the nodes; or set "
                f"engine.nodes to less than {count}",
            )

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        family = getattr(run.backbone, "model_type", None)
        if family is not None and family not in FAMILIES:
            yield unserved(family)
        yield from self._at_odds()
        if self.sleep and run.compute.device == "cpu":
            yield _no_sleep("compute.device=cpu")
        if self.sleep and run.rl.staleness:
            yield Problem(
                "with rl.staleness=1 vLLM generates while the policy is updated, and cannot give "
                "memory back meanwhile",
                where="engine.sleep",
                remedy="set engine.sleep=false (the id stays), or rl.staleness=0",
            )
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
    def resources(self) -> Mapping[str, int]:
        return {"engine_nodes": self.nodes} if self.nodes else {}

    def release_memory(self) -> None:
        module = sys.modules.get("vexp.engine._vllm")
        if self.sleep and module is not None:
            module.release_memory()

    @property
    def supports_prefetch(self) -> bool:
        return self.separate

    def prefetch(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> None:
        if self.separate:
            self.check()
            from vexp.engine import _vllm

            _vllm.prefetch(self, policy, prompts, item_ids, sampling)

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


def _no_sleep(why: str) -> Problem:
    return Problem(
        f"vLLM can give memory back on GPUs only: {why}",
        where="engine.sleep",
        remedy="set engine.sleep=false; it does not change a run's id",
    )
