"""What responses show about seeing: where they look, when, and which tokens depend on the image.

Pure functions of batches, in double precision, one value per response. What is not defined is NaN,
never 0: an average leaves it out (`mean_of_defined`). What lies outside a mask never takes part.
Papers: EASE (attention on evidence), SAYO (attention ratio), VICRA (grounded tokens), VGPO (visual
attention over a response).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

GROUNDED = 0.2  # a token whose probability the image raises by more is grounded (VICRA, sec. 3.2)
FOCUSED = 0.4  # share of a response's tokens that VGPO's released metric marks
KEY_TOKENS = 0.3  # share of a response's tokens that SAYO rewards, by entropy
HIGH_ENTROPY = 0.2  # share of forking tokens (Wang et al. 2025); VICRA's figure 5 states none
ROUNDING = 1e-6  # pooled attention is a sum of float32 numbers
EPS = 1e-8  # added to the denominator of late over early, and to both sides of SAYO's ratio
NAN = float("nan")


def evidence_mass(pooled: Tensor, evidence: Tensor) -> Tensor:  # [rollout]
    """Share of the attention on the image that is on evidence, in [0, 1]: EASE, figure 5.

    `pooled` [rollout, image token] is attention conditional on the image, mean over a response's
    tokens; `evidence` [rollout, image token] bool. NaN without attention to share out.
    """
    return (_distribution(pooled) * evidence).sum(dim=1).clamp(max=1.0)


def pointing(pooled: Tensor, evidence: Tensor) -> Tensor:  # [rollout]
    """1 if the image token with most attention (the first of equal ones) is evidence, otherwise 0.

    EASE's pointing accuracy is the mean over responses. Arguments as of `evidence_mass`.
    """
    peaks = (pooled == pooled.amax(dim=1, keepdim=True)).int()
    first = peaks.cumsum(dim=1).mul(peaks) == 1
    hit = (first & evidence).any(dim=1).double()
    return hit.masked_fill(pooled.sum(dim=1) <= 0, NAN)


def coverage(
    pooled: Tensor, boxes: Tensor, image_tokens: Tensor, kappa: float = 1.0
) -> Tensor:  # [rollout]
    """Share of the boxes with at least `kappa` times the attention that uniform attention gives.

    EASE's multi-evidence coverage: box k of K is covered if m_k >= kappa b_k, with m_k its part of
    `pooled` [rollout, image token] and b_k its part of the `image_tokens` [rollout]; `boxes`
    [rollout, box, image token] bool, all false where there is no box. NaN for fewer than two boxes.
    The paper's kappa is not known.
    """
    real = boxes.any(dim=2)
    attention = (boxes * _distribution(pooled).unsqueeze(1)).sum(dim=2)
    area = boxes.sum(dim=2) / image_tokens.clamp(min=1).unsqueeze(1).double()
    covered = real & (attention >= kappa * area - ROUNDING)
    count = real.sum(dim=1)
    return (covered.sum(dim=1) / count.clamp(min=1).double()).masked_fill(count < 2, NAN)


def target_divergence(pooled: Tensor, target: Tensor, floor: float = 1e-8) -> Tensor:  # [rollout]
    """KL(pooled || target) in nats over image tokens, both [rollout, image token]: EASE, figure 3.

    From model to target, as EASE's loss; `floor` is the least target inside the logarithm.
    """
    model = _distribution(pooled)
    goal = target.double().clamp(min=floor)
    return (model.xlogy(model) - model * goal.log()).sum(dim=1).clamp(min=0.0)


def attention_ratio(
    image: Tensor,
    evidence: Tensor,
    image_tokens: Tensor,
    evidence_tokens: Tensor,
    chosen: Tensor,
    eps: float = EPS,
) -> Tensor:  # [rollout]
    """SAYO's r_v = tanh(log((a_q + eps) / (v_q + eps))) in (-1, 1); 0 is evidence's fair share.

    a_q and v_q are the attention on an evidence token and on any image token, means over the
    `chosen` tokens [rollout, token] of a response; the ratio comes after the mean. `image` and
    `evidence` [rollout, token] are shares of all attention, summed over image tokens and over
    evidence tokens, of which there are `image_tokens` and `evidence_tokens` [rollout]. NaN without
    evidence or chosen tokens.
    """
    count = chosen.sum(dim=1)
    sums = [(values.double() * chosen).sum(dim=1) / count for values in (image, evidence)]
    x = _per_cell(sums[0], sums[1], image_tokens, evidence_tokens, eps)
    return ((x.square() - 1) / (x.square() + 1)).masked_fill((evidence_tokens == 0), NAN)


def target_attention(
    image: Tensor,
    evidence: Tensor,
    image_tokens: Tensor,
    evidence_tokens: Tensor,
    mask: Tensor,
    eps: float = EPS,
) -> Tensor:  # [rollout]
    """SAYO's target attention score (TAS) in (0, 1), mean over tokens; 0.5 is no preference.

    R_a[t] = (1 + tanh(log((a[t] + eps) / (v[t] + eps)))) / 2. Arguments as of `attention_ratio`.
    """
    counts = image_tokens.unsqueeze(1), evidence_tokens.unsqueeze(1)
    x = _per_cell(image.double(), evidence.double(), *counts, eps)
    scores = x.square() / (1 + x.square())
    return token_mean(scores, mask).masked_fill(evidence_tokens == 0, NAN)


def late_over_early(image: Tensor, mask: Tensor) -> Tensor:  # [rollout]
    """Visual attention of a response's second half over that of its first: VGPO, figures 2c and 5.

    sum over t > n/2 of x[t] / (sum over t <= n/2 of x[t] + 1e-8), t = 1 ... n, for the attention on
    image tokens `image` [rollout, token]. A middle token is late. NaN for fewer than two tokens.
    """
    early = _early(mask)
    attention = image.double()
    late, first = ((attention * part).sum(dim=1) for part in (mask & ~early, early))
    return (late / (first + EPS)).masked_fill(mask.sum(dim=1) < 2, NAN)


def focused_late_and_early(
    focus: Tensor, mask: Tensor, share: float = FOCUSED
) -> tuple[Tensor, Tensor]:  # [rollout], [rollout]
    """Shares of a response that are focused tokens of its second half, and of its first half.

    Focused are the `share` of its tokens with the largest `focus` [rollout, token]. VGPO's released
    code logs, as the late/early visual ratio, the mean of the first over responses divided by the
    mean of the second; a single response may have none in its first half. NaN for fewer than two
    tokens.
    """
    early, marked = _early(mask), top_share(focus, mask, share)
    length = mask.sum(dim=1)
    late, first = (
        ((marked & part).sum(dim=1).double() / length).masked_fill(length < 2, NAN)
        for part in (~early, early)
    )
    return late, first


@dataclass(frozen=True)
class Grounded:
    """Tokens that the image makes likelier, and all others; NaN where there are none of a kind."""

    share: Tensor  # [rollout] of the tokens are grounded
    entropy: Tensor  # [rollout] mean over grounded tokens, in nats
    other_entropy: Tensor  # [rollout] mean over the other tokens, in nats

    @property
    def gap(self) -> Tensor:  # [rollout]
        """Entropy of grounded tokens minus that of the others."""
        return self.entropy - self.other_entropy


def grounded(entropy: Tensor, score: Tensor, mask: Tensor, threshold: float = GROUNDED) -> Grounded:
    """Entropy of grounded and of other tokens: VICRA, figures 2 and 4, table 4.

    `score` [rollout, token] is p(o_t | image) - p(o_t | distorted image); a token is grounded if it
    exceeds `threshold`.
    """
    chosen = mask & (score > threshold)
    return Grounded(
        share=token_mean(chosen, mask),
        entropy=token_mean(entropy, chosen),
        other_entropy=token_mean(entropy, mask & ~chosen),
    )


@dataclass(frozen=True)
class Overlap:
    """Tokens that are grounded and tokens of high entropy; NaN where there are none of a kind."""

    of_grounded: Tensor  # [rollout] share of the grounded tokens that have high entropy
    of_uncertain: Tensor  # [rollout] share of the tokens of high entropy that are grounded


def overlap(
    entropy: Tensor,
    score: Tensor,
    mask: Tensor,
    threshold: float = GROUNDED,
    share: float = HIGH_ENTROPY,
) -> Overlap:
    """How far grounded tokens are the `share` of a response with most entropy: VICRA, figure 5.

    Arguments as of `grounded`.
    """
    chosen, uncertain = mask & (score > threshold), top_share(entropy, mask, share)
    return Overlap(token_mean(uncertain, chosen), token_mean(chosen, uncertain))


def distribution_function(
    score: Tensor, mask: Tensor, at: Sequence[float]
) -> Tensor:  # [rollout, point]
    """Share of a response's tokens whose `score` [rollout, token] is at most each of `at`.

    VICRA, figure 5, is the same over the tokens of all responses together. NaN for an empty one.
    """
    return torch.stack([token_mean(score.double() <= x, mask) for x in at], dim=1)


def over_position(values: Tensor, mask: Tensor, points: int) -> Tensor:  # [rollout, point]
    """Mean of `values` [rollout, token] in each of `points` equal parts of a response, in order.

    A token that reaches over the border of two parts counts in both, by its share of each; so a
    response of any length has all parts, and their mean is the mean over its tokens. VGPO, figures
    2 and 6; SAYO, figures 4, 6 and 7. NaN for an empty response.
    """
    end, length = mask.cumsum(dim=1).double(), mask.sum(dim=1, keepdim=True).double()
    borders = length * torch.arange(points + 1, device=mask.device) / points
    upper = torch.minimum(end.unsqueeze(2), borders[:, None, 1:])
    lower = torch.maximum(end.unsqueeze(2) - 1, borders[:, None, :-1])
    weights = (upper - lower).clamp(min=0.0) * mask.unsqueeze(2)
    exact = values.double().masked_fill(~mask, 0.0).unsqueeze(2)
    return (exact * weights).sum(dim=1) / (length / points)


def over_rank(values: Tensor, by: Tensor, mask: Tensor, points: int) -> Tensor:  # [rollout, point]
    """The same over the tokens of a response in the order of `by` [rollout, token], from low on.

    SAYO, figures 4, 6 and 7, over entropy. Equal ones keep their order.
    """
    order = by.double().masked_fill(~mask, float("inf")).argsort(dim=1, stable=True)
    return over_position(values.gather(1, order), mask.gather(1, order), points)


def pearson(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:  # [rollout]
    """Pearson's correlation of two sequences [rollout, token]: VGPO, appendix C, focus and image.

    NaN where one of them is constant, as a sequence of fewer than two tokens is.
    """
    product = _standardised(left, mask) * _standardised(right, mask)
    return product.sum(dim=1).clamp(-1.0, 1.0)


def spearman(left: Tensor, right: Tensor) -> float | None:
    """Rank correlation of two sequences [n]; equal values share their mean rank.

    None where one of them is constant. EASE correlates the divergence from the target with the
    0/1 outcome, over examples.
    """
    if any(len(values) < 2 or bool((values == values[0]).all()) for values in (left, right)):
        return None
    found = stats.spearmanr(left.double().numpy(), right.double().numpy())
    return min(1.0, max(-1.0, float(found.statistic)))


def quantile_bins(values: Tensor, bins: int) -> list[Tensor]:  # of int64 [members]
    """Indices of the values [n] from low to high, in bins whose sizes differ by at most one.

    Equal values keep their order. Without a value for each bin there are no bins.
    """
    if len(values) < bins:
        return []
    return list(values.argsort(stable=True).tensor_split(bins))


def top_share(values: Tensor, mask: Tensor, share: float) -> Tensor:  # [rollout, token] bool
    """The largest max(1, floor(share * n)) of each row's n valid values; the earlier wins a tie."""
    lengths = mask.sum(dim=1, keepdim=True)
    count = (share * lengths.double()).floor().clamp(min=1)
    low = values.masked_fill(~mask, float("-inf"))
    rank = low.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return mask & (rank < count)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:  # [rollout]
    """Mean over the masked tokens [rollout, token] of each response; NaN without any."""
    return values.double().masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)


def mean_of_defined(values: Tensor) -> float | None:
    """Mean of the values [n] that are not NaN; None if there are none."""
    known = values[~values.isnan()]
    return float(known.double().mean()) if len(known) else None


def _per_cell(
    image: Tensor, evidence: Tensor, image_tokens: Tensor, evidence_tokens: Tensor, eps: float
) -> Tensor:
    """Attention on an evidence token over that on any image token."""
    return (evidence / evidence_tokens.clamp(min=1) + eps) / (
        image / image_tokens.clamp(min=1) + eps
    )


def _early(mask: Tensor) -> Tensor:  # [rollout, token] bool
    """Tokens t <= n/2 of each response, t = 1 ... n."""
    return mask & (2 * mask.cumsum(dim=1) <= mask.sum(dim=1, keepdim=True))


def _distribution(pooled: Tensor) -> Tensor:  # [rollout, image token]
    exact = pooled.double()
    return exact / exact.sum(dim=1, keepdim=True)


def _standardised(values: Tensor, mask: Tensor) -> Tensor:  # [rollout, token]
    """Centred, of length 1; NaN if constant. Scaled first: no square under- or overflows."""
    exact = values.double().masked_fill(~mask, 0.0)
    low = exact.masked_fill(~mask, float("inf")).amin(dim=1, keepdim=True)
    high = exact.masked_fill(~mask, float("-inf")).amax(dim=1, keepdim=True)
    scaled = exact / exact.abs().amax(dim=1, keepdim=True)
    count = mask.sum(dim=1, keepdim=True)
    centred = (scaled - scaled.sum(dim=1, keepdim=True) / count).masked_fill(~mask, 0.0)
    centred = centred / centred.abs().amax(dim=1, keepdim=True)
    normed: Tensor = centred / centred.square().sum(dim=1, keepdim=True).sqrt()
    return normed.masked_fill(low >= high, NAN)
