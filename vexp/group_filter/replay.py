"""VL-Rethinker's Selective Sample Replay: old rollouts where new ones have nothing to teach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.config.types import Fraction, NonNegative, PositiveInt
from vexp.errors import Problem
from vexp.group_filter.base import GroupFilter, ReplayedRollouts
from vexp.registry import ComponentState, register
from vexp.reward.base import ObservedReward

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.spec.run import RunSpec


@register("group_filter", "replay")
@dataclass(frozen=True, kw_only=True)
class Replay(GroupFilter):
    """Groups whose responses all have advantage 0 make room for rollouts of former steps.

    Wang et al. 2025, "VL-Rethinker" (arXiv 2504.08837), Selective Sample Replay. Rollout j of the
    buffer, the newest `buffer` ones with an advantage, is drawn with

        P(j) = |A[j]|^alpha / sum over the buffer of |A|^alpha,

    none twice in a step. It keeps its advantage A, and its old log-probs are those of the policy
    that sampled it, so that the ratio of the update says how far the policy has moved since; the
    usual clipping applies. The step's own rollouts enter the buffer after its updates. The paper
    states alpha; the sizes are ours. (In the released code the call leaves the replay switched
    off; this follows the text.)

    Groups without an advantage are dropped even when the buffer cannot fill their places, and a KL
    or an auxiliary loss does not act on them then. Entropy, attention and other signals of a
    replayed rollout are those of the policy as it is now.

    Breaks when the policy moves fast: the ratios of old rollouts are then clipped, and nothing is
    learned from what was replayed.
    """

    alpha: NonNegative = 1.0  # 0 draws all alike; more prefers large advantages
    buffer: PositiveInt = 512  # rollouts that are remembered
    ratio: Fraction = 0.5  # replayed rollouts are at most this share of a full step

    @property
    def replays(self) -> bool:
        return True

    def required(self) -> tuple[str, ...]:
        return ("old_logprobs",)

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        for name, term in run.reward.terms.items():
            if isinstance(term, ObservedReward):
                yield Problem(
                    f"reward term {term.name!r} is known only after the experience pass, but the "
                    "advantages decide before it what is replayed",
                    where=f"reward.terms.{name}",
                    remedy="leave out one of the two",
                )
        for path, component in run.components():
            other = component is not self and not path.startswith("evaluator.")
            if other and "old_logprobs" in component.required():
                yield Problem(
                    f"{component.kind} {component.name!r} compares old log-probs with others of "
                    "today's policy; those of a replayed rollout are of a former one",
                    where=path,
                    remedy="leave out one of the two",
                )

    def keep(self, accuracies: Sequence[Sequence[float]], step: int) -> list[bool]:
        return [True] * len(accuracies)

    def initial_state(self) -> ComponentState:
        return {}

    def recall(
        self, memory: ComponentState, room: int, batch: int, noise: Generator
    ) -> ReplayedRollouts | None:
        import numpy as np
        import torch

        if not memory:
            return None
        past = ReplayedRollouts(**memory)
        count = min(room, int(self.ratio * batch), len(past))
        # The smallest of independent exponential times of rates |A|^alpha, in logarithms: the same
        # as drawing one by one (Efraimidis and Spirakis, "Weighted random sampling", 2006).
        times = np.log(noise.standard_exponential(len(past)))
        times -= self.alpha * np.log(past.outcome.abs().numpy())
        chosen = torch.from_numpy(np.sort(np.argsort(times, kind="stable")[:count]))
        return ReplayedRollouts(**_picked(memory, chosen)) if count else None

    def remember(self, memory: ComponentState, experience: Experience) -> ComponentState:
        import torch

        new = _rollouts(experience)
        if memory:
            width = max(memory["mask"].shape[1], new["mask"].shape[1])
            new = {
                name: torch.cat([_widened(memory[name], width), _widened(value, width)])
                for name, value in new.items()
            }
        total = len(new["outcome"])
        return _picked(new, torch.arange(max(0, total - self.buffer), total)) if total else memory


def _rollouts(experience: Experience) -> dict[str, Tensor]:
    """The step's own rollouts that have an advantage, as the fields of a `Past`."""
    import torch

    assert experience.outcome is not None
    assert experience.ordinals is not None
    ordinals = torch.tensor(experience.ordinals, device=experience.group.device)[experience.group]
    found = {
        "ordinals": ordinals,
        "places": experience.place,
        "tokens": experience.tokens,
        "mask": experience.mask,
        "logprobs": experience.old_logprobs,
        "outcome": experience.outcome.double(),
        "rewards": experience.rewards,
        "accuracies": experience.accuracies,
    }
    new = experience.outcome != 0
    if experience.replayed is not None:
        new &= ~experience.replayed
    return {name: value[new].cpu() for name, value in found.items() if value is not None}


def _picked(memory: ComponentState, rows: Tensor) -> dict[str, Any]:
    """Some rollouts, cut to the longest of them."""
    picked = {name: value[rows] for name, value in memory.items()}
    width = max(1, int(picked["mask"].sum(dim=1).max())) if len(rows) else 1
    return {
        name: value[:, :width].clone() if value.dim() == 2 else value
        for name, value in picked.items()
    }


def _widened(value: Tensor, width: int) -> Tensor:
    """[rollout, token] values padded on the right with 0; others as they are."""
    import torch

    if value.dim() < 2:
        return value
    return torch.nn.functional.pad(value, (0, width - value.shape[1]))
