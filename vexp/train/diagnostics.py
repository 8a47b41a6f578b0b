"""What one response shows about seeing: where it looks, when, and which tokens depend on the image.

Pure functions of one response's tensors, in double precision. What is not defined is None, never 0.
Papers: EASE (attention on evidence), VICRA (grounded tokens), VGPO (visual attention over a
response).
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats
from torch import Tensor

GROUNDED = 0.2  # a token whose probability the image raises by more is grounded (VICRA, sec. 3.2)
BINS = 5  # of equal count; EASE does not state how many its figure 3 has
ROUNDING = 1e-6  # pooled attention is a sum of float32 numbers
EPS = 1e-8  # added to the denominator of late over early


def evidence_mass(pooled: Tensor, evidence: Tensor) -> float:
    """Share of the attention on the image that is on evidence, in [0, 1]: EASE, figure 5.

    `pooled` [image token] is attention conditional on the image, mean over a response's tokens;
    `evidence` [image token] bool.
    """
    return min(1.0, float(_distribution(pooled)[evidence].sum()))


def pointing(pooled: Tensor, evidence: Tensor) -> float:
    """1 if the image token with most attention (the first of equal ones) is evidence, otherwise 0.

    EASE's pointing accuracy is the mean over responses. Arguments as of `evidence_mass`.
    """
    return float(evidence[int(pooled.argmax())])


def coverage(pooled: Tensor, boxes: Tensor, kappa: float = 1.0) -> float | None:
    """Share of the boxes with at least `kappa` times the attention that uniform attention gives.

    EASE's multi-evidence coverage: box k of K is covered if m_k >= kappa b_k, with m_k its part of
    `pooled` [image token] and b_k its part of the image; `boxes` [box, image token] bool. None for
    fewer than two boxes. The paper's kappa is not known.
    """
    if len(boxes) < 2:
        return None
    attention = boxes.double() @ _distribution(pooled)
    area = boxes.double().mean(dim=1)
    return float((attention >= kappa * area - ROUNDING).double().mean())


def target_divergence(pooled: Tensor, target: Tensor, floor: float = 1e-8) -> float:
    """KL(pooled || target) in nats over one image's tokens [image token]: EASE, figure 3.

    From model to target, as EASE's loss; `floor` is the least target inside the logarithm.
    """
    model = _distribution(pooled)
    goal = target.double().clamp(min=floor)
    return max(0.0, float((model.xlogy(model) - model * goal.log()).sum()))


def late_over_early(image: Tensor) -> float | None:
    """Visual attention of a response's second half over that of its first: VGPO, figures 2c and 5.

    sum over t > n/2 of x[t] / (sum over t <= n/2 of x[t] + 1e-8), t = 1 ... n, for the attention on
    image tokens `image` [token]. A middle token is late. None for fewer than two tokens.
    """
    if len(image) < 2:
        return None
    first = len(image) // 2
    attention = image.double()
    return float(attention[first:].sum() / (attention[:first].sum() + EPS))


@dataclass(frozen=True)
class Grounded:
    """Tokens that the image makes likelier, and all others; None where there are none of a kind."""

    share: float  # of the tokens are grounded
    entropy: float | None  # mean over grounded tokens, in nats
    other_entropy: float | None  # mean over the other tokens, in nats

    @property
    def gap(self) -> float | None:
        """Entropy of grounded tokens minus that of the others."""
        if self.entropy is None or self.other_entropy is None:
            return None
        return self.entropy - self.other_entropy


def grounded(
    entropy: Tensor, score: Tensor, threshold: float = GROUNDED
) -> Grounded | None:  # of [token], [token]
    """Entropy of grounded and of other tokens: VICRA, figures 2 and 4, table 4.

    `score` [token] is p(o_t | image) - p(o_t | distorted image); a token is grounded if it exceeds
    `threshold`. None for an empty response.
    """
    if not len(entropy):
        return None
    chosen = score > threshold
    return Grounded(
        share=float(chosen.double().mean()),
        entropy=_mean(entropy[chosen]),
        other_entropy=_mean(entropy[~chosen]),
    )


def pearson(left: Tensor, right: Tensor) -> float | None:
    """Pearson's correlation of two sequences [token]: VGPO, appendix C, focus and image attention.

    None where one of them is constant, as a sequence of fewer than two tokens is.
    """
    x, y = _standardised(left), _standardised(right)
    return None if x is None or y is None else min(1.0, max(-1.0, float(x @ y)))


def spearman(left: Tensor, right: Tensor) -> float | None:
    """Rank correlation of two sequences [n]; equal values share their mean rank.

    None where one of them is constant. EASE correlates the divergence from the target with the
    0/1 outcome, over examples.
    """
    if _constant(left) or _constant(right):
        return None
    found = stats.spearmanr(left.double().numpy(), right.double().numpy())
    return min(1.0, max(-1.0, float(found.statistic)))


def quantile_bins(values: Tensor, bins: int = BINS) -> list[Tensor]:  # of int64 [members]
    """Indices of the values [n] from low to high, in bins whose sizes differ by at most one.

    Equal values keep their order. Without a value for each bin there are no bins.
    """
    if len(values) < bins:
        return []
    return list(values.argsort(stable=True).tensor_split(bins))


def _distribution(pooled: Tensor) -> Tensor:
    exact = pooled.double()
    return exact / exact.sum()


def _constant(values: Tensor) -> bool:
    return len(values) < 2 or bool((values == values[0]).all())


def _standardised(values: Tensor) -> Tensor | None:
    """Centred, of length 1; scaled first, so that no square under- or overflows."""
    if _constant(values):
        return None
    exact = values.double()
    scaled = exact / exact.abs().max()
    centred = scaled - scaled.mean()
    largest = centred.abs().max()
    return centred / largest / (centred / largest).norm() if largest > 0 else None


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
