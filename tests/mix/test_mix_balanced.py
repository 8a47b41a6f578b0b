"""The ratio of single and multi evidence, and what it asks of the data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset.base import Dataset, Item
from vexp.dataset.digits_vqa import DigitsVqa
from vexp.errors import DataError
from vexp.mix.balanced import Balanced
from vexp.spec.resolve import resolve


@dataclass(frozen=True, kw_only=True)
class Tagged(Dataset):
    tags: tuple[str, ...]

    def size(self, split):
        return len(self.tags)

    def item(self, split, index):
        return Item(id=str(index), question="?", answer="!", tag=self.tags[index])


def pools(single: int, multi: int, untagged: int = 0) -> dict[str, Dataset]:
    tags = ("single",) * single + ("multi",) * multi + ("",) * untagged
    return {"a": Tagged(tags=tags[::2]), "b": Tagged(tags=tags[1::2])}


def drawn_tags(mix: Balanced, count: int) -> list[str]:
    picks = [mix.pick(n, seed=5) for n in range(count)]
    return [mix.datasets[name].tag_of("train", index) for name, index in picks]


@given(st.integers(2, 9), st.integers(2, 30), st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
def test_every_stretch_has_the_ratio(single, multi, share) -> None:
    tags = drawn_tags(Balanced(datasets=pools(single, multi, 3), multi_share=share), 80)
    assert "" not in tags
    for count in (20, 40, 80):
        assert tags[:count].count("multi") == round(share * count)


def test_the_smaller_pool_is_repeated_and_the_larger_is_not() -> None:
    mix = Balanced(datasets=pools(3, 40))
    seen = Counter(mix.pick(n, seed=0) for n in range(60))
    counts = {tag: [] for tag in ("single", "multi")}
    for (name, index), count in seen.items():
        counts[mix.datasets[name].tag_of("train", index)].append(count)
    assert counts["single"] == [10, 10, 10]
    assert counts["multi"] == [1] * 30


@pytest.mark.parametrize(("share", "missing"), [(0.5, "multi"), (1.0, "multi"), (0.0, "single")])
def test_an_empty_pool_is_named_before_training(share, missing) -> None:
    there = {"multi": pools(4, 0, 2), "single": pools(0, 4, 2)}[missing]
    with pytest.raises(DataError, match=f"no train item tagged '{missing}'") as caught:
        Balanced(datasets=there, multi_share=share).check_data()
    assert "none: 2" in str(caught.value)
    assert "mix.multi_share=" in str(caught.value)


@pytest.mark.parametrize(("name", "share"), [("single_only", 0.0), ("multi_only", 1.0)])
def test_the_variants_draw_from_one_pool(name, share) -> None:
    mix = resolve([f"mix={name}"]).mix
    assert isinstance(mix, Balanced)
    assert mix.multi_share == share
    tag = "multi" if share else "single"
    assert {mix.draw(n, seed=1).tag for n in range(20)} == {tag}


def test_it_balances_what_a_dataset_has_in_another_ratio() -> None:
    mix = Balanced(datasets={"main": DigitsVqa(single_share=0.9, train_size=400)})
    tags = Counter(mix.draw(n, seed=0).tag for n in range(60))
    assert tags == {"single": 30, "multi": 30}
