"""The losses as the papers write them: scalar by scalar in float64, sharing no code with vexp."""

from __future__ import annotations

import math
import statistics


def group_advantages(rewards: list[float], eps: float) -> list[float]:
    mean = sum(rewards) / len(rewards)
    return [(r - mean) / (statistics.stdev(rewards) + eps) for r in rewards]


def clip(value, low, high):
    return low if value < low else high if value > high else value


def surrogate(ratio, advantage, low, high, dual=None):
    unclipped = ratio * advantage
    clipped = clip(ratio, 1 - low, 1 + high) * advantage
    loss = -(unclipped if unclipped < clipped else clipped)
    if dual is not None and advantage < 0 and loss > -dual * advantage:
        loss = -dual * advantage
    return loss


def exp(value):
    return value.exp() if hasattr(value, "exp") else math.exp(value)


def kl3(lp, ref):
    return clip(exp(ref - lp) - (ref - lp) - 1, -10.0, 10.0)


def update_loss(name, lp, old, ref, advantages, settings, max_length):
    """The loss of one update; lp, old, ref are lists (one per response) of lists of scalars."""
    rows = range(len(lp))
    if name == "gspo":
        total = 0.0
        for i in rows:
            if not lp[i]:
                continue
            change = sum(lp[i][t] - old[i][t] for t in range(len(lp[i]))) / len(lp[i])
            s = exp(change)
            total = total + surrogate(s, advantages[i], settings.clip_low, settings.clip_high)
        return total / len(lp)
    token_losses = [
        [
            surrogate(
                exp(lp[i][t] - old[i][t]),
                advantages[i],
                settings.clip_low,
                settings.clip_high,
                settings.dual_clip,
            )
            + settings.kl_coef * kl3(lp[i][t], ref[i][t])
            for t in range(len(lp[i]))
        ]
        for i in rows
    ]
    return aggregate(token_losses, settings.aggregation, max_length)


def aggregate(token_losses, mode, max_length):
    count = sum(len(row) for row in token_losses)
    sums = [sum(row) if row else 0.0 for row in token_losses]
    if mode == "token-mean":
        return sum(sums) / max(1, count)
    if mode == "seq-mean-token-mean":
        means = [s / max(1, len(row)) for s, row in zip(sums, token_losses, strict=True)]
        return sum(means) / len(means)
    if mode == "seq-mean-token-sum":
        return sum(sums) / len(sums)
    return sum(s / max_length for s in sums) / len(sums)
