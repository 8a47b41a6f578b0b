"""VL-Rethinker's buffer: what is drawn, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.train.fakes import experience
from vexp.errors import ConfigError
from vexp.group_filter.base import ReplayedRollouts
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve

NAMES = [field.name for field in dataclasses.fields(ReplayedRollouts)]


def replay(**fields):
    return REGISTRY.get("group_filter", "replay")(**fields)


def noise(seed=0):
    return np.random.default_rng(seed)


def buffer_of(*outcomes):
    """Rollouts numbered by their ordinals, the n-th n % 3 + 1 tokens long."""
    count = len(outcomes)
    lengths = torch.arange(count) % 3 + 1
    mask = torch.arange(3) < lengths[:, None]
    found = dict.fromkeys(("rewards", "accuracies"), torch.ones(count, dtype=torch.float64))
    return found | {
        "ordinals": torch.arange(count),
        "places": torch.zeros(count, dtype=torch.int64),
        "tokens": torch.arange(count)[:, None].expand(-1, 3).clone(),
        "mask": mask,
        "logprobs": -torch.ones(count, 3),
        "outcome": torch.tensor(outcomes, dtype=torch.float64),
    }


def taught(outcomes, lengths, *, first=0, replayed=None):
    """What a step trained on: one response of the given length for each outcome."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    count = len(outcomes)
    return experience(
        mask=mask,
        group=torch.arange(count),
        ordinals=tuple(range(first, first + count)),
        place=torch.zeros(count, dtype=torch.int64),
        tokens=(torch.arange(count) + first)[:, None].expand(mask.shape).clone(),
        old_logprobs=torch.rand(mask.shape),
        outcome=torch.tensor(outcomes, dtype=torch.float64),
        accuracies=torch.ones(count, dtype=torch.float64),
        replayed=replayed,
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_one_rollout_is_drawn_in_proportion_to_its_advantage(alpha):
    outcomes = [1.0, -2.0, 0.5, -0.25]
    draws = 4000
    counts = np.zeros(4)
    generator = noise()
    for _ in range(draws):
        found = replay(alpha=alpha).recall(buffer_of(*outcomes), 1, 100, generator)
        counts[int(found.ordinals)] += 1
    weights = np.abs(outcomes) ** alpha
    expected = weights / weights.sum()
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) < 4 * error).all()


def test_two_are_drawn_one_after_the_other_without_the_first():
    """P(i, then j) = p_i p_j / (1 - p_i), compared with numpy's own way to draw so."""
    outcomes = [3.0, -1.0, 1.0, 0.5]
    p = np.abs(outcomes) / np.abs(outcomes).sum()
    expected = np.zeros(4)
    for i in range(4):
        for j in range(4):
            if i != j:
                expected[[i, j]] += p[i] * p[j] / (1 - p[i])
    found, draws, generator = np.zeros(4), 4000, noise(1)
    for _ in range(draws):
        found[replay().recall(buffer_of(*outcomes), 2, 100, generator).ordinals.numpy()] += 1
    np.testing.assert_allclose(found / draws, expected, atol=4 * 0.5 / np.sqrt(draws))


def test_none_is_drawn_twice_and_a_large_alpha_takes_the_largest():
    outcomes = [0.1 * n for n in range(1, 21)]
    found = replay(alpha=400.0).recall(buffer_of(*outcomes), 8, 100, noise())
    assert found.ordinals.tolist() == list(range(12, 20))
    assert len(replay().recall(buffer_of(*outcomes), 50, 100, noise())) == 20


@pytest.mark.parametrize(
    ("room", "batch", "ratio", "count"),
    [(6, 16, 0.5, 6), (10, 16, 0.5, 8), (16, 16, 1.0, 12), (4, 16, 0.0, None), (0, 16, 0.5, None)],
)
def test_room_ratio_and_buffer_bound_how_many(room, batch, ratio, count):
    found = replay(ratio=ratio).recall(buffer_of(*[1.0] * 12), room, batch, noise())
    assert (found and len(found)) == count


def test_what_is_drawn_depends_on_the_noise_alone():
    memory = buffer_of(*[1.0] * 12)

    def drawn(seed):
        return replay().recall(memory, 4, 16, noise(seed)).ordinals.tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_rows_stay_together_and_are_cut_to_the_longest():
    found = replay().recall(buffer_of(*[1.0, 1.0, 5.0, 1.0]), 4, 100, noise())
    assert found.tokens[:, 0].tolist() == found.ordinals.tolist()
    alone = replay(alpha=50.0).recall(buffer_of(1e-9, 9.0, 1e-9), 1, 100, noise())
    assert alone.tokens.tolist() == [[1, 1]]
    assert alone.mask.shape == alone.logprobs.shape == (1, 2)


def test_an_empty_buffer_has_nothing_to_recall():
    assert replay().recall(replay().initial_state(), 4, 16, noise()) is None


def test_only_new_rollouts_with_an_advantage_are_remembered():
    old = torch.tensor([False, False, True, False])
    memory = replay().remember({}, taught([1.0, 0.0, 2.0, -1.0], [2, 4, 4, 3], replayed=old))
    assert set(memory) == set(NAMES)
    assert memory["ordinals"].tolist() == [0, 3]
    assert memory["outcome"].tolist() == [1.0, -1.0]
    assert memory["mask"].sum(1).tolist() == [2, 3]
    assert memory["tokens"].shape == (2, 3)


def test_the_newest_stay():
    method, memory = replay(buffer=3), {}
    memory = method.remember(memory, taught([1.0, 2.0], [5, 1]))
    memory = method.remember(memory, taught([3.0, 4.0], [2, 3], first=10))
    assert memory["ordinals"].tolist() == [1, 10, 11]
    assert memory["outcome"].tolist() == [2.0, 3.0, 4.0]
    assert memory["tokens"].shape == (3, 3)


def test_old_logprobs_come_back_as_they_were():
    step = taught([1.0, -1.0], [3, 2])
    memory = replay().remember({}, step)
    memory = replay().remember(memory, taught([2.0], [7], first=5))
    kept = ReplayedRollouts(**memory).logprobs
    assert (
        kept[:2, :3].masked_fill(~step.mask, 0).equal(step.old_logprobs.masked_fill(~step.mask, 0))
    )


def test_a_step_without_an_advantage_leaves_the_memory():
    memory = replay().remember({}, taught([1.0], [2]))
    assert replay().remember(memory, taught([0.0], [2]))["ordinals"].tolist() == [0]
    assert replay().remember({}, taught([0.0], [2])) == {}


def test_it_keeps_every_group_and_needs_old_logprobs():
    assert replay().keep([[0.0], [1.0]], 1) == [True, True]
    assert replay().required() == ("old_logprobs",)
    assert [name for name in REGISTRY.names("group_filter") if REGISTRY.get(
        "group_filter", name)().replays] == ["replay"]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("reward.terms.attention=attention", "only after the experience pass"),
        ("credit=vppo", "compares old log-probs"),
    ],
)
def test_what_does_not_go_together_is_refused(override, match):
    boxes = "mix.datasets.main=digits_vqa"
    with pytest.raises(ConfigError, match=match):
        resolve([boxes, "group_filter=replay", override])


def test_the_overlay_is_the_papers_setting():
    run = resolve(["experiment=vl_rethinker"])
    assert run.group_filter == replay(alpha=1.0, ratio=0.5)
    assert (run.algorithm.name, run.algorithm.clip_high) == ("dr_grpo", 0.35)
    assert run.algorithm.aggregation == "token-mean"
