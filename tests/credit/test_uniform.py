"""Uniform credit."""

from __future__ import annotations

import torch

from tests.train.fakes import experience
from vexp.registry import REGISTRY


def test_every_token_gets_the_advantage_of_its_response():
    mask = torch.tensor([[True, True], [True, False]])
    made = experience(mask=mask, group=torch.tensor([0, 0]))
    outcome = torch.tensor([0.5, -2.0])
    found = REGISTRY.get("credit", "uniform")().advantages(outcome, made)
    assert found.tolist() == [[0.5, 0.5], [-2.0, 0.0]]
