"""The attention reward against plain loops, and where it is neutral."""

from __future__ import annotations

import math

import pytest
import torch

from tests.train.fakes import experience
from vexp.diagnostics.measures import top_share
from vexp.experience.batch import ImageAttention
from vexp.registry import REGISTRY

LAYERS = 6


def term(**fields):
    return REGISTRY.get("reward", "attention")(**fields)


def made(image, evidence, *, entropy=None, lengths=None, counts=(12, 3), layer=LAYERS - 1):
    """Responses by their attention on the image and the evidence; counts may be per response."""
    image, evidence = torch.tensor(image), torch.tensor(evidence)
    rows, width = image.shape
    mask = torch.arange(width) < torch.tensor(lengths or [width] * rows)[:, None]
    tokens = [torch.as_tensor(count).expand(rows) for count in counts]
    zeros = torch.zeros(rows, width)
    attention = ImageAttention(image, evidence, zeros, zeros, *tokens)
    return experience(
        mask=mask,
        group=torch.zeros(rows, dtype=torch.long),
        entropy=zeros if entropy is None else torch.tensor(entropy),
        attention={layer: attention},
        layers=LAYERS,
    )


def random_batch(seed, rows=40, width=11):
    draw = torch.Generator().manual_seed(seed)
    image = torch.rand(rows, width, generator=draw)
    evidence = image * torch.rand(rows, width, generator=draw)
    entropy = (4 * torch.rand(rows, width, generator=draw)).round(decimals=1)  # with ties
    lengths = torch.randint(0, width + 1, (rows,), generator=draw)
    lengths[:2] = torch.tensor([0, 1])
    count = torch.randint(1, 20, (rows,), generator=draw)
    inside = (count * torch.rand(rows, generator=draw)).round().long()
    mask = torch.arange(width) < lengths[:, None]
    return made(
        image.masked_fill(~mask, 0.0).tolist(),
        evidence.masked_fill(~mask, 0.0).tolist(),
        entropy=entropy.masked_fill(~mask, 99.0).tolist(),
        lengths=lengths.tolist(),
        counts=(count, inside),
    )


def plain(batch, share, eps=1e-8):
    attention = batch.attention[LAYERS - 1]
    values = []
    for row in range(len(batch)):
        length = int(batch.mask[row].sum())
        image, evidence = int(attention.image_tokens[row]), int(attention.evidence_tokens[row])
        if not length or not evidence:
            values.append(0.0)
            continue
        entropy = batch.entropy[row].tolist()
        order = sorted(range(length), key=lambda t: (-entropy[t], t))
        chosen = order[: max(1, int(share * length))]
        a = math.fsum(float(attention.evidence[row, t]) / evidence for t in chosen) / len(chosen)
        v = math.fsum(float(attention.image[row, t]) / image for t in chosen) / len(chosen)
        values.append(math.tanh(math.log((a + eps) / (v + eps))))
    return values


@pytest.mark.parametrize("share", [0.01, 0.2, 0.3, 0.4, 0.999, 1.0])
def test_it_equals_plain_loops(share):
    for seed in range(4):
        batch = random_batch(seed)
        found = term(share=share).observed(batch)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(plain(batch, share), abs=1e-9)
        assert ((found > -1) & (found < 1)).all()
        assert (found != 0).sum() > 20


@pytest.mark.parametrize("x", [1e-6, 0.1, 0.5, 1.0, 1.5, 4.0, 1e3])
def test_the_closed_form_is_tanh_of_the_logarithm(x):
    """Twelve image tokens, one of them evidence, whose mean attention is x times the fair one."""
    image = 0.5 / max(1.0, x)
    found = float(term().observed(made([[image]], [[x * image / 12]], counts=(12, 1))))
    assert found == pytest.approx(math.tanh(math.log(x)), abs=1e-5)
    assert found == pytest.approx((x**2 - 1) / (x**2 + 1), abs=1e-5)


def test_the_sign_changes_at_the_fair_share():
    below, fair, above = (
        float(term().observed(made([[0.4]], [[value]]))) for value in (0.099, 0.1, 0.101)
    )
    assert below < -1e-3
    assert fair == pytest.approx(0, abs=1e-7)
    assert above > 1e-3


def test_a_box_around_the_whole_image_earns_nothing():
    image = [[0.3, 0.9, 0.01]]
    assert float(term().observed(made(image, image, counts=(12, 12)))) == 0


def test_all_attention_in_the_box_earns_what_its_size_allows():
    image = [[0.3, 0.9, 0.01]]
    x = 12 / 3
    expected = (x**2 - 1) / (x**2 + 1)
    assert float(term().observed(made(image, image))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("counts", [(0, 0), (12, 0)])
def test_without_an_image_or_a_box_it_is_neutral(counts):
    inside = [[0.0, 0.0]]
    image = [[0.5, 0.2]] if counts[0] else inside
    assert float(term().observed(made(image, inside, counts=counts))) == 0


def test_an_empty_response_is_neutral_and_one_token_is_enough():
    batch = made([[0.5, 0.5], [0.5, 0.5]], [[0.4, 0.4], [0.4, 0.4]], lengths=[0, 1])
    empty, one = term().observed(batch).tolist()
    assert empty == 0
    assert one == pytest.approx(math.tanh(math.log((0.4 / 3) / (0.5 / 12))), abs=1e-5)


def test_the_mean_comes_before_the_ratio():
    image, evidence = [[0.1, 0.9]], [[0.09, 0.1]]
    a, v = (0.09 + 0.1) / 2 / 3, (0.1 + 0.9) / 2 / 12
    found = float(term(share=1.0).observed(made(image, evidence)))
    assert found == pytest.approx(math.tanh(math.log(a / v)), abs=1e-6)


def test_only_the_uncertain_tokens_count_and_padding_never_does():
    image, evidence = [[0.5] * 4], [[0.1, 0.5, 0.0, 0.0]]
    entropy = [[1.0, 3.0, 2.0, 9.0]]
    found = float(term().observed(made(image, evidence, entropy=entropy, lengths=[3])))
    assert found == pytest.approx(15 / 17, abs=1e-6)


def test_it_looks_at_its_own_layer():
    early = REGISTRY.get("layer", "early")()
    batch = made([[0.5]], [[0.5]], layer=2)
    assert float(term(layer=early).observed(batch)) > 0
    with pytest.raises(KeyError):
        term().observed(batch)


def test_the_earlier_of_equal_values_is_taken():
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])
    found = top_share(values, mask, 0.5)
    assert found.tolist() == [
        [False, True, True, False, False],
        [True, True, False, False, False],
    ]


@pytest.mark.parametrize("share", [0.1, 0.29, 0.3, 0.7, 1.0])
def test_how_many_tokens_are_a_share(share):
    lengths = torch.arange(0, 121)
    mask = torch.arange(120) < lengths[:, None]
    values = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    found = top_share(values, mask, share)
    assert not (found & ~mask).any()
    expected = [min(n, max(1, int(share * n))) for n in lengths.tolist()]
    assert found.sum(1).tolist() == expected


def test_it_asks_for_what_it_reads():
    assert set(term().required()) == {"attention", "entropy", "boxes"}
    batch = made([[0.5]], [[0.5]])
    object.__setattr__(batch, "entropy", None)
    with pytest.raises(ValueError, match="entropy"):
        term().observed(batch)
