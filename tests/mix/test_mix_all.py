"""The mix `all`: every epoch shows every item of every dataset exactly once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.dataset.base import Dataset, Item
from vexp.errors import DataError
from vexp.mix.all import All, permuted


@dataclass(frozen=True, kw_only=True)
class Numbers(Dataset):
    """`count` numbered items."""

    count: int

    def size(self, split):
        return self.count if split == "train" else 2

    def item(self, split, index):
        return Item(id=f"{split}/{index}", question=str(index), answer=str(index))


@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 5))
def test_a_permutation_hits_everything_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(i, size, key=(seed, epoch)) for i in range(size)) == list(range(size))


@given(st.integers(2**30, 2**40), st.integers(0, 2**30 - 1))
def test_large_ranges_take_no_memory(size: int, place: int) -> None:
    assert 0 <= permuted(place, size, key=(0, 0)) < size


def test_places_are_spread_evenly() -> None:
    """Over many keys, each place goes everywhere about equally often (chi-square, 10 cells)."""
    for size in (5, 10, 64):
        counts = Counter(permuted(0, size, key=(seed, 0)) for seed in range(200 * size))
        chi_square = sum((counts[i] - 200) ** 2 / 200 for i in range(size))
        assert chi_square < size + 5 * (2 * size) ** 0.5


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 20), min_size=1),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_each_epoch_is_a_permutation_of_all_items(sizes, seed, epoch) -> None:
    mix = All(datasets={name: Numbers(count=count) for name, count in sizes.items()})
    total = sum(sizes.values())
    if not total:
        with pytest.raises(DataError, match="no train item"):
            mix.pick(0, seed=seed)
        return
    picks = [mix.pick(epoch * total + i, seed=seed) for i in range(total)]
    assert sorted(picks) == sorted((n, i) for n, count in sizes.items() for i in range(count))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    mix = All(datasets={"a": Numbers(count=50)})
    epochs = [
        [mix.pick(e * 50 + i, seed=s) for i in range(50)] for e, s in ((0, 0), (1, 0), (0, 1))
    ]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] == [mix.pick(i, seed=0) for i in range(50)]


def test_the_order_in_which_datasets_are_listed_does_not_matter() -> None:
    a, b = Numbers(count=3), Numbers(count=4)
    one, two = All(datasets={"a": a, "b": b}), All(datasets={"b": b, "a": a})
    assert [one.pick(i, seed=0) for i in range(20)] == [two.pick(i, seed=0) for i in range(20)]


def test_drawn_ids_are_unique_among_datasets() -> None:
    mix = All(datasets={"a": Numbers(count=3), "b": Numbers(count=3)})
    assert len({mix.draw(i, seed=0).id for i in range(6)}) == 6
    assert mix.draw(0, seed=0, split="dev").id.split("/")[1] == "dev"
