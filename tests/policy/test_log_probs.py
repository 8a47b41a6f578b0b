"""The one distribution, against plain formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from vexp.policy.log_probs import entropy, log_distribution, log_probs_of

LOGITS = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 0.0, 0.0, 0.0], [80.0, -80.0, 0.0, 1.0]])
BANNED = torch.tensor([False, False, False, True])


def plain(logits: list[float], temperature: float) -> list[float]:
    """Log-probs of the tokens that are not banned, by the definition."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    return [math.log(w / sum(weights)) if w else -math.inf for w in weights]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.0])
def test_it_is_the_softmax_of_the_allowed_tokens(temperature):
    found = log_distribution(LOGITS, BANNED, temperature)
    for row, logits in zip(found, LOGITS.tolist(), strict=True):
        assert row[3] == -math.inf
        expected = torch.tensor(plain(logits[:3], temperature), dtype=torch.float64)
        torch.testing.assert_close(row[:3].double(), expected, atol=2e-5, rtol=1e-6)
        assert float(row.double().exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_half_precision_logits_are_scored_in_float32():
    found = log_distribution(LOGITS.bfloat16(), BANNED, 1.0)
    assert found.dtype == torch.float32


def test_log_probs_of_picks_the_given_tokens():
    distribution = log_distribution(LOGITS, BANNED, 1.0)
    tokens = torch.tensor([2, 0, 1])
    expected = [distribution[row, token].item() for row, token in enumerate(tokens)]
    assert log_probs_of(distribution, tokens).tolist() == expected


def test_entropy_is_exact_and_ignores_banned_tokens():
    found = entropy(log_distribution(LOGITS, BANNED, 0.7))
    for value, logits in zip(found.tolist(), LOGITS.tolist(), strict=True):
        logs = plain(logits[:3], 0.7)
        expected = -sum(math.exp(log) * log for log in logs if log > -math.inf)
        assert value == pytest.approx(expected, abs=1e-5)
    assert found[1].item() == pytest.approx(math.log(3))


def test_gradients_are_finite_and_zero_at_banned_tokens():
    logits = LOGITS.clone().requires_grad_()
    distribution = log_distribution(logits, BANNED, 0.7)
    (
        log_probs_of(distribution, torch.tensor([0, 1, 2])).sum() + entropy(distribution).sum()
    ).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 3] == 0).all()
    assert (logits.grad[:2, :3] != 0).any()


def test_the_gradient_of_the_entropy_is_that_of_its_formula():
    logits = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    banned = torch.tensor([False] * 5 + [True])
    ours = torch.autograd.grad(entropy(log_distribution(logits, banned, 0.7)).sum(), logits)[0]
    kept = logits[:, :5] / 0.7
    p = kept.softmax(-1)
    theirs = torch.autograd.grad(-(p * p.log()).sum(), logits)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
