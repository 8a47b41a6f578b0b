"""The experience pass over a real (tiny) policy, against plain transformers passes one by one."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from tests.layouts import grid_of
from tests.tiny import PROMPT, fresh_policy, item, responses
from tests.train.fakes import SMALLEST
from vexp.experience.batch import Experience, forward
from vexp.experience.evidence import relative_boxes, token_mask
from vexp.experience.observe import SignalRequest, observe, requested
from vexp.policy.policy import Reading
from vexp.policy.randomness import derive
from vexp.probe import attention as probing
from vexp.probe.attention import Probe
from vexp.registry import REGISTRY
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

TEMPERATURE = 0.7
EVERYTHING = {"old_logprobs": True, "entropy": True, "similarity": True}
# rollouts of four ragged prompts, of which number 2 has no image
EQUAL, UNEQUAL = [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 2, 3, 3, 3]
BLIND = 2
LENGTH = 6


def distortion(name, **fields):
    return REGISTRY.get("distortion", name)(**fields)


BLACK, DISCARD = distortion("black"), distortion("discard")


def sharpened(attention):
    """A policy whose attention and next tokens are far from uniform."""
    owner = fresh_policy(attention)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in owner.model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
            elif "visual" not in name and weight.ndim == 2:
                weight.copy_(0.06 * torch.randn(weight.shape, generator=generator))
    return owner


policy = functools.cache(sharpened)


@functools.cache
def plain_model():
    """The same weights under transformers' own eager attention, without our probe."""
    model = sharpened("eager").model
    model.set_attn_implementation("eager")
    return model


def items():
    """Lengths, image sizes and boxes differ; one has no image, one no box in its image."""
    boxes = [
        ((0.0, 0.0, 28.0, 28.0), (20.0, 30.0, 56.0, 56.0)),
        ((30.0, 10.0, 70.0, 100.0),),
        ((0.0, 0.0, 9.0, 9.0),),
        ((90.0, 90.0, 95.0, 95.0),),
    ]
    made = [
        item(0),
        item(1, size=(84, 112), words=3),
        item(2, size=None, words=1),
        item(3, size=(28, 28), words=7),
    ]
    return [dataclasses.replace(it, boxes=box) for it, box in zip(made, boxes, strict=True)]


def experience(index, *, attention="auto", which=(0, 1, 2, 3), length=LENGTH):
    """Finished responses, `index` naming the one of `which` items that each of them answers."""
    owner, chosen = policy(attention), [items()[i] for i in which]
    prompts = owner.encode(chosen, PROMPT)
    tokens, mask = responses(len(index), length)
    evidence = [relative_boxes(it.boxes, it.image.size)[0] if it.image else () for it in chosen]
    return Experience(
        prompts=prompts,
        group=torch.tensor(index),
        tokens=tokens,
        mask=mask,
        rewards=torch.zeros(len(index), dtype=torch.float64),
        sampling_logprobs=torch.zeros(mask.shape),
        has_image=torch.tensor([chosen[i].image is not None for i in index]),
        boxes=tuple(it.boxes for it in chosen),
        evidence=tuple(evidence),
        layouts=prompts.layouts,
        layers=owner.layers,
        items=tuple(chosen),
        prompt_of=PROMPT,
        place=torch.tensor([index[:row].count(group) for row, group in enumerate(index)]),
    )


class Counted:
    """The policy, with its passes and what they were given counted."""

    def __init__(self, attention="auto"):
        self.owner = policy(attention)
        self.passes = []

    def __getattr__(self, name):
        return getattr(self.owner, name)

    def __call__(self, prompts, tokens, *arguments):
        self.passes.append((prompts, len(tokens)))
        return self.owner(prompts, tokens, *arguments)


def observed(made, request, *, portions=None, attention="auto", step=1, counted=None):
    return observe(
        made,
        counted or policy(attention),
        None,
        portions or [list(range(len(made)))],
        request,
        temperature=TEMPERATURE,
        seed=7,
        step=step,
    )


@torch.no_grad()
def plain(thing, tokens, mask):
    """Transformers' own output for one prompt and its response, and the ids that went in."""
    alone = policy("auto").encode([thing], PROMPT)
    ids = torch.cat([alone.input_ids[0], tokens[mask]])[None]
    model = plain_model()
    model.model.rope_deltas = None
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=alone.pixel_values,
        image_grid_thw=alone.image_grid_thw,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    return output, ids[0]


def plain_distribution(output, length):  # [token, vocab] float64
    """Log-probs of all tokens where each token of the response is predicted."""
    logits = output.logits[0, -length - 1 : -1].double() / TEMPERATURE
    return logits.masked_fill(policy("auto").banned, -torch.inf).log_softmax(-1)


def plain_logprobs(thing, tokens, mask):
    distribution = plain_distribution(plain(thing, tokens, mask)[0], int(mask.sum()))
    return distribution[torch.arange(len(distribution)), tokens[mask]]


def each_row(made):
    """Row, its item, and its length."""
    for row, group in enumerate(made.group.tolist()):
        yield row, made.items[group], int(made.mask[row].sum())


def close(found, expected, tolerance=1e-5):
    expected = torch.as_tensor(expected).double()
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("index", [EQUAL, UNEQUAL])
def test_what_the_policy_says_equals_plain_passes(index, before):
    made = experience(index)
    found = observed(made, SignalRequest(**EVERYTHING, predictor=bool(before)))
    for row, thing, length in each_row(made):
        output, ids = plain(thing, made.tokens[row], made.mask[row])
        distribution = plain_distribution(output, length)
        chosen = made.tokens[row, :length]
        close(found.old_logprobs[row, :length], distribution[torch.arange(length), chosen])
        p = distribution.exp()
        close(found.entropy[row, :length], -torch.special.xlogy(p, p).sum(-1))
        hidden = output.hidden_states[-1][0].double()
        image = hidden[ids == plain_model().config.image_token_id]
        expected = torch.zeros(length, dtype=torch.float64)
        if len(image):
            mean = image.mean(0)
            for t in range(length):
                own = hidden[len(ids) - length + t - before]
                expected[t] = own @ mean / (own.norm() * mean.norm())
        close(found.similarity[row, :length], expected)
    for name in EVERYTHING:
        value = getattr(found, name)
        assert (value[~made.mask] == 0).all()
        assert not value.requires_grad
    assert (found.similarity[~made.has_image] == 0).all()
    assert found.similarity[made.has_image & (made.mask.sum(1) > 1)].abs().max() > 0.05


def plain_attention(output, ids, layer, evidence, length, before=0):
    """Attention of a response's tokens on its image, by loops over heads, tokens and keys.

    `before` is how many positions earlier the row of a token is: 1 is that of its predictor.
    """
    places = (ids == plain_model().config.image_token_id).nonzero().flatten().tolist()
    maps = output.attentions[layer][0].double()
    heads = len(maps)
    image, inside, share, own = ([0.0] * length for _ in range(4))
    pooled = [0.0] * len(places)
    for t in range(length):
        for head in range(heads):
            row = maps[head, len(ids) - length + t - before].tolist()
            total = math.fsum(row[place] for place in places)
            own[t] += math.fsum(row[len(ids) - length :]) / heads
            for number, place in enumerate(places):
                image[t] += row[place] / heads
                inside[t] += row[place] / heads * evidence[number]
                share[t] += row[place] / total / heads * evidence[number]
                pooled[number] += row[place] / total / heads / length
    return image, inside, share, pooled, own


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    ("index", "attention"), [(EQUAL, "sdpa"), (UNEQUAL, "sdpa"), (UNEQUAL, "eager")]
)
def test_attention_equals_that_of_eager_passes(index, attention, before, monkeypatch):
    monkeypatch.setattr(probing, "ROWS_AT_ONCE", 4)  # pieces: four tokens, then two
    made = experience(index, attention=attention)
    layers = (1, made.layers - 1)
    asked = SignalRequest(attention=layers, predictor=bool(before))
    found = observed(made, asked, attention=attention).attention
    assert set(found) == set(layers)
    for layer in layers:
        seen = found[layer]
        for row, thing, length in each_row(made):
            output, ids = plain(thing, made.tokens[row], made.mask[row])
            group = made.group[row]
            grid = grid_of(made.layouts[group])
            count = grid[0] * grid[1]
            inside = token_mask(made.evidence[group], grid).tolist() if count else []
            image, evidence, share, pooled, own = plain_attention(
                output, ids, layer, inside, length, before
            )
            close(seen.image[row, :length], image)
            close(seen.evidence[row, :length], evidence)
            close(seen.share[row, :length], share)
            close(seen.response[row, :length], own)
            close(seen.pooled[row, :count], pooled)
            assert (seen.pooled[row, count:] == 0).all()
            assert seen.image_tokens[row] == len(pooled)
            assert seen.evidence_tokens[row] == sum(inside)
            if thing.image is None:
                assert count == 0
            else:
                close(seen.pooled[row].sum(), 1.0)
        for value in (seen.image, seen.evidence, seen.share):
            assert (value[~made.mask] == 0).all()
            assert (value[~made.has_image] == 0).all()
            assert value.isfinite().all()
    early, last = (found[layer].share for layer in layers)
    assert (early - last).abs().max() > 1e-2


@pytest.mark.parametrize("length", [LENGTH, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_loss_can_read_the_rows_of_the_predictors(attention, length):
    """Chosen rows, the first token's among them, with a gradient: those of a plain pass."""
    made = experience(UNEQUAL, attention=attention, length=length)
    rows = torch.tensor([[3, 0], [1, 2], [0, 5]] * len(made))[: len(made)].clamp(max=length - 1)
    reading = Reading(probe=Probe({1}, rows=rows), predictor=True)
    found = forward(policy(attention), made, TEMPERATURE, reading).attention[1].logits
    assert found.requires_grad
    compared = 0
    for row, thing, count in each_row(made):
        output, ids = plain(thing, made.tokens[row], made.mask[row])
        places = (ids == plain_model().config.image_token_id).nonzero().flatten()
        for number, token in enumerate(rows[row].tolist()):
            if len(places) and token < count:
                maps = output.attentions[1][0][:, len(ids) - count + token - 1][:, places]
                conditional = found[row].detach()[:, number, : len(places)].softmax(-1)
                close(conditional, maps / maps.sum(-1, keepdim=True))
                compared += 1
    assert compared > 4


def test_the_alignment_of_rows_is_a_setting_and_the_usual_one_has_no_id():
    plain, other = resolve([]), resolve(["rl.row_alignment=predictor", "credit=vgpo"])
    assert not requested(plain, 6, several_updates=False).predictor
    assert requested(other, 6, several_updates=False).predictor
    assert "row_alignment" not in training_id(plain).inputs["rl"]
    assert training_id(other).inputs["rl"]["row_alignment"] == "predictor"


def test_boxes_count_only_where_they_are_valid():
    counts = observed(experience(EQUAL), SignalRequest(attention=(2,))).attention[2]
    assert counts.image_tokens.tolist() == [4, 4, 12, 12, 0, 0, 1, 1]
    assert counts.evidence_tokens.tolist() == [2, 2, 4, 4, 0, 0, 0, 0]


def test_with_no_image_in_a_portion_attention_is_nothing():
    made = experience([0, 0], which=(BLIND,))
    found = observed(made, SignalRequest(similarity=True, attention=(2,)))
    seen = found.attention[2]
    for value in (seen.image, seen.evidence, seen.share, seen.pooled, found.similarity):
        assert (value == 0).all()
    assert seen.image_tokens.tolist() == seen.evidence_tokens.tolist() == [0, 0]


@pytest.mark.parametrize("changed", [BLACK, DISCARD, distortion("evidence_black")])
@pytest.mark.parametrize("index", [EQUAL, UNEQUAL])
def test_counterfactual_logprobs_are_those_of_the_distorted_prompt(changed, index):
    made = experience(index)
    found = observed(made, SignalRequest(counterfactual={changed: False})).counterfactual[changed]
    assert found.kl is None
    differs = False
    for row, thing, length in each_row(made):
        other = changed.apply(thing, np.random.default_rng(0))
        expected = plain_logprobs(other, made.tokens[row], made.mask[row])
        close(found.logprobs[row, :length], expected)
        seeing = plain_logprobs(thing, made.tokens[row], made.mask[row])
        differs |= bool((seeing - expected).abs().max() > 1e-2)
    assert differs
    assert (found.logprobs[~made.mask] == 0).all()


@pytest.mark.parametrize("changed", [BLACK, DISCARD])
def test_the_kl_equals_a_loop_over_the_vocabulary(changed):
    made = experience(UNEQUAL)
    found = observed(made, SignalRequest(counterfactual={changed: True})).counterfactual[changed]
    largest = 0.0
    for row, thing, length in each_row(made):
        arguments = made.tokens[row], made.mask[row]
        p = plain_distribution(plain(thing, *arguments)[0], length).tolist()
        other = changed.apply(thing, np.random.default_rng(0))
        q = plain_distribution(plain(other, *arguments)[0], length).tolist()
        for t in range(length):
            expected = math.fsum(
                math.exp(a) * (a - b) for a, b in zip(p[t], q[t], strict=True) if not math.isinf(a)
            )
            assert float(found.kl[row, t]) == pytest.approx(expected, abs=1e-5)
            largest = max(largest, expected)
    assert largest > 1e-2
    assert (found.kl[~made.mask] == 0).all()


@pytest.mark.parametrize("changed", [BLACK, DISCARD, distortion("patch_black", per="rollout")])
def test_without_an_image_there_is_no_difference_to_the_last_bit(changed):
    request = SignalRequest(old_logprobs=True, counterfactual={changed: True})
    made = experience(UNEQUAL)
    found = observed(made, request)
    measured = found.counterfactual[changed]
    blind = ~made.has_image
    assert measured.logprobs[blind].equal(found.old_logprobs[blind])
    assert (measured.kl[blind] == 0).all()
    seeing = made.mask & made.has_image[:, None]
    assert (measured.logprobs != found.old_logprobs)[seeing].any()
    assert (measured.kl[seeing] > 0).any()


@pytest.mark.parametrize(
    ("distortions", "own", "passes"),
    [
        ([], False, 0),
        ([], True, 1),
        ([BLACK], False, 1),
        ([BLACK, distortion("black")], False, 1),
        ([BLACK, DISCARD], False, 2),
        ([BLACK, DISCARD, distortion("gaussian_blur")], True, 4),
        ([distortion("gaussian_blur"), distortion("gaussian_blur", radius=9.0)], True, 3),
    ],
)
def test_each_distinct_question_costs_one_pass(distortions, own, passes):
    counted = Counted()
    made = experience(EQUAL)
    request = SignalRequest(counterfactual=dict.fromkeys(distortions, False), old_logprobs=own)
    found = observed(made, request, counted=counted)
    assert [rows for _, rows in counted.passes] == [len(made)] * passes
    assert len(found.counterfactual) == len(set(distortions))
    if not passes:
        assert found is made


def asked(*overrides, several_updates=False):
    run = resolve([*SMALLEST, "algorithm=dapo", *overrides])
    return requested(run, 6, several_updates=several_updates)


def test_a_plain_run_asks_for_nothing():
    assert not asked()
    assert asked(several_updates=True) == SignalRequest(old_logprobs=True)
    assert asked("rl.log_entropy=true") == SignalRequest(entropy=True)


def test_components_with_equal_distortions_ask_once():
    run = ("credit=vicra", "auxiliary.a=kl_prcp")
    assert list(asked(*run).counterfactual) == [DISCARD]
    both = asked(*run, "auxiliary.b=papo").counterfactual
    assert set(both) == {DISCARD, distortion("patch_black")}


def test_a_kl_that_one_component_asks_for_is_there_for_all():
    for score, kl in (("logprob", False), ("kl", True)):
        request = asked(
            "reward.terms.c=counterfactual",
            f"reward.terms.c.score={score}",
            "reward.terms.c.distortion=discard",
            "auxiliary.a=kl_prcp",
        )
        assert dict(request.counterfactual) == {DISCARD: kl}


def test_layers_are_asked_for_once_and_in_order():
    request = asked("reward.terms.a=attention", "reward.terms.c=counterfactual")
    assert request.attention == (4, 5)
    assert request.entropy
    same = asked("reward.terms.a=attention", "reward.terms.a.layer=two_thirds")
    assert same.attention == (4,)


def test_a_distortion_drawn_anew_in_every_update_is_not_asked_for():
    assert not asked("auxiliary.a=papo", "auxiliary.a.cf_grad=true")


def twins():
    """Two prompts with two equal responses each."""
    made = experience([0, 0, 1, 1], which=(0, 1))
    rows = [0, 0, 0, 0]
    return dataclasses.replace(made, tokens=made.tokens[rows], mask=made.mask[rows])


@pytest.mark.parametrize("per", ["prompt", "rollout"])
def test_what_shares_a_draw(per):
    changed, counted = distortion("patch_black", per=per), Counted()
    made = twins()
    found = observed(made, SignalRequest(counterfactual={changed: False}), counted=counted)
    logprobs = found.counterfactual[changed].logprobs
    for first in (0, 2):
        difference = (logprobs[first] - logprobs[first + 1]).abs().max()
        assert difference > 1e-3 if per == "rollout" else difference < 1e-5
    ((prompts, _),) = counted.passes
    assert len(prompts) == (4 if per == "rollout" else 2)
    for row, thing, _ in each_row(made):
        place = row % 2 if per == "rollout" else 0
        key = derive(7, "distortion", 1, thing.id, place)
        other = changed.apply(thing, np.random.Generator(np.random.Philox(key=key)))
        close(logprobs[row], plain_logprobs(other, made.tokens[row], made.mask[row]))


def test_every_step_draws_anew_and_one_step_always_the_same():
    changed = distortion("patch_black")
    first, again, later = (
        observed(twins(), SignalRequest(counterfactual={changed: False}), step=step)
        .counterfactual[changed]
        .logprobs
        for step in (1, 1, 2)
    )
    assert first.equal(again)
    assert (first - later).abs().max() > 1e-3


@pytest.mark.parametrize(
    "portions",
    [[[0, 1, 2, 3], [4, 5], [6, 7]], [[r] for r in range(8)], [[7, 2, 4], [1, 0, 3, 6, 5]]],
)
def test_how_rows_are_split_does_not_matter(portions):
    per_rollout = distortion("patch_black", per="rollout")
    request = SignalRequest(
        **EVERYTHING,
        attention=(1, 2),
        counterfactual={DISCARD: True, per_rollout: True, distortion("patch_black"): False},
    )
    made = experience(UNEQUAL)
    whole, split = observed(made, request), observed(made, request, portions=portions)
    for name in EVERYTHING:
        close(getattr(split, name), getattr(whole, name))
    for layer in (1, 2):
        for field in dataclasses.fields(whole.attention[layer]):
            found, expected = (getattr(e.attention[layer], field.name) for e in (split, whole))
            close(found, expected)
    for changed, expected in whole.counterfactual.items():
        close(split.counterfactual[changed].logprobs, expected.logprobs)
        if expected.kl is not None:
            close(split.counterfactual[changed].kl, expected.kl)


def test_rows_in_no_portion_keep_zeros():
    request = SignalRequest(**EVERYTHING, attention=(2,), counterfactual={BLACK: True})
    found = observed(experience(EQUAL), request, portions=[[2, 3, 6]])
    left = [0, 1, 4, 5, 7]
    seen, measured = found.attention[2], found.counterfactual[BLACK]
    for value in (seen.image, seen.share, seen.pooled, measured.logprobs, measured.kl):
        assert (value[left] == 0).all()
        assert (value[2] != 0).any()
    for name in EVERYTHING:
        assert (getattr(found, name)[left] == 0).all()


def test_distorting_needs_the_items():
    made = dataclasses.replace(experience(EQUAL), items=None)
    with pytest.raises(ValueError, match="items"):
        observed(made, SignalRequest(counterfactual={BLACK: False}))
