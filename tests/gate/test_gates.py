"""Which responses an auxiliary loss sees."""

from __future__ import annotations

import pytest
import torch

from tests.train.fakes import experience
from vexp.registry import REGISTRY


def opened(name, accuracies, rewards=None, **fields):
    count = len(accuracies)
    made = experience(
        mask=torch.ones(count, 2, dtype=torch.bool),
        group=torch.zeros(count, dtype=torch.long),
        accuracies=torch.tensor(accuracies, dtype=torch.float64),
        rewards=torch.tensor(rewards or [0.0] * count, dtype=torch.float64),
    )
    found = REGISTRY.get("gate", name)(**fields).open(made)
    assert found.dtype == torch.bool
    return found.tolist()


def test_reward_opens_for_right_responses():
    assert opened("reward", [0.0, 1.0, 0.5, 0.49]) == [False, True, True, False]


def test_reward_looks_at_accuracy_not_at_the_sum_of_rewards():
    assert opened("reward", [0.0, 1.0], rewards=[0.9, -0.5]) == [False, True]


@pytest.mark.parametrize(("threshold", "right"), [(0.0, [True, True]), (1.0, [False, True])])
def test_the_threshold_is_inclusive(threshold, right):
    assert opened("reward", [0.0, 1.0], threshold=threshold) == right


def test_always_opens_for_all():
    assert opened("always", [0.0, 1.0, 0.0]) == [True, True, True]
