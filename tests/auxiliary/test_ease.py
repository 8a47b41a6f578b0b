"""EASE: the loss against plain loops, its gradient, and where in a policy that goes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.auxiliary.batches import BLIND, batch, logits_of, loss_of, output_of, uniform
from tests.layouts import grid_of, layouts
from tests.tiny import PROMPT, fresh_policy, item, responses
from tests.train.test_learner import learner_and_experience, updated, weights
from vexp.experience.batch import Experience, forward
from vexp.policy.policy import Reading
from vexp.probe.attention import Probe
from vexp.registry import REGISTRY
from vexp.train.step import with_advantages

LAYER = 4  # two thirds of the batches' six


def get(kind, name, **fields):
    return REGISTRY.get(kind, name)(**fields)


def ease(**fields):
    return get("auxiliary", "ease", **fields)


def centres(grid):
    rows, columns = grid
    return [((c + 0.5) / columns, (r + 0.5) / rows) for r in range(rows) for c in range(columns)]


def plain_gaussian(boxes, grid, smoothing, scale=0.25):
    count = grid[0] * grid[1]
    found = [smoothing / count] * count
    for x1, y1, x2, y2 in boxes:
        density = [
            math.exp(
                -0.5 * ((x - (x1 + x2) / 2) / (scale * (x2 - x1))) ** 2
                - 0.5 * ((y - (y1 + y2) / 2) / (scale * (y2 - y1))) ** 2
            )
            for x, y in centres(grid)
        ]
        for v, value in enumerate(density):
            found[v] += (1 - smoothing) / len(boxes) * value / math.fsum(density)
    return found


def plain_hard(boxes, grid, smoothing):
    inside = [
        any(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in boxes) for x, y in centres(grid)
    ]
    return [(1 - smoothing) * i / sum(inside) + smoothing / len(inside) for i in inside]


PLAIN = {"gaussian_mixture": plain_gaussian, "hard_box": plain_hard}


def plain_divergence(heads, goal, direction, floor):
    """The heads' logits on one image's tokens, and where they should be."""
    model = [0.0] * len(goal)
    for logits in heads:
        total = math.fsum(math.exp(z) for z in logits)
        for v, z in enumerate(logits):
            model[v] += math.exp(z) / total / len(heads)
    logs = [
        (math.log(p + 1e-12), math.log(max(q, floor))) for p, q in zip(model, goal, strict=True)
    ]
    if direction == "model_to_target":
        return math.fsum(p * (a - b) for p, (a, b) in zip(model, logs, strict=True))
    return math.fsum(q * (b - a) for q, (a, b) in zip(goal, logs, strict=True))


def plain_loss(term, made, draw, logits):
    group = made.group.tolist()
    members = [range(len(group))]
    if term.normalise == "group":
        members = [[row for row, g in enumerate(group) if g == own] for own in sorted(set(group))]
    return math.fsum(plain_mean(term, made, draw, logits, rows) for rows in members) / len(members)


def plain_mean(term, made, draw, logits, rows):
    """The loss of these responses: a mean over those that pass the gate."""
    total, passed = 0.0, 0
    for row in rows:
        group = int(made.group[row])
        boxes, grid = made.evidence[group], grid_of(made.layouts[group])
        right = term.gate.name == "always" or made.accuracies[row] >= 0.5
        if not (right and boxes and grid[0] * grid[1]):
            continue
        passed += 1
        length = int(made.mask[row].sum())
        chosen = sorted(range(length), key=draw[row].tolist().__getitem__)[: term.rows]
        if not chosen:
            continue
        goal = PLAIN[term.target.name](boxes, grid, term.target.smoothing)
        values = [
            plain_divergence(
                logits[row, :, t, : len(goal)].tolist(), goal, term.direction, term.floor
            )
            for t in chosen
        ]
        total += math.fsum(values) / len(values)
    return total / (passed + 1e-8)


TARGETS = [
    get("target", name, smoothing=smoothing)
    for name in ("gaussian_mixture", "hard_box")
    for smoothing in (0.1, 0.0)
]
BOTH = pytest.mark.parametrize("direction", ["model_to_target", "target_to_model"])


@BOTH
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name}-{t.smoothing}")
@pytest.mark.parametrize("gate", ["reward", "always"])
@pytest.mark.parametrize("normalise", ["step", "group"])
def test_the_loss_equals_plain_loops(direction, target, gate, normalise):
    rows = 2 if gate == "reward" else 64
    term = ease(
        direction=direction, target=target, gate=get("gate", gate), rows=rows, normalise=normalise
    )
    for seed in range(3):
        made = batch(seed)
        draw, logits = uniform(made, seed), logits_of(made, seed)
        expected = plain_loss(term, made, draw, logits)
        found = loss_of(term, made, draw, layer=LAYER, logits=logits)
        assert float(found) == pytest.approx(expected, abs=1e-6)
        assert expected > 0.1


@BOTH
@pytest.mark.parametrize("fewest", [False, True])
@pytest.mark.parametrize(
    "portions",
    [[[row] for row in range(15)], [[0, 1, 2, 3], [4, 5, 6], list(range(7, 15))]],
)
def test_micro_batches_and_the_rows_that_are_read_do_not_matter(direction, fewest, portions):
    term = ease(direction=direction, rows=3, normalise="group")
    made = batch(5)
    draw, logits = uniform(made), logits_of(made)
    expected = plain_loss(term, made, draw, logits)
    found = loss_of(term, made, draw, portions=portions, fewest=fewest, layer=LAYER, logits=logits)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_tokens_are_those_with_the_smallest_numbers_at_most_so_many():
    made = batch()
    chosen = ease(rows=2, gate=get("gate", "always")).weights(made, uniform(made)) > 0
    lengths = made.mask.sum(1)
    seen = torch.tensor([group not in (2, 4) for group in made.group.tolist()])
    assert chosen.sum(1).tolist() == (lengths.clamp(max=2) * seen).tolist()
    left_out = made.mask & ~chosen & seen[:, None]
    draw = uniform(made)
    for row in range(len(made)):
        if left_out[row].any():
            assert draw[row][chosen[row]].max() < draw[row][left_out[row]].min()


def test_with_nothing_right_the_loss_is_zero():
    made = batch()
    made.accuracies.zero_()
    logits = logits_of(made).requires_grad_()
    loss = loss_of(ease(), made, uniform(made), layer=LAYER, logits=logits)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (logits.grad == 0).all()


def test_who_has_no_image_or_no_box_is_left_out_of_the_mean():
    """They neither add nor count, whatever their logits are."""
    made = batch()
    made.accuracies.fill_(1.0)
    draw, logits = uniform(made), logits_of(made)
    expected = loss_of(ease(), made, draw, layer=LAYER, logits=logits)
    excluded = [row for row, group in enumerate(made.group.tolist()) if group in (2, 4)]
    others = [row for row in range(len(made)) if row not in excluded]
    alone = loss_of(ease(), made.select(others), draw[others], layer=LAYER, logits=logits[others])
    torch.testing.assert_close(alone, expected)
    loud = logits.clone()
    loud[excluded] *= 50
    assert loss_of(ease(), made, draw, layer=LAYER, logits=loud) == expected


def toy(direction, probabilities, goal):
    """The divergence of one token's attention from the one target there is."""

    class Given(type(TARGETS[0])):
        def distribution(self, boxes, grid):
            return torch.tensor(goal)

    made = batch(prompts=1, layouts=layouts((1, len(goal)))).select([0])
    term = ease(direction=direction, target=Given(), gate=get("gate", "always"))
    logits = torch.tensor(probabilities, dtype=torch.float64).log().expand(1, 3, 1, -1)
    return float(loss_of(term, made, torch.zeros(1, 1), layer=LAYER, logits=logits))


def test_the_directions_differ_and_are_zero_at_the_target():
    p, q = [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]
    forth = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    back = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(forth - back) > 0.1
    assert toy("model_to_target", p, q) == pytest.approx(forth, abs=1e-6)
    assert toy("target_to_model", p, q) == pytest.approx(back, abs=1e-6)
    for direction in ("model_to_target", "target_to_model"):
        assert toy(direction, q, q) == pytest.approx(0, abs=1e-6)


@BOTH
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name}-{t.smoothing}")
def test_gradients_equal_finite_differences(direction, target):
    term = ease(direction=direction, target=target, rows=2, gate=get("gate", "always"))
    made = batch(2).select([0, 5, 6, 11])
    draw = uniform(made)

    def loss(logits):
        return loss_of(term, made, draw, layer=LAYER, logits=logits)

    assert torch.autograd.gradcheck(loss, logits_of(made, scale=1.0).requires_grad_())


def test_gradients_are_finite_beside_an_image_that_gets_no_attention_at_all():
    made = batch()
    logits = logits_of(made, scale=300.0).float().requires_grad_()
    for direction in ("model_to_target", "target_to_model"):
        term = ease(direction=direction, gate=get("gate", "always"))
        loss = loss_of(term, made, uniform(made), layer=LAYER, logits=logits)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_tokens_whose_rows_were_not_read_have_no_loss():
    made = batch()
    wanted = torch.zeros_like(made.mask)
    wanted[:, 1] = made.mask[:, 1]
    output = output_of(made, list(range(15)), layer=LAYER, logits=logits_of(made), wanted=wanted)
    found = ease().token_loss(output, made)
    assert found.shape == made.mask.shape
    assert (found[:, 2:] == 0).all()
    assert (found[1, 1] > 0).all()


def test_rows_may_be_read_in_any_order():
    made = batch()
    whole = output_of(made, list(range(15)), layer=LAYER, logits=logits_of(made))
    places = torch.tensor([[4, 0, 6]]).expand(15, -1)
    every = whole.attention[LAYER]
    some = dataclasses.replace(every, logits=every.logits[:, :, [4, 0, 6]])
    read = dataclasses.replace(whole, attention={LAYER: some}, rows=places)
    found, expected = ease().token_loss(read, made), ease().token_loss(whole, made)
    torch.testing.assert_close(found[:, [0, 4, 6]], expected[:, [0, 4, 6]])
    assert (found[:, [1, 2, 3, 5]] == 0).all()


def test_an_image_that_is_not_there_sends_no_nan_back():
    """The probe's own logits are -inf where there is no image token."""
    made = batch()
    output = output_of(made, list(range(15)), layer=LAYER, logits=logits_of(made))
    logits = output.attention[LAYER].logits.requires_grad_()
    ease().token_loss(output, made).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[made.group == BLIND] == 0).all()


def tiny_experience(owner):
    items = [
        dataclasses.replace(item(0), boxes=((0.0, 0.0, 28.0, 56.0),)),
        dataclasses.replace(item(1, size=(84, 56), words=3), boxes=((30.0, 0.0, 84.0, 40.0),)),
        item(2, size=None),
    ]
    prompts = owner.encode(items, PROMPT)
    index = [0, 0, 1, 1, 2, 2]
    tokens, mask = responses(len(index), 5)
    return Experience(
        prompts=prompts,
        group=torch.tensor(index),
        tokens=tokens,
        mask=mask,
        rewards=torch.zeros(6, dtype=torch.float64),
        sampling_logprobs=torch.zeros(mask.shape),
        accuracies=torch.ones(6, dtype=torch.float64),
        evidence=(((0.0, 0.0, 0.5, 1.0),), ((0.36, 0.0, 1.0, 0.72),), ()),
        layouts=prompts.layouts,
        layers=owner.layers,
    )


def plain_policy_loss(owner, term, made, chosen, layer):
    """The same loss from whole attention maps of plain passes, one response at a time."""
    model = owner.model
    model.set_attn_implementation("eager")
    total, passed = 0.0, 0
    for row, group in enumerate(made.group.tolist()):
        if not made.evidence[group]:
            continue
        passed += 1
        alone, length = made.prompts.select([group]), int(made.mask[row].sum())
        ids = torch.cat([alone.input_ids[0], made.tokens[row, :length]])[None]
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
        ).attentions[layer][0]
        seen = maps[:, -length:, image[0]]
        p = (seen / seen.sum(-1, keepdim=True)).mean(0)
        q = torch.tensor(plain_gaussian(made.evidence[group], grid_of(made.layouts[group]), 0.1))
        divergence = (p * (p.log() - q.log())).sum(-1)
        total = total + divergence[chosen[row, :length]].mean()
    return total / passed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_a_policy_it_moves_queries_and_keys_of_its_layer_and_what_is_below(attention):
    owner, other = fresh_policy(attention), fresh_policy("eager")
    made = tiny_experience(owner)
    term = ease(layer=get("layer", "index", value=1), rows=3)
    draw = uniform(made)
    weights = term.weights(made, draw)
    wanted = weights != 0
    rows = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :3]
    output = forward(owner, made, 1.0, Reading(probe=Probe({1}, rows=rows)))
    loss = (weights * term.token_loss(output, made)).sum()
    loss.backward()
    expected = plain_policy_loss(other, term, made, wanted, 1)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    moved = set()
    for (name, mine), theirs in zip(owner.named_parameters(), other.parameters(), strict=True):
        if mine.grad is not None and mine.grad.any():
            moved.add(name)
            scale = theirs.grad.abs().max().clamp(min=1e-4)
            assert ((mine.grad - theirs.grad).abs().max() / scale) < 1e-3, name
    within = [name.partition("layers.")[2] for name in moved if "language_model.layers" in name]
    assert {"1.self_attn.q_proj.weight", "1.self_attn.k_proj.weight"} <= set(within)
    assert {"0.self_attn.q_proj.weight", "0.self_attn.k_proj.weight"} <= set(within)
    assert {"0.self_attn.v_proj.weight", "0.mlp.down_proj.weight"} <= set(within)
    assert not [name for name in within if name.startswith("2.")]
    assert not [
        name for name in within if name.startswith(("1.mlp", "1.self_attn.v", "1.self_attn.o"))
    ]
    assert any("visual" in name for name in moved)
    assert not any("lm_head" in name for name in moved)


EASE = (
    "algorithm=dapo",
    "auxiliary.a=ease",
    "auxiliary.a.gate=always",
    "auxiliary.a.rows=2",
)


def test_it_acts_where_all_rewards_are_equal():
    learned, change = updated(*EASE, rewards=[0.5] * 16)
    assert learned.updates == 1
    assert learned.metrics["auxiliary/a"] > 0
    assert learned.metrics["loss"] == 0
    assert (change != 0).any()


def test_a_coefficient_of_zero_changes_no_update():
    zero, zero_change = updated(*EASE, "auxiliary.a.coef=0")
    none, change = updated("algorithm=dapo")
    assert zero.metrics["grad_norm"] == pytest.approx(none.metrics["grad_norm"], rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(zero_change, change, dim=0)
    assert cosine > 0.9999
    assert (updated(*EASE, "auxiliary.a.coef=0", rewards=[0.5] * 16)[1] == 0).all()


@pytest.mark.parametrize("size", [1, 3, 6])
def test_micro_batches_of_a_real_update_do_not_change_its_gradient(size):
    run = (*EASE, "auxiliary.a.coef=10")
    whole, change = updated(*run, "compute.micro_batch_size=64")
    split, split_change = updated(*run, f"compute.micro_batch_size={size}")
    for name in ("grad_norm", "auxiliary/a"):
        assert split.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(split_change, change, dim=0)
    assert cosine > 0.999
    assert whole.metrics["grad_norm"] > 2 * updated("algorithm=dapo")[0].metrics["grad_norm"]


def test_steps_along_its_gradient_bring_attention_to_the_evidence():
    learner, experience = learner_and_experience(
        *EASE, "auxiliary.a.coef=1", "rl.learning_rate=1e-3", rewards=[0.5] * 16
    )
    before = weights(learner)
    losses = []
    for step in range(1, 9):
        learned = learner.update(
            with_advantages(learner, experience, 1), step=step, updates=step - 1
        )
        losses.append(learned.metrics["auxiliary/a"])
    assert not weights(learner).equal(before)
    assert losses[-1] < 0.9 * losses[0]
