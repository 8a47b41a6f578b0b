"""The metrics of a step: what is logged of the signals that are there, against plain loops."""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass

import pytest
import torch

from tests.layouts import layouts
from tests.train.fakes import SMALLEST, experience
from vexp.experience.batch import Counterfactual, ImageAttention
from vexp.policy.policy import PolicyOutput
from vexp.probe.attention import ImageLogits
from vexp.registry import REGISTRY
from vexp.reward.base import ObservedReward
from vexp.spec.resolve import resolve
from vexp.train import metrics
from vexp.train.checkpoint import State
from vexp.train.learner import make_learner
from vexp.train.step import train_step
from vexp.train.timing import Clock

BOXES = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))
LENGTHS = (5, 3, 1, 4)
DISCARD = REGISTRY.get("distortion", "discard")()
LAYER = "attention/5"


def composed(*overrides):
    return resolve([*SMALLEST, *overrides])


def batch(**fields):
    """Four responses to two prompts; the second prompt has no image."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]

    def tokens(scale=1.0):
        return scale * torch.rand(4, 5, generator=generator)

    image = tokens(0.5)
    has_image = torch.tensor([True, True, False, False])
    pooled = torch.rand(4, 4, generator=generator)
    given = {
        "mask": mask,
        "group": torch.tensor([0, 0, 1, 1]),
        "has_image": has_image,
        "accuracies": torch.tensor([1.0, 0.0, 1.0, 0.0]),
        "evidence": (BOXES, ()),
        "layouts": layouts((2, 2), (0, 0)),
        "entropy": tokens(3.0) * mask,
        "similarity": (tokens(2.0) - 1) * mask,
        "old_logprobs": -tokens(1.0) * mask,
        "counterfactual": {DISCARD: Counterfactual(-tokens(2.0) * mask)},
        "attention": {
            5: ImageAttention(
                image=image * mask * has_image[:, None],
                evidence=image * tokens() * mask * has_image[:, None],
                share=tokens(),
                pooled=pooled / pooled.sum(1, keepdim=True) * has_image[:, None],
                image_tokens=torch.tensor([4, 4, 0, 0]),
                evidence_tokens=torch.tensor([2, 2, 0, 0]),
                response=tokens(0.4) * mask,
            )
        },
    }
    return experience(**given | fields)


def test_attention_is_averaged_over_the_responses_that_have_an_image():
    made = batch()
    seen = made.attention[5]
    found = metrics.of_experience(composed(), made)
    mean = {
        name: statistics.fmean(
            statistics.fmean(values[row, : LENGTHS[row]].double().tolist()) for row in (0, 1)
        )
        for name, values in (
            ("image", seen.image),
            ("response", seen.response),
            ("query", 1 - seen.image - seen.response),
        )
    }
    for name, value in mean.items():
        assert found[f"{LAYER}/{name}"] == pytest.approx(value, abs=1e-6)
    assert sum(found[f"{LAYER}/{name}"] for name in mean) == pytest.approx(1, abs=1e-6)
    late = []
    for row in (0, 1):
        x, n = seen.image[row].tolist(), LENGTHS[row]
        late.append(sum(x[n // 2 : n]) / sum(x[: n // 2]))
    assert found[f"{LAYER}/late_early"] == pytest.approx(statistics.fmean(late), rel=1e-5)
    assert found[f"{LAYER}/late_early/correct"] == pytest.approx(late[0], rel=1e-5)
    assert found[f"{LAYER}/late_early/wrong"] == pytest.approx(late[1], rel=1e-5)


def test_evidence_is_measured_where_there_are_boxes():
    made = batch()
    pooled = made.attention[5].pooled
    found = metrics.of_experience(composed(), made)
    mass = [float(pooled[row, 0] + pooled[row, 3]) for row in (0, 1)]
    assert found[f"{LAYER}/evidence_mass"] == pytest.approx(statistics.fmean(mass), abs=1e-6)
    assert found[f"{LAYER}/evidence_area"] == 0.5
    hits = [float(pooled[row].argmax()) in (0.0, 3.0) for row in (0, 1)]
    assert found[f"{LAYER}/pointing"] == statistics.fmean(hits)
    for name, kappa in (("coverage", 1), ("coverage_2", 2)):
        share = [float(pooled[row, cell] >= kappa / 4) for row in (0, 1) for cell in (0, 3)]
        assert found[f"{LAYER}/{name}"] == statistics.fmean(share)
    goal = REGISTRY.get("target", "gaussian_mixture")().distribution(BOXES, (2, 2)).tolist()
    kl = [
        sum(p * math.log(p / q) for p, q in zip(pooled[row].tolist(), goal, strict=True))
        for row in (0, 1)
    ]
    assert found[f"{LAYER}/attention_kl"] == pytest.approx(statistics.fmean(kl), abs=1e-6)


def test_the_target_is_the_one_that_is_trained():
    made = batch()
    hard = composed("experiment=ease", "auxiliary.ease.target=hard_box")
    given, other = (metrics.of_experience(run, made) for run in (composed(), hard))
    assert abs(given[f"{LAYER}/attention_kl"] - other[f"{LAYER}/attention_kl"]) > 1e-3


def test_grounded_tokens_of_the_whole_step():
    made = batch()
    score = made.old_logprobs.exp() - made.counterfactual[DISCARD].logprobs.exp()
    pairs = [
        (float(score[row, t]), float(made.entropy[row, t]))
        for row, length in enumerate(LENGTHS)
        for t in range(length)
    ]
    inner = [h for w, h in pairs if w > 0.2]
    outer = [h for w, h in pairs if not w > 0.2]
    assert inner and outer
    found = metrics.of_experience(composed(), made)
    assert found["grounded_share"] == pytest.approx(len(inner) / len(pairs))
    assert found["entropy/grounded"] == pytest.approx(statistics.fmean(inner), abs=1e-6)
    assert found["entropy/other"] == pytest.approx(statistics.fmean(outer), abs=1e-6)
    gap = statistics.fmean(inner) - statistics.fmean(outer)
    assert found["entropy/gap"] == pytest.approx(gap, abs=1e-6)


def test_late_early_focus_divides_means_of_shares():
    made = batch()
    shares = {"": [0, 0], "/correct": [0, 0], "/wrong": [0, 0]}
    for row in (0, 1):  # those with an image
        n = LENGTHS[row]
        focus = made.similarity[row, :n].tolist()
        for t in sorted(range(n), key=lambda t: -focus[t])[: max(1, int(0.4 * n))]:
            for part in ("", "/wrong" if row else "/correct"):
                shares[part][t + 1 > n / 2] += 1 / n
    found = metrics.of_experience(composed(), made)
    for part, (early, late) in shares.items():
        expected = pytest.approx(late / early) if early else None
        assert found.get(f"late_early_focus{part}") == expected


EMPTY = {"counterfactual": {}, "attention": {}, "entropy": None, "similarity": None}


def test_nothing_is_logged_of_what_is_not_there():
    assert metrics.of_experience(composed(), batch(**EMPTY)) == {}


def test_an_empty_set_is_left_out_and_not_0():
    made = batch(
        old_logprobs=torch.zeros(4, 5), counterfactual={DISCARD: Counterfactual(torch.zeros(4, 5))}
    )
    found = metrics.of_experience(composed(), made)
    assert found["grounded_share"] == 0
    assert not {"entropy/grounded", "entropy/gap"} & found.keys()
    blind = batch(
        has_image=torch.zeros(4, dtype=torch.bool),
        evidence=((), ()),
        layouts=((), ()),
        attention={
            5: ImageAttention(*[torch.zeros(4, 5)] * 3, torch.zeros(4, 1), *[torch.zeros(4)] * 2)
        },
    )
    names = metrics.of_experience(composed(), blind)
    assert not [name for name in names if name.startswith(("attention", "late_early"))]


def step(*overrides):
    run = composed("group_filter=none", *overrides)
    return train_step(make_learner(run, None, None, "cpu"), State(), Clock()).metrics


def test_a_vicra_step_logs_its_grounded_tokens_and_their_entropy_where_asked_to():
    found = step("experiment=vicra")
    assert {"grounded_share", "credit/negative_share"} <= found.keys()
    assert not [name for name in found if name.startswith(("attention", "entropy"))]
    found = step("experiment=vicra", "rl.log_entropy=true")
    assert {"entropy", "grounded_share", "entropy/other"} <= found.keys()


def test_a_sayo_step_logs_attention():
    found = step("experiment=sayo")
    names = ("image", "query", "response", "evidence_mass", "pointing", "tas", "attention_ratio")
    assert {f"attention/1/{name}" for name in names} <= found.keys()
    assert "grounded_share" not in found
    parts = [found[f"attention/1/{name}"] for name in names[:3]]
    assert sum(parts) == pytest.approx(1, abs=1e-5)
    # Every item of the default dataset has boxes, so the reward is the ratio.
    assert found["attention/1/attention_ratio"] == pytest.approx(found["reward/attention"])


def test_an_ease_step_logs_the_attention_it_supervises():
    gated = step("experiment=ease", "auxiliary.ease.gate=always")
    names = ("evidence_mass", "pointing", "attention_kl", "evidence_area")
    assert {f"auxiliary/ease/{name}" for name in names} <= gated.keys()
    assert 0 < gated["auxiliary/ease/evidence_area"] <= 0.5
    assert gated["auxiliary/ease/gate_coverage"] == 1


def test_what_ease_sees_does_not_depend_on_micro_batches():
    fields = ("experiment=ease", "auxiliary.ease.gate=always")
    whole, split = (step(*fields, f"compute.micro_batch_size={size}") for size in (64, 3))
    for name in ("evidence_mass", "attention_kl"):
        assert split[f"auxiliary/ease/{name}"] == pytest.approx(
            whole[f"auxiliary/ease/{name}"], abs=1e-5
        )


def test_a_plain_step_needs_no_pass_for_its_log():
    found = step("experiment=dapo", "group_filter=none")
    assert not [name for name in found if name.startswith(("attention", "entropy", "late"))]


def test_what_ease_sees_is_pooled_over_the_tokens_it_supervises():
    run = composed("experiment=ease")
    layer = run.auxiliary["ease"].layer.index(2)
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 2, 3, 4, generator=draw)  # [rollout, head, row, image token]
    logits[2:] = -torch.inf  # without an image
    rows = torch.tensor([[0, 2, 4], [1, 0, 2], [0, 1, 2], [0, 1, 2]])
    weights = torch.zeros(4, 5)
    weights[0, [0, 4]] = 0.5  # two of the three rows read
    made = batch(auxiliary={"ease": weights}, layers=2)
    output = PolicyOutput(
        torch.zeros(4, 5), attention={layer: ImageLogits(logits, None, 0)}, rows=rows
    )
    found = metrics.of_update(run, output, made)
    cells = [0.0] * 4
    for row in (0, 2):
        for head in range(2):
            total = math.fsum(math.exp(z) for z in logits[0, head, row].tolist())
            for cell, z in enumerate(logits[0, head, row].tolist()):
                cells[cell] += math.exp(z) / total / 4
    mass = found["auxiliary/ease/evidence_mass"]
    assert mass[0] == pytest.approx(cells[0] + cells[3], abs=1e-6)
    for values in found.values():
        assert not values[0].isnan()
        assert values[1:].isnan().all()  # no weight, no image
    assert metrics.means(found)["auxiliary/ease/evidence_mass"] == pytest.approx(float(mass[0]))


@dataclass(frozen=True, kw_only=True)
class Looks(ObservedReward):
    """Earns what the experience holds as entropy of the first token."""

    def observed(self, made):
        return made.entropy[:, 0].double()


def test_rewards_that_only_the_experience_knows_are_in_the_reward():
    looks = Looks(weight=2.0)
    run = composed()
    terms = {"accuracy": run.reward.terms["accuracy"], "looks": looks}
    run = dataclasses.replace(run, reward=dataclasses.replace(run.reward, terms=terms))
    text = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    seen = torch.tensor([[0.5], [0.25], [0.0], [0.0]]).expand(4, 5)
    made = batch(
        group=torch.tensor([3, 3, 5, 5]), entropy=seen.float(), rewards=text + 2 * seen[:, 0]
    )
    # two groups train; of four generated, three are all right or all wrong by their texts
    row = {"reward": 0.4, "reward/looks": 0.1875, "frac_zero_std": 0.75, "groups_generated": 4}
    found = metrics.with_observed(run, row, made)
    assert found["reward"] == pytest.approx(0.4 + 2 * 0.1875)
    assert found["frac_zero_std"] == 0.5  # the first group has a difference after all
    replayed = dataclasses.replace(made, replayed=torch.tensor([True, True, False, False]))
    assert metrics.with_observed(run, row, replayed)["frac_zero_std"] == 0.75
    assert metrics.with_observed(composed(), row, made) == row
