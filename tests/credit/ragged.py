"""Random ragged batches with garbage for padding, and what a plain loop needs to walk over them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tests.train.fakes import experience
from vexp.distortion.base import Distortion
from vexp.experience.batch import Counterfactual, Experience


@dataclass(frozen=True, kw_only=True)
class Blank(Distortion):
    """Stands for any distortion: credit only looks up what was measured with it."""

    name = "blank"

    def apply(self, item, noise):
        return item


def ragged(seed, *, groups=3, size=4, width=9, lengths=None, blind=()):
    """An experience with every signal credit may ask for, and outcome advantages.

    Its first response is empty and its second has one token unless `lengths` are given; `blind`
    rows have no image. Padding is NaN.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = groups * size
    if lengths is None:
        drawn = torch.randint(1, width + 1, (rows,), generator=draw).tolist()
        lengths = [0, 1, width, *drawn][:rows]
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]

    def signal(kind):
        noise = torch.rand(rows, width, generator=draw)
        noise = {"cosine": 2 * noise - 1, "logprob": (noise + 1e-3).log(), "nats": 3 * noise}[kind]
        return noise.masked_fill(~mask, float("nan"))

    seen = torch.tensor([row not in blind for row in range(rows)])
    made = experience(
        group=torch.arange(groups).repeat_interleave(size),
        mask=mask,
        entropy=signal("nats"),
        old_logprobs=signal("logprob"),
        similarity=signal("cosine"),
        has_image=seen,
        counterfactual={Blank(): Counterfactual(signal("logprob"), signal("nats"))},
    )
    return torch.randn(rows, generator=draw, dtype=torch.float64), made


def mapped(made: Experience, change) -> Experience:
    """The experience with `change` applied to every signal and the mask."""
    measured = made.counterfactual[Blank()]
    changed = Counterfactual(change(measured.logprobs), change(measured.kl))
    names = ("mask", "tokens", "sampling_logprobs", "entropy", "old_logprobs", "similarity")
    return replace(
        made,
        counterfactual={Blank(): changed},
        **{name: change(getattr(made, name)) for name in names},
    )


def check_padding_and_order(credit, seed=5):
    """The width, the content of padding and the order of rollouts change nothing."""
    outcome, made = ragged(seed, blind=(3, 6))
    expected = credit.advantages(outcome, made)
    assert (expected[~made.mask] == 0).all()
    wide = mapped(made, lambda v: torch.nn.functional.pad(v, (0, 4), value=0))
    assert wide.mask.shape[1] == made.mask.shape[1] + 4
    found = credit.advantages(outcome, wide)
    torch.testing.assert_close(found[:, :-4], expected)
    assert (found[:, -4:] == 0).all()
    for garbage in (-7.0, 1e6):
        mess = mapped(
            made,
            lambda v, x=garbage: v.masked_fill(~made.mask, x) if v.is_floating_point() else v,
        )
        assert credit.advantages(outcome, mess).equal(expected)
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    shuffled = replace(
        mapped(made, lambda v: v[order]),
        group=made.group[order],
        has_image=made.has_image[order],
    )
    torch.testing.assert_close(credit.advantages(outcome[order], shuffled), expected[order])


def check_no_gradient(credit):
    """Signals and outcome that carry a gradient give advantages without one."""
    outcome, made = ragged(6)
    made = mapped(made, lambda v: v.clone().requires_grad_() if v.is_floating_point() else v)
    assert not credit.advantages(outcome.requires_grad_(), made).requires_grad


def rows_of(tensor, made: Experience):
    """The valid values of each response as lists of Python floats."""
    return [
        [value for value, valid in zip(row, keep, strict=True) if valid]
        for row, keep in zip(tensor.tolist(), made.mask.tolist(), strict=True)
    ]


def matches(found, expected, made: Experience):
    """Compare advantages with the lists of a plain loop."""
    assert (found[~made.mask] == 0).all()
    for row, wanted in zip(rows_of(found, made), expected, strict=True):
        assert len(row) == len(wanted)
        assert all(abs(a - b) <= 1e-11 for a, b in zip(row, wanted, strict=True)), (row, wanted)
