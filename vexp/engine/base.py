"""What an engine is: what generates the tokens of the responses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.response.format import ResponseFormat


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. The noise of a token is a function of seed, step, item and place."""

    group_size: int
    max_response_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    seed: int = 0
    step: int = 0
    first: int = 0  # index in the group of the first response, when a group is sampled in parts
    # Responses also end where they state their answer in this format; None: by themselves only.
    stop: ResponseFormat | None = None
    purpose: str = "rollout"  # keeps training and evaluation draws apart
    ignore_eos: bool = False  # benchmarks: never sample the end of the sequence


@dataclass(frozen=True)
class Generated:
    """Responses of one batch; the group of prompt i are `group_size` rows from i*group_size on."""

    tokens: Tensor  # [rollout, token] int64, right-padded with the pad id
    mask: Tensor  # [rollout, token] bool: true up to and including the last token
    logprobs: Tensor  # [rollout, token] of the sampled tokens, under the sampling distribution
    finished: Tensor  # [rollout] bool: ended by itself, or with its answer, within the limit


@dataclass(frozen=True, kw_only=True)
class Engine(Component):
    """Samples groups of responses from the current policy."""

    kind: ClassVar[str] = "engine"

    def check(self) -> None:
        """Asked before a run trains: whether this engine can work here at all.

        Raises:
            ConfigError: if it cannot.
        """

    @property
    def resources(self) -> Mapping[str, int]:
        """What it asks of a run's launcher, by the launcher's names, beside what the run needs."""
        return {}

    @property
    def supports_prefetch(self) -> bool:
        """True if it can generate while the policy is updated: `prefetch` is worth a call."""
        return False

    def prefetch(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> None:
        """Start on what `generate` will be asked for next, with the policy as it is now.

        An engine that cannot work ahead does nothing.
        """

    def release_memory(self) -> None:
        """Release what only generation needs, until the next `generate`."""

    def close(self) -> None:
        """Release everything at the end of a run; the next call starts anew."""

    @abstractmethod
    def generate(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> Generated:
        """Sample `sampling.group_size` responses per prompt; carries no gradient."""
