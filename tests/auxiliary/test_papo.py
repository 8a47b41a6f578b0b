"""Terms on log-probs with and without the image: PAPO, KL_prcp, and VPPO's entropy penalty."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.auxiliary.batches import (
    BLIND,
    batch,
    logprobs_of,
    loss_of,
    uniform,
    with_counterfactual,
)
from tests.train.test_learner import learner_and_experience, updated
from vexp.policy.policy import PolicyOutput
from vexp.registry import REGISTRY
from vexp.train.step import with_advantages

EVERY_ROW = list(range(15))
PORTIONS = [[[row] for row in EVERY_ROW], [[0, 1, 2, 3], [4, 5, 6], list(range(7, 15))]]


def papo(**fields):
    return REGISTRY.get("auxiliary", "papo")(**fields)


def given(term, seed=0):
    """A batch, the policy's log-probs, and those with a distorted image."""
    made = batch(seed)
    logprobs, distorted = logprobs_of(made, seed), logprobs_of(made, seed + 1)
    distorted[1, 0], distorted[1, 1] = 0.0, -30.0  # beyond both limits of k3
    logprobs[1, 0], logprobs[1, 1] = -5.0, -0.5
    return with_counterfactual(made, term.distortion, distorted), logprobs, distorted


def found_loss(term, made, logprobs, distorted, portions=None):
    live = {term.distortion: distorted} if term.live else None
    draw = uniform(made)
    return loss_of(term, made, draw, portions=portions, logprobs=logprobs, live=live)


def plain_loss(made, logprobs, distorted, ratio, share=1.0):
    """-mean kl_p - ratio mean (lp + lp_cf) over all tokens, those without an image being 0.

    Of kl_p, only what reaches the 1 - share quantile of its response.
    """
    total, tokens = 0.0, int(made.mask.sum())
    for row, group in enumerate(made.group.tolist()):
        if group == BLIND:
            continue
        kl = []
        for t in range(int(made.mask[row].sum())):
            lp, lp_cf = float(logprobs[row, t]), float(distorted[row, t])
            d = max(-20.0, min(20.0, lp_cf - lp))
            kl.append(min(10.0, math.exp(d) - d - 1))
            total -= ratio * (lp + lp_cf)
        if kl:
            threshold = np.quantile(kl, 1 - share)
            total -= math.fsum(value for value in kl if value >= threshold - 1e-12)
    return total / tokens


@pytest.mark.parametrize("cf_grad", [False, True])
@pytest.mark.parametrize(("coef", "entropy"), [(0.01, 0.0), (0.02, 0.05), (0.0, 0.03)])
def test_papo_equals_plain_loops(cf_grad, coef, entropy):
    term = papo(cf_grad=cf_grad, coef=coef, entropy_coef=entropy)
    for seed in range(3):
        made, logprobs, distorted = given(term, seed)
        found = float(found_loss(term, made, logprobs, distorted))
        expected = plain_loss(made, logprobs, distorted, entropy / coef if coef else 0.0)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_only_a_share_of_the_tokens_has_the_perception_term(share):
    term = papo(token_share=share, coef=0.02, entropy_coef=0.05)
    for seed in range(3):
        made, logprobs, distorted = given(term, seed)
        expected = plain_loss(made, logprobs, distorted, 2.5, share)
        for portions in (None, *PORTIONS):
            found = float(found_loss(term, made, logprobs, distorted, portions))
            assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("portions", PORTIONS)
@pytest.mark.parametrize("cf_grad", [False, True])
def test_micro_batches_do_not_matter(portions, cf_grad):
    term = papo(cf_grad=cf_grad, entropy_coef=0.03)
    made, logprobs, distorted = given(term, 4)
    split = found_loss(term, made, logprobs, distorted, portions)
    assert float(split) == pytest.approx(plain_loss(made, logprobs, distorted, 3.0), abs=1e-6)


def test_kl_prcp_is_the_perception_term_against_no_image():
    term = REGISTRY.get("auxiliary", "kl_prcp")()
    assert term.distortion == REGISTRY.get("distortion", "discard")()
    assert term.required() == ("counterfactual_logprobs",)
    made, logprobs, distorted = given(term)
    found = float(found_loss(term, made, logprobs, distorted))
    assert found == pytest.approx(plain_loss(made, logprobs, distorted, 0.0), abs=1e-6)
    assert found < 0


@pytest.mark.parametrize("portions", [[EVERY_ROW], *PORTIONS])
def test_the_entropy_penalty_is_the_mean_surprise(portions):
    made = batch(2)
    logprobs = logprobs_of(made, 2)
    term = REGISTRY.get("auxiliary", "entropy_penalty")()
    found = loss_of(term, made, uniform(made), portions=portions, logprobs=logprobs)
    values = [-float(value) for value in logprobs[made.mask]]
    assert float(found) == pytest.approx(math.fsum(values) / len(values), abs=1e-6)


@pytest.mark.parametrize("portions", [[EVERY_ROW], *PORTIONS])
def test_the_likelihood_is_that_of_right_responses(portions):
    made = batch(2)
    logprobs = logprobs_of(made, 2)
    term = REGISTRY.get("auxiliary", "likelihood")()
    found = loss_of(term, made, uniform(made), portions=portions, logprobs=logprobs)
    right = made.mask & made.accuracies.eq(1)[:, None]
    values = [-float(value) for value in logprobs[right]]
    assert 0 < len(values) < int(made.mask.sum())
    assert float(found) == pytest.approx(math.fsum(values) / len(values), abs=1e-6)


def test_only_with_cf_grad_is_there_a_gradient_through_the_distorted_image():
    for cf_grad in (False, True):
        term = papo(entropy_coef=0.03, cf_grad=cf_grad)
        made, logprobs, distorted = given(term)
        logprobs.requires_grad_()
        anew = distorted.clone().requires_grad_()
        live = {term.distortion: anew}
        loss_of(term, made, uniform(made), logprobs=logprobs, live=live).backward()
        seeing = made.mask & made.has_image[:, None]
        assert logprobs.grad[seeing].any()
        assert (logprobs.grad[~seeing] == 0).all()
        if cf_grad:
            assert anew.grad[seeing].any()
            assert (anew.grad[~seeing] == 0).all()
        else:
            assert anew.grad is None


@pytest.mark.parametrize("cf_grad", [False, True])
def test_gradients_equal_finite_differences(cf_grad):
    term = papo(cf_grad=cf_grad, entropy_coef=0.03)
    made, logprobs, distorted = given(term)

    def loss(own, other):
        return found_loss(term, made, own, other if cf_grad else distorted)

    assert torch.autograd.gradcheck(loss, (logprobs.requires_grad_(), distorted.requires_grad_()))


def test_a_step_down_the_loss_drives_the_two_apart_and_lowers_the_entropy():
    lone = torch.tensor([[-1.0]], dtype=torch.float64)
    made = batch(prompts=1).select([0])
    for other in (-3.0, -0.2):
        term = papo()
        seen = with_counterfactual(made, term.distortion, lone.new_full((1, 1), other))
        own = lone.clone().requires_grad_()
        loss_of(term, seen, torch.zeros(1, 1), logprobs=own).backward()
        assert -float(own.grad) * (-1.0 - other) > 0
    calm = papo(entropy_coef=0.03)
    own = lone.clone().requires_grad_()
    same = with_counterfactual(made, calm.distortion, lone)
    loss_of(calm, same, torch.zeros(1, 1), logprobs=own).backward()
    assert -float(own.grad) == pytest.approx(3.0)  # likelier tokens; coef makes it 0.03


def toy(p, q):
    """Minus the term's mean over tokens sampled from p: the divergence of p from q."""
    term = papo()
    made = batch(prompts=1, mask=torch.ones(3, 7, dtype=torch.bool)).select([0])
    made = dataclasses.replace(made, mask=made.mask[:, : len(p)], tokens=made.tokens[:, : len(p)])
    logs = [torch.tensor([values], dtype=torch.float64).log() for values in (p, q)]
    seen = with_counterfactual(made, term.distortion, logs[1])
    losses = -term.token_loss(PolicyOutput(logs[0]), seen)
    return math.fsum(a * float(b) for a, b in zip(p, losses[0], strict=True))


def test_the_directions_differ_and_are_zero_when_nothing_changes():
    p, q = [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]
    forth = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    back = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(forth - back) > 0.1
    assert toy(p, q) == pytest.approx(forth, abs=1e-9)
    assert toy(q, p) == pytest.approx(back, abs=1e-9)
    assert toy(p, p) == 0


RUN = ("algorithm=dapo", "auxiliary.a=papo", "auxiliary.a.coef=1")


@pytest.mark.parametrize("cf_grad", ["false", "true"])
def test_it_acts_where_all_rewards_are_equal(cf_grad):
    learned, change = updated(*RUN, f"auxiliary.a.cf_grad={cf_grad}", rewards=[0.5] * 16)
    assert learned.updates == 1
    assert learned.metrics["auxiliary/a"] < 0
    assert (change != 0).any()


def test_cf_grad_changes_the_update_but_not_the_first_loss():
    fixed, change = updated(*RUN)
    live, live_change = updated(*RUN, "auxiliary.a.cf_grad=true")
    assert live.metrics["auxiliary/a"] == pytest.approx(fixed.metrics["auxiliary/a"], rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(change, live_change, dim=0)
    assert cosine < 0.99


@pytest.mark.parametrize("cf_grad", ["false", "true"])
@pytest.mark.parametrize("per", ["prompt", "rollout"])
def test_micro_batches_of_a_real_update_do_not_change_its_gradient(cf_grad, per):
    run = (*RUN, f"auxiliary.a.cf_grad={cf_grad}", f"auxiliary.a.distortion.per={per}")
    whole, change = updated(*run, "compute.micro_batch_size=64")
    split, split_change = updated(*run, "compute.micro_batch_size=3")
    for name in ("grad_norm", "auxiliary/a"):
        assert split.metrics[name] == pytest.approx(whole.metrics[name], rel=2e-3)
    cosine = torch.nn.functional.cosine_similarity(split_change, change, dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize("name", ["papo", "kl_prcp", "entropy_penalty", "likelihood"])
def test_a_coefficient_of_zero_changes_no_update(name):
    off = ("algorithm=dapo", f"auxiliary.a={name}", "auxiliary.a.coef=0")
    zero, zero_change = updated(*off)
    none, change = updated("algorithm=dapo")
    assert zero.metrics["grad_norm"] == pytest.approx(none.metrics["grad_norm"], rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(zero_change, change, dim=0)
    assert cosine > 0.9999


def test_without_cf_grad_the_counterfactual_is_measured_once_for_all_updates():
    run = (*RUN, "rl.epochs_per_step=2")
    learner, experience = learner_and_experience(*run)
    batch = with_advantages(learner, experience, 1)
    ((_, measured),) = batch.counterfactual.items()
    assert (measured.logprobs[batch.mask] < 0).all()
    assert not measured.logprobs.requires_grad
    live, experience = learner_and_experience(*run, "auxiliary.a.cf_grad=true")
    assert not with_advantages(live, experience, 1).counterfactual
