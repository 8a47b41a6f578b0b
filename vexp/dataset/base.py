"""What a dataset is: numbered items of image, question and answer, with evidence boxes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vexp.errors import Problem
from vexp.registry import Component

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

Split = Literal["train", "dev", "test"]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the item's own image


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about one image."""

    id: str  # unique among all items of the dataset, e.g. "test/000123"
    question: str
    answer: str
    image: Image | None = None  # RGB; None for a question without an image
    boxes: tuple[Box, ...] = ()  # the evidence
    tag: str = ""  # "single" or "multi" evidence; empty when unknown
    demonstration: str = ""  # a full response to imitate in a supervised stage; empty when none


class Dataset(Component):
    """An indexable source of items; `item` is a pure function of its arguments and the fields."""

    kind: ClassVar[str] = "dataset"

    @abstractmethod
    def size(self, split: Split) -> int:
        """How many items the split has."""

    @abstractmethod
    def item(self, split: Split, index: int) -> Item:
        """Item `index` of a split, 0 <= index < size(split).

        Raises:
            DataError: names the file and row of an item that cannot be read.
        """

    def question_of(self, split: Split, index: int) -> str:
        """The question of an item. Override it where it is to be had without making the item."""
        return self.item(split, index).question

    def tag_of(self, split: Split, index: int) -> str:
        """The tag of an item: "single" or "multi" evidence, empty when unknown.

        Override it where that can be told without making the item: mixes ask for every tag.
        """
        return self.item(split, index).tag

    def longest(self, split: Split, count: int) -> Sequence[int]:
        """About `count` items whose prompts are likely the longest: by their text, by their image.

        Override it where items differ in size; as it is, some from all over the split.
        """
        size = self.size(split)
        return sorted({place * size // count for place in range(count)}) if size else []

    def image_file(self, split: Split, index: int) -> Path | None:
        """The file that an item's image is in, to refer to it; None where it has none."""
        return None

    def held_out_content(self, split: Split) -> Mapping[str, Any]:
        """What identifies a split's data beyond the fields and `content()`; enters evaluation keys.

        For data that cannot change what is trained, such as a test file of its own.
        """
        return {}

    def golds(self) -> Iterator[tuple[str, str]]:
        """Place (to name in a message) and gold answer of every item that answers are judged by.

        Override it where they can be read without making the items; as it is, of some for training.
        """
        for index in range(min(8, self.size("train"))):
            item = self.item("train", index)
            yield item.id, item.answer

    def data_problems(self) -> Iterator[Problem]:
        """What is wrong with the data itself (missing images, bad boxes, empty answers), by row.

        Called once before training starts; cheap checks only (no image is decoded whole).
        """
        return iter(())

    def data_notes(self) -> Iterator[str]:
        """Yield what a user should know of data that is read: what was left out or rewritten.

        Each with its count and its first rows. Said once before training starts, after
        `data_problems` had none.
        """
        return iter(())
