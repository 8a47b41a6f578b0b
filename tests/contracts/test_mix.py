"""What every registered mix promises."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vexp.dataset.base import Dataset, Item
from vexp.registry import REGISTRY

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class Numbers(Dataset):
    """`count` numbered items for training, fewer for dev and test."""

    count: int

    def size(self, split):
        return self.count - SPLITS.index(split)

    def item(self, split, index):
        tag = ("single", "multi", "multi")[index % 3]
        return Item(id=f"{split}/{index}", question=f"{split} {index}", answer=str(index), tag=tag)


@pytest.fixture(params=REGISTRY.names("mix"))
def make(request):
    """Builds the mix anew, over datasets of different sizes."""
    datasets = {"small": Numbers(count=4), "large": Numbers(count=9)}
    return lambda: REGISTRY.get("mix", request.param)(datasets=datasets)


def everything(mix, split="train"):
    return sorted((n, i) for n, dataset in mix.datasets.items() for i in range(dataset.size(split)))


def epoch(mix, number, *, seed=0, split="train"):
    total = 2 * len(everything(mix, split))  # even, so that it is whole in any ratio of pools
    return [mix.pick(number * total + n, seed=seed, split=split) for n in range(total)]


def test_a_pick_does_not_depend_on_earlier_ones(make):
    forth, back = make(), make()
    found = {n: forth.pick(n, seed=3) for n in range(40)}
    assert {n: back.pick(n, seed=3) for n in reversed(range(40))} == found


@pytest.mark.parametrize("split", SPLITS)
def test_every_item_is_seen_before_one_of_its_kind_is_seen_again(make, split):
    """Of the items with one tag, any run of as many draws as there are items is a permutation."""
    mix = make()
    drawn = [mix.pick(n, seed=0, split=split) for n in range(200)]
    for tag in ("single", "multi"):
        tagged = [
            e for e in everything(mix, split) if mix.datasets[e[0]].tag_of(split, e[1]) == tag
        ]
        found = [entry for entry in drawn if entry in set(tagged)]
        rounds = [found[i : i + len(tagged)] for i in range(0, len(found), len(tagged))]
        assert len(rounds) > 5
        assert all(sorted(each) == tagged for each in rounds[:-1])


def test_epochs_and_seeds_have_orders_of_their_own(make):
    mix = make()
    orders = [epoch(mix, number, seed=seed) for number in (0, 1) for seed in (0, 1)]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


@pytest.mark.parametrize("split", SPLITS)
def test_a_drawn_item_carries_the_name_of_its_dataset(make, split):
    mix = make()
    for ordinal in range(20):
        name, index = mix.pick(ordinal, seed=0, split=split)
        item = mix.draw(ordinal, seed=0, split=split)
        assert item.id == f"{name}/{split}/{index}"
        assert item.question == f"{split} {index}"
