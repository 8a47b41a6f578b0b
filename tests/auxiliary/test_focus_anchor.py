"""The anchor of the focus token: against plain loops, its gradient, and in a real policy."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.auxiliary.batches import (
    BLIND,
    FOCUS_ID,
    batch,
    logits_of,
    loss_of,
    output_of,
    uniform,
)  # fmt: skip
from tests.layouts import grid_of, layouts
from tests.tiny import PROMPT, fresh_policy, item
from vexp.experience.batch import Experience, forward
from vexp.policy.policy import Reading
from vexp.probe.attention import Probe
from vexp.registry import REGISTRY

LAYER = 4  # two thirds of the batches' six
ROWS = 15
NO_BOX = 4  # the prompt whose image has no box


def get(kind, name, **fields):
    return REGISTRY.get(kind, name)(**fields)


def anchor(**fields):
    return get("auxiliary", "focus_anchor", **fields)


def plain_target(target, boxes, grid):
    """Where attention should go, token by token, from the formulas of EASE's section 3."""
    rows, columns = grid
    tokens = [(r, c) for r in range(rows) for c in range(columns)]
    places = [((c + 0.5) / columns, (r + 0.5) / rows) for r, c in tokens]
    found = [target.smoothing / len(places)] * len(places)
    if target.name == "hard_box":
        covered = set()
        for x1, y1, x2, y2 in boxes:
            own = [v for v, (x, y) in enumerate(places) if x1 <= x < x2 and y1 <= y < y2]
            if not own:  # no centre in the box: the token that holds the box's centre
                r, c = int((y1 + y2) / 2 * rows), int((x1 + x2) / 2 * columns)
                own = [r * columns + c]
            covered |= set(own)
        for v in covered:
            found[v] += (1 - target.smoothing) / len(covered)
        return found
    for x1, y1, x2, y2 in boxes:
        exponents = [
            -0.5 * ((x - (x1 + x2) / 2) / (target.sigma_scale * (x2 - x1))) ** 2
            - 0.5 * ((y - (y1 + y2) / 2) / (target.sigma_scale * (y2 - y1))) ** 2
            for x, y in places
        ]
        density = [math.exp(value - max(exponents)) for value in exponents]
        for v, value in enumerate(density):
            found[v] += (1 - target.smoothing) / len(boxes) * value / math.fsum(density)
    return found


def plain_kl(goal, heads):
    """KL(goal || mean over heads of the softmax of each head's logits)."""
    model = [0.0] * len(goal)
    for logits in heads:
        most = max(logits)
        powers = [math.exp(z - most) for z in logits]
        for v, power in enumerate(powers):
            model[v] += power / math.fsum(powers) / len(heads)
    return math.fsum(
        q * (math.log(q) - math.log(p + 1e-12)) for q, p in zip(goal, model, strict=True) if q > 0
    )


def plain_loss(term, made, logits):
    per_response = []
    for row, group in enumerate(made.group.tolist()):
        boxes, (rows, columns) = made.evidence[group], grid_of(made.layouts[group])
        if term.gate.name == "reward" and made.accuracies[row] < 0.5:
            continue
        if not boxes or not rows * columns:
            continue
        length = int(made.mask[row].sum())
        focus = [t for t in range(length) if int(made.tokens[row, t]) == FOCUS_ID]
        if not focus:
            continue
        goal = plain_target(term.target, boxes, (rows, columns))
        values = [plain_kl(goal, logits[row, :, t, : len(goal)].tolist()) for t in focus]
        per_response.append(math.fsum(values) / len(values))
    return math.fsum(per_response) / (len(per_response) + 1e-8)


def found_loss(term, made, logits, **options):
    return loss_of(term, made, uniform(made), layer=LAYER, logits=logits, **options)


TARGETS = [
    get("target", name, smoothing=smoothing)
    for name in ("gaussian_mixture", "hard_box")
    for smoothing in (0.1, 0.0)
]
ANY_TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name}-{t.smoothing}")
ALWAYS = get("gate", "always")


@ANY_TARGET
@pytest.mark.parametrize("gate", ["reward", "always"])
def test_the_loss_equals_plain_loops(target, gate):
    term = anchor(target=target, gate=get("gate", gate))
    several = 0
    for seed in range(5):
        made = batch(seed)
        logits = logits_of(made, seed)
        expected = plain_loss(term, made, logits)
        assert float(found_loss(term, made, logits)) == pytest.approx(expected, abs=1e-6)
        assert expected > 0.1
        several += int((((made.tokens == FOCUS_ID) & made.mask).sum(1) > 1).sum())
    assert several  # responses with more than one focus token were among them


@ANY_TARGET
@pytest.mark.parametrize("fewest", [False, True])
@pytest.mark.parametrize(
    "portions", [[[row] for row in range(ROWS)], [[0, 1, 2, 3], [4, 5, 6], list(range(7, ROWS))]]
)
def test_micro_batches_and_the_rows_that_are_read_do_not_matter(target, fewest, portions):
    term, made = anchor(target=target), batch(5)
    logits = logits_of(made)
    found = found_loss(term, made, logits, portions=portions, fewest=fewest)
    assert float(found) == pytest.approx(plain_loss(term, made, logits), abs=1e-6)


@ANY_TARGET
def test_gradients_equal_finite_differences(target):
    term = anchor(target=target, gate=ALWAYS)
    made = batch(2).select([1, 5, 9, 11])
    assert (term.weights(made, uniform(made)) > 0).sum() >= 2
    logits = logits_of(made, scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: found_loss(term, made, z), logits)


@ANY_TARGET
def test_boxes_smaller_than_a_token_pull_to_the_nearest_one(target):
    """No token's centre lies in them; the Gaussian underflows everywhere else."""
    made = dataclasses.replace(
        batch(prompts=2),
        evidence=(((0.6, 0.7, 0.601, 0.701),), ((0.01, 0.4, 0.02, 0.41), (0.9, 0.1, 0.91, 0.12))),
    )
    term, logits = anchor(target=target, gate=ALWAYS), logits_of(made).requires_grad_()
    loss = found_loss(term, made, logits)
    expected = plain_loss(term, made, logits.detach())
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad.isfinite().all()
    goal = term.target.distribution(made.evidence[0], grid_of(made.layouts[0]))
    assert int(goal.argmax()) == 4  # second row, second column of 2 x 3


def test_it_covers_and_is_zero_at_the_target():
    """The direction is KL(q || p): an uncovered piece of evidence costs more than stray looks."""

    class Given(type(TARGETS[0])):
        def distribution(self, boxes, grid):
            return torch.tensor([0.45, 0.45, 0.1])

    def value(probabilities):
        made = batch(prompts=1, layouts=layouts((1, 3))).select([0])
        made = dataclasses.replace(made, tokens=torch.full_like(made.tokens, FOCUS_ID))
        logits = torch.tensor(probabilities, dtype=torch.float64).log().expand(1, 3, 1, -1)
        return float(found_loss(anchor(target=Given(), gate=ALWAYS), made, logits))

    q, one = [0.45, 0.45, 0.1], [0.89, 0.01, 0.1]
    expected = sum(b * math.log(b / a) for a, b in zip(one, q, strict=True))
    assert value(one) == pytest.approx(expected, abs=1e-6)
    assert value(q) == pytest.approx(0, abs=1e-6)
    assert value(one) > value([0.3, 0.3, 0.4]) > 0


def altered(made, rows, value):
    tokens = made.tokens.clone()
    tokens[rows] = value
    return dataclasses.replace(made, tokens=tokens)


def test_who_has_no_focus_token_neither_adds_nor_counts():
    made = batch(3)
    logits = logits_of(made, 3)
    without = list(range(0, ROWS, 2))
    made = altered(made, without, 0)
    rest = [row for row in range(ROWS) if row not in without]
    term = anchor(gate=ALWAYS)
    whole = found_loss(term, made, logits)
    alone = loss_of(term, made.select(rest), uniform(made)[rest], layer=LAYER, logits=logits[rest])
    torch.testing.assert_close(whole, alone)
    assert (term.weights(made, uniform(made))[without] == 0).all()


def test_without_any_focus_token_there_is_no_loss_and_no_gradient():
    made = altered(batch(), slice(None), 1)
    logits = logits_of(made).requires_grad_()
    loss = found_loss(anchor(gate=ALWAYS), made, logits)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (logits.grad == 0).all()


def test_a_focus_token_in_the_padding_is_none():
    made = batch()
    padded = dataclasses.replace(made, tokens=made.tokens.masked_fill(~made.mask, FOCUS_ID))
    term = anchor(gate=ALWAYS)
    assert torch.equal(term.weights(padded, uniform(made)), term.weights(made, uniform(made)))
    assert term.metrics(padded) == term.metrics(made)


def test_every_focus_token_of_a_response_has_the_same_weight():
    made = altered(batch(), slice(None), FOCUS_ID)
    weights = anchor(gate=ALWAYS).weights(made, uniform(made))
    taking_part = [
        row for row in range(ROWS)
        if int(made.group[row]) not in (BLIND, NO_BOX) and made.mask[row].any()
    ]  # fmt: skip
    for row in taking_part:
        length = int(made.mask[row].sum())
        expected = 1 / length / len(taking_part)
        torch.testing.assert_close(weights[row, :length], torch.full((length,), expected))
    assert float(weights.sum()) == pytest.approx(1)


def test_who_has_no_image_or_no_box_is_left_out_and_counted():
    made = altered(batch(), slice(None), FOCUS_ID)
    term = anchor(gate=ALWAYS)
    excluded = [row for row, group in enumerate(made.group.tolist()) if group in (BLIND, NO_BOX)]
    assert (term.weights(made, uniform(made))[excluded] == 0).all()
    assert term.metrics(made) == {"without_focus": 1, "without_evidence": len(excluded)}
    loud = logits_of(made)
    expected = found_loss(term, made, loud)
    loud[excluded] *= 50
    assert found_loss(term, made, loud) == expected
    silent = altered(made, [4, 9], 0)
    assert term.metrics(silent) == {"without_focus": 3, "without_evidence": len(excluded)}


def test_an_image_that_is_not_there_sends_no_nan_back():
    made = altered(batch(), slice(None), FOCUS_ID)
    output = output_of(made, list(range(ROWS)), layer=LAYER, logits=logits_of(made))
    logits = output.attention[LAYER].logits.requires_grad_()
    anchor().token_loss(output, made).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[made.group == BLIND] == 0).all()


def test_the_gate_is_that_of_right_answers():
    made = altered(batch(), slice(None), FOCUS_ID)
    made.accuracies.zero_()
    assert (anchor().weights(made, uniform(made)) == 0).all()
    assert (anchor(gate=ALWAYS).weights(made, uniform(made)) > 0).any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_a_policy_it_is_the_attention_of_the_focus_token_itself(attention):
    """Against whole attention maps of plain passes, one response at a time."""
    emits = {"<Focus>": ("see", "image")}
    owner, other = fresh_policy(attention, emits=emits), fresh_policy("eager", emits=emits)
    items = [
        dataclasses.replace(item(0), boxes=((0.0, 0.0, 28.0, 56.0),)),
        dataclasses.replace(item(1, size=(84, 56), words=3), boxes=((30.0, 0.0, 84.0, 40.0),)),
    ]
    prompts = owner.encode(items, PROMPT)
    tokens, mask = owner.encode_responses(["red 3 blue", "4"], 9, ("<Focus>",))
    tokens[0, 2] = owner.emits["<Focus>"]
    made = Experience(
        prompts=prompts,
        group=torch.arange(2),
        tokens=tokens,
        mask=mask,
        rewards=torch.ones(2, dtype=torch.float64),
        sampling_logprobs=torch.zeros(mask.shape),
        accuracies=torch.ones(2, dtype=torch.float64),
        evidence=(((0.0, 0.0, 0.5, 1.0),), ((30 / 84, 0.0, 1.0, 40 / 56),)),
        layouts=prompts.layouts,
        layers=owner.layers,
        emitted=owner.emits,
    )
    term = anchor(layer=get("layer", "index", value=1))
    weights = term.weights(made, torch.zeros(mask.shape))
    rows = (weights != 0).int().argsort(dim=1, descending=True, stable=True)[:, :2]
    output = forward(owner, made, 1.0, Reading(probe=Probe({1}, rows=rows)))
    loss = (weights * term.token_loss(output, made)).sum()
    loss.backward()
    model, total = other.model, 0.0
    for row, places in enumerate([[0, 2], [0]]):
        alone, length = made.prompts.select([row]), int(mask[row].sum())
        ids = torch.cat([alone.input_ids[0], tokens[row, :length]])[None]
        image = ids == model.config.image_token_id
        model.model.rope_deltas = None
        maps = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=alone.pixel_values,
            image_grid_thw=alone.image_grid_thw,
            mm_token_type_ids=image.int(),
            output_attentions=True,
            use_cache=False,
        ).attentions[1][0]
        q = torch.tensor(plain_target(term.target, made.evidence[row], grid_of(made.layouts[row])))
        for t in places:
            seen = maps[:, ids.shape[1] - length + t, image[0]]
            p = (seen / seen.sum(-1, keepdim=True)).mean(0)
            total = total + (q * (q.log() - p.log())).sum() / len(places) / 2
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), abs=1e-5)
    moved = set()
    for (name, mine), theirs in zip(owner.named_parameters(), other.parameters(), strict=True):
        if mine.grad is not None and mine.grad.any():
            moved.add(name)
            scale = theirs.grad.abs().max().clamp(min=1e-4)
            assert ((mine.grad - theirs.grad).abs().max() / scale) < 1e-3, name
    assert any("layers.1.self_attn.q_proj" in name for name in moved)
    assert not any("layers.2." in name or "lm_head" in name for name in moved)
