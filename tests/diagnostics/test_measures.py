"""What responses show about seeing, against plain loops over lists."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from vexp.diagnostics import measures
from vexp.experience.evidence import token_mask, token_masks

NUMBERS = st.floats(-1e3, 1e3, width=32)
SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[0] < s[1])
BOX = st.tuples(SIDE, SIDE).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


def pooled_of(seed, tokens):
    """Attention that sums to 1, as the experience pass pools it: float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, generator=generator).mul(2).softmax(0)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def defined(value):
    """The one number of a batch of one response; None where it is not defined."""
    assert value.shape == (1,)
    return None if math.isnan(value.item()) else value.item()


def one(function, *values, **options):
    """A function of batches for one response that fills its row, between two that do not count."""
    rows = []
    for value in values:
        if value.dtype == torch.bool:
            other = torch.zeros_like(value)
        else:
            other = torch.full_like(value, 7 if value.is_floating_point() else 1)
        padding = torch.stack([other, value, other])
        rows.append(padding)
    return defined(function(*rows, **options)[1:2])


def masked(function, *values):
    """The same for functions of tokens, with padding after the response."""
    count = len(values[0])
    mask = torch.arange(count + 2) < count
    padded = [torch.cat([value, torch.full((2,), 99.0, dtype=value.dtype)]) for value in values]
    return one(function, *padded, mask)


def covering(pooled, boxes, kappa=1.0):
    padded = torch.cat([boxes, torch.zeros(2, len(pooled), dtype=torch.bool)])
    return one(measures.coverage, pooled, padded, torch.tensor(len(pooled)), kappa=kappa)


@st.composite
def attention_and_boxes(draw, least=1):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    boxes = draw(st.lists(BOX, min_size=least, max_size=4))
    return pooled_of(draw(st.integers(0, 99)), rows * columns), boxes, (rows, columns)


def inside(box, grid):
    """Tokens of one box, as a set of indices."""
    rows, columns = grid
    x1, y1, x2, y2 = box
    found = {
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if x1 <= (c + 0.5) / columns < x2 and y1 <= (r + 0.5) / rows < y2
    }
    if not found:
        row = min(rows - 1, int((y1 + y2) / 2 * rows))
        found = {row * columns + min(columns - 1, int((x1 + x2) / 2 * columns))}
    return found


@given(attention_and_boxes())
def test_mass_and_pointing(case):
    pooled, boxes, grid = case
    mask = token_mask(boxes, grid)
    union = set().union(*(inside(box, grid) for box in boxes))
    values = [float(value) for value in pooled]
    expected = sum(values[v] for v in union) / sum(values)
    assert one(measures.evidence_mass, pooled, mask) == pytest.approx(expected, abs=1e-12)
    assert 0 <= one(measures.evidence_mass, pooled, mask) <= 1
    peak = max(range(len(values)), key=lambda v: (values[v], -v))
    assert one(measures.pointing, pooled, mask) == float(peak in union)


@given(attention_and_boxes(least=2), st.sampled_from([0.5, 1.0, 2.0]))
def test_coverage(case, kappa):
    pooled, boxes, grid = case
    values = [float(value) for value in pooled]
    covered = []
    for box in boxes:
        tokens = inside(box, grid)
        least = kappa * len(tokens) / len(values)
        mass = sum(values[v] for v in tokens) / sum(values)
        assume(abs(mass - least) > 1e-5 or len(tokens) == len(values))
        covered.append(mass >= least - 1e-6)
    found = covering(pooled, token_masks(boxes, grid), kappa)
    assert found == pytest.approx(sum(covered) / len(covered))


def test_coverage_is_for_several_boxes():
    pooled = pooled_of(0, 4)
    assert covering(pooled, torch.ones(1, 4, dtype=torch.bool)) is None
    assert covering(pooled, torch.ones(0, 4, dtype=torch.bool)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_box_around_the_whole_image_has_all_attention(seed):
    whole = (0.0, 0.0, 1.0, 1.0)
    pooled, masks = pooled_of(seed, 35), token_masks([whole, whole], (5, 7))
    assert one(measures.evidence_mass, pooled, masks[0]) == pytest.approx(1, abs=1e-12)
    assert one(measures.pointing, pooled, masks[0]) == 1
    assert covering(pooled, masks) == 1


def test_uniform_attention_covers_every_box():
    boxes = [(0.0, 0.0, 0.3, 0.4), (0.5, 0.1, 0.9, 0.8), (0.2, 0.2, 0.21, 0.21)]
    uniform = torch.full((63,), 1 / 63)
    assert covering(uniform, token_masks(boxes, (7, 9))) == 1
    assert covering(uniform, token_masks(boxes, (7, 9)), 1.1) == 0


def test_of_equal_peaks_the_first_points():
    pooled = torch.tensor([0.1, 0.4, 0.1, 0.4])
    first, second = (torch.arange(4) == place for place in (1, 3))
    assert one(measures.pointing, pooled, first) == 1
    assert one(measures.pointing, pooled, second) == 0
    assert one(measures.pointing, torch.full((500,), 0.002), torch.arange(500) == 0) == 1


def test_no_evidence_has_no_attention():
    nothing = torch.zeros(9, dtype=torch.bool)
    assert one(measures.evidence_mass, pooled_of(1, 9), nothing) == 0
    assert one(measures.pointing, pooled_of(1, 9), nothing) == 0


@given(st.integers(0, 99), st.integers(1, 30))
def test_target_divergence(seed, tokens):
    model, target = pooled_of(seed, tokens), pooled_of(seed + 100, tokens)
    total = sum(map(float, model))
    terms = [
        p / total * math.log(p / total / q)
        for p, q in zip(map(float, model), map(float, target), strict=True)
    ]
    found = one(measures.target_divergence, model, target)
    assert found == pytest.approx(max(0, math.fsum(terms)), abs=1e-6)
    assert 0 <= one(measures.target_divergence, model, model) < 1e-6


def test_target_divergence_has_its_direction_and_stays_finite():
    model, target = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert one(measures.target_divergence, model, target) == pytest.approx(math.log(2))
    floored = one(measures.target_divergence, target, model)
    assert floored == pytest.approx(-math.log(2) + 0.5 * math.log(1e8))


@given(st.lists(st.floats(0, 1, width=32), max_size=12))
def test_late_over_early(values):
    found = masked(measures.late_over_early, torch.tensor(values))
    count = len(values)
    if count < 2:
        assert found is None
        return
    late = math.fsum(x for t, x in enumerate(values, start=1) if t > count / 2)
    early = math.fsum(x for t, x in enumerate(values, start=1) if t <= count / 2)
    assert found == pytest.approx(late / (early + 1e-8), rel=1e-9)


def test_a_middle_token_is_late():
    assert masked(measures.late_over_early, torch.tensor([1.0, 2.0, 4.0])) == pytest.approx(6)


@given(st.lists(st.tuples(st.floats(0, 9, width=32), st.floats(-1, 1, width=32)), max_size=12))
def test_grounded_tokens(tokens):
    entropy, score = [t[0] for t in tokens], [t[1] for t in tokens]
    found = grounded(torch.tensor(entropy), tensor(score))
    inner = [h for h, w in tokens if w > 0.2]
    outer = [h for h, w in tokens if not w > 0.2]
    share = pytest.approx(len(inner) / len(tokens)) if tokens else None
    means = [pytest.approx(statistics.fmean(part)) if part else None for part in (inner, outer)]
    gap = None
    if inner and outer:
        gap = pytest.approx(statistics.fmean(inner) - statistics.fmean(outer), abs=1e-9)
    assert found == [share, *means, gap]


def grounded(entropy, score):
    names = ("share", "entropy", "other_entropy", "gap")
    return [
        masked(lambda *a, n=name: getattr(measures.grounded(*a), n), entropy, score)
        for name in names
    ]


def test_a_token_at_the_threshold_is_not_grounded():
    found = grounded(torch.tensor([1.0, 3.0]), tensor([0.2, 0.2000001]))
    assert found == [0.5, 3.0, 1.0, 2.0]


@given(st.lists(st.integers(-4, 4), max_size=12))
def test_late_and_early_shares_of_the_most_focused_tokens(values):
    focus = [float(value) for value in values]
    count = len(values)
    late, early = (
        masked(lambda *a, k=k: measures.focused_late_and_early(*a)[k], torch.tensor(focus))
        for k in (0, 1)
    )
    if count < 2:
        assert late is None and early is None
        return
    marked = sorted(range(count), key=lambda t: (-focus[t], t))[: max(1, int(0.4 * count))]
    assert early == pytest.approx(sum(t + 1 <= count / 2 for t in marked) / count)
    assert late == pytest.approx(sum(t + 1 > count / 2 for t in marked) / count)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=9),
    st.integers(1, 30),
    st.integers(0, 30),
)
def test_sayos_scores(tokens, cells, inside):
    inside = min(inside, cells)
    image = [v for v, _, _ in tokens]
    evidence = [v * part for v, part, _ in tokens]
    chosen = [pick for _, _, pick in tokens]

    def score(of, rows):
        fixed = [torch.tensor(cells), torch.tensor(inside)]
        return one(
            of, tensor(image), tensor(evidence), *fixed, torch.tensor(rows, dtype=torch.bool)
        )

    def x(a, v):
        return (a / inside + 1e-8) / (v / cells + 1e-8)

    ratio = score(measures.attention_ratio, chosen)
    picked = [t for t, pick in enumerate(chosen) if pick]
    if not inside or not picked:
        assert ratio is None
    else:
        a, v = (statistics.fmean(values[t] for t in picked) for values in (evidence, image))
        assert ratio == pytest.approx(math.tanh(math.log(x(a, v))), abs=1e-9)
    tas = score(measures.target_attention, [True] * len(tokens))
    if not inside or not tokens:
        assert tas is None
    else:
        pairs = zip(evidence, image, strict=True)
        each = [0.5 * (1 + math.tanh(math.log(x(a, v)))) for a, v in pairs]
        assert tas == pytest.approx(statistics.fmean(each), abs=1e-9)


def test_uniform_attention_has_no_preference():
    image = torch.full((1, 3), 0.6)
    counts = torch.tensor([4]), torch.tensor([1])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert measures.target_attention(image, image / 4, *counts, mask).item() == 0.5
    assert measures.attention_ratio(image, image / 4, *counts, mask).item() == 0.0


@pytest.mark.parametrize(("values", "mean"), [([1.0, float("nan"), 3.0], 2.0), ([], None)])
def test_the_mean_leaves_out_what_is_not_defined(values, mean):
    assert measures.mean_of_defined(tensor(values)) == mean
    assert measures.mean_of_defined(tensor([*values, float("nan")])) == mean


def plain_correlation(left, right):
    x, y = ([v - statistics.fmean(values) for v in values] for values in (left, right))
    scale = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / scale


def pearson(left, right):
    return masked(measures.pearson, left, right)


def ranks(values):
    """From 1; equal values get the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), max_size=12))
def test_correlations(pairs):
    left, right = [float(p[0]) for p in pairs], [float(p[1]) for p in pairs]
    constant = len(set(left)) < 2 or len(set(right)) < 2
    for found, x, y in (
        (pearson(torch.tensor(left), torch.tensor(right)), left, right),
        (measures.spearman(torch.tensor(left), torch.tensor(right)), ranks(left), ranks(right)),
    ):
        assert found == (None if constant else pytest.approx(plain_correlation(x, y), abs=1e-9))


@given(st.lists(NUMBERS, min_size=2, max_size=12))
def test_a_correlation_is_in_range_or_undefined(values):
    forth = torch.tensor(values)
    for correlation in (pearson, measures.spearman):
        found = correlation(forth, forth)
        assert found is None or found == pytest.approx(1)
        found = correlation(forth, -forth)
        assert found is None or found == pytest.approx(-1)
        assert correlation(forth, torch.full_like(forth, 0.1)) is None


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_a_correlation_has_no_scale(scale):
    left, right = tensor([1.0, 2.0, 4.0]), tensor([3.0, 1.0, 2.0])
    assert pearson(left * scale, right) == pytest.approx(pearson(left, right))


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 6))
def test_bins_have_equal_counts_and_are_ordered(values, count):
    found = measures.quantile_bins(tensor([float(v) for v in values]), count)
    if len(values) < count:
        assert found == []
        return
    expected = sorted(range(len(values)), key=lambda index: values[index])
    assert torch.cat(found).tolist() == expected
    sizes = [len(members) for members in found]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def batch_of(*values):
    """One response between an empty one and nothing else, with a gap and padding of its own."""
    count = len(values[0])
    mask = torch.zeros(2, count + 3, dtype=torch.bool)
    mask[0, 1 : count + 1] = True
    rows = []
    for each in values:
        row = torch.full((2, count + 3), 77.0, dtype=torch.float64)
        row[0, 1 : count + 1] = tensor(each)
        rows.append(row)
    return (*rows, mask)


def plain_parts(values, points):
    """Every token `points` times; then as many parts, each with one copy per token."""
    copies = [value for value in values for _ in range(points)]
    n = len(values)
    return [statistics.fmean(copies[part * n : (part + 1) * n]) for part in range(points)]


RESPONSE = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 5)), min_size=1, max_size=17)


@given(RESPONSE, st.integers(1, 12))
def test_curves_over_position_and_over_entropy(tokens, points):
    values, entropy = (list(side) for side in zip(*tokens, strict=True))
    shares, by, mask = batch_of(values, entropy)
    found = measures.over_position(shares, mask, points)
    assert found[0].tolist() == pytest.approx(plain_parts(values, points), abs=1e-9)
    assert float(found[0].mean()) == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert bool(found[1].isnan().all())
    ordered = [value for _, value in sorted(zip(entropy, values, strict=True), key=lambda p: p[0])]
    ranked = measures.over_rank(shares, by, mask, points)
    assert ranked[0].tolist() == pytest.approx(plain_parts(ordered, points), abs=1e-9)


@given(RESPONSE)
def test_scores_below_a_value_and_the_overlap_with_high_entropy(tokens):
    scores, entropy = (list(side) for side in zip(*tokens, strict=True))
    score, uncertainty, mask = batch_of(scores, entropy)
    at = (-0.5, 0.0, 0.2, 1.0)
    found = measures.distribution_function(score, mask, at)
    assert found[0].tolist() == [sum(w <= x for w in scores) / len(scores) for x in at]
    assert bool(found[1].isnan().all())
    count = max(1, int(0.2 * len(scores)))
    order = sorted(range(len(scores)), key=lambda t: -entropy[t])
    high, grounded = set(order[:count]), {t for t, w in enumerate(scores) if w > 0.2}
    both = measures.overlap(uncertainty, score, mask)
    assert float(both.of_uncertain[0]) == len(high & grounded) / len(high)
    share = defined(both.of_grounded[:1])
    assert share == (pytest.approx(len(high & grounded) / len(grounded)) if grounded else None)
