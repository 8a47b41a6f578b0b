"""Questions about real handwritten digits, drawn in colours on a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vexp.config.types import UNHASHED, Between, Count, Fraction, PositiveInt
from vexp.dataset._draws import Draws
from vexp.dataset.base import Dataset, Item, Split
from vexp.errors import ConfigError, Problem
from vexp.registry import register

Single = Literal["which"]
Multi = Literal["sum", "larger", "count"]

COLORS = ("red", "green", "blue", "yellow", "purple", "white", "cyan", "orange")


@dataclass(frozen=True)
class _Draft:
    """A question before anything is drawn; digit i has color i."""

    digits: list[int]
    colors: list[str]
    evidence: list[int]  # which of the digits have to be read, in the order of a demonstration
    question: str
    answer: str


@register("dataset", "digits_vqa")
@dataclass(frozen=True, kw_only=True)
class DigitsVqa(Dataset):
    """Real handwritten digits in colours, with evidence boxes; made on the fly, nothing to fetch.

    Train, dev and test use different glyphs. An item is a function of the fields, the split and the
    index alone. Digits asked for are balanced, so that no answer can be guessed from the question:
    the best blind guess is right in 1 of 10 `which`, 1 of 10 `sum`, 1 of 9 `larger` and 1 of n + 1
    `count` questions about n digits.
    """

    provides = ("boxes",)

    image_size: PositiveInt = 56  # side of the square image in pixels
    grid: PositiveInt = 2  # cells per side; each glyph has a cell of its own
    glyph_min: Annotated[int, Between(8)] = 28  # smallest side of a glyph in pixels
    glyph_max: Annotated[int, Between(8)] = 28  # largest side; glyphs never overlap
    jitter: Count = 0  # pixels by which a glyph may leave the middle of its cell, along each axis
    digits_min: PositiveInt = 2  # fewest digits in an image
    digits_max: PositiveInt = 2  # most digits in an image
    colors: Annotated[int, Between(2, len(COLORS))] = (
        6  # how many colours there are; each once per image
    )
    single: tuple[Single, ...] = ("which",)  # kinds of question with one piece of evidence
    multi: tuple[Multi, ...] = ("sum", "larger", "count")  # kinds with several
    single_share: Fraction = 0.5  # share of questions with one piece of evidence
    narrate: Literal["evidence", "all"] = "evidence"  # which digits a demonstration names
    train_size: PositiveInt = 20_000  # questions to train on
    dev_size: Annotated[PositiveInt, UNHASHED] = 1_000  # for tuning
    test_size: Annotated[PositiveInt, UNHASHED] = 1_000  # held out
    seed: Count = 0  # another seed, other items (of the same glyphs)

    def __post_init__(self) -> None:
        if found := list(self._conflicts()):
            raise ConfigError(found)

    def size(self, split: Split) -> int:
        return {"train": self.train_size, "dev": self.dev_size, "test": self.test_size}[split]

    def item(self, split: Split, index: int) -> Item:
        if not 0 <= index < self.size(split):
            raise IndexError(f"{split} has {self.size(split)} items, there is no item {index}")
        from vexp.dataset._drawing import Layout, draw
        from vexp.dataset._glyphs import of_digit

        draws = Draws("digits_vqa", self.seed, split, index)
        draft = self._draft(draws)
        glyphs = [draws.choose(of_digit(split, digit)) for digit in draft.digits]
        layout = Layout(self.image_size, self.grid, self.glyph_min, self.glyph_max, self.jitter)
        places = layout.places(len(glyphs), draws)
        image, boxes = draw(self.image_size, glyphs, draft.colors, places)
        return Item(
            id=f"{split}/{index:06d}",
            question=draft.question,
            answer=draft.answer,
            image=image,
            boxes=tuple(boxes[i] for i in draft.evidence),
            tag="single" if len(draft.evidence) == 1 else "multi",
            demonstration=self._demonstration(draft),
        )

    def tag_of(self, split: Split, index: int) -> str:
        first = Draws("digits_vqa", self.seed, split, index).unit()
        return "single" if first < self.single_share else "multi"

    def content(self) -> dict[str, Any]:
        return {"items": 1}  # raised when equal fields make other items than before

    def _draft(self, draws: Draws) -> _Draft:
        kinds = self.single if draws.unit() < self.single_share else self.multi
        kind = draws.choose(kinds)
        count = draws.between(self.digits_min, self.digits_max)
        digits = [draws.below(10) for _ in range(count)]
        return _QUESTIONS[kind](digits, draws.sample(COLORS[: self.colors], count), draws)

    def _demonstration(self, draft: _Draft) -> str:
        everything = _by_palette(range(len(draft.digits)), draft.colors)
        order = everything if self.narrate == "all" else draft.evidence
        seen = ", ".join(f"{draft.colors[i]} is {draft.digits[i]}" for i in order)
        return f"<think>{seen}</think>\\boxed{{{draft.answer}}}"

    def _conflicts(self) -> Iterator[Problem]:
        cell = self.image_size // self.grid
        if self.image_size % self.grid:
            yield Problem(
                f"image_size ({self.image_size}) is not a multiple of grid ({self.grid})",
                accepted="cells of whole pixels",
            )
        if self.glyph_min > self.glyph_max:
            yield Problem(f"glyph_min ({self.glyph_min}) exceeds glyph_max ({self.glyph_max})")
        if self.glyph_min > cell:
            yield Problem(
                f"glyph_min ({self.glyph_min}) exceeds the side of a cell ({cell} pixels)",
                remedy="lower glyph_min or grid, or raise image_size",
            )
        if self.glyph_max > self.image_size:
            yield Problem(
                f"glyph_max ({self.glyph_max}) exceeds the image's side ({self.image_size})"
            )
        yield from self._count_conflicts()

    def _count_conflicts(self) -> Iterator[Problem]:
        most = min(self.grid**2, self.colors)
        if self.digits_min > self.digits_max:
            yield Problem(f"digits_min ({self.digits_min}) exceeds digits_max ({self.digits_max})")
        if self.digits_max > most:
            yield Problem(
                f"there is no room for {self.digits_max} digits",
                accepted=f"digits_max at most {most}: a cell (grid x grid) and a colour for each",
            )
        if self.single_share > 0 and not self.single:
            yield Problem("`single` is empty", remedy="name a kind, or set single_share: 0")
        if self.single_share < 1 and not self.multi:
            yield Problem("`multi` is empty", remedy="name a kind, or set single_share: 1")
        if self.single_share < 1 and self.digits_min < 2:
            yield Problem(
                "questions with several pieces of evidence need at least two digits",
                remedy="set digits_min: 2, or single_share: 1",
            )


def _which(digits: list[int], colors: list[str], _: Draws) -> _Draft:
    return _Draft(digits, colors, [0], f"Which digit is {colors[0]}?", str(digits[0]))


def _sum(digits: list[int], colors: list[str], _: Draws) -> _Draft:
    question = f"What is the sum of {colors[0]} and {colors[1]}?"
    return _Draft(digits, colors, [0, 1], question, str(digits[0] + digits[1]))


def _larger(digits: list[int], colors: list[str], draws: Draws) -> _Draft:
    larger = draws.between(1, 9)
    pair = draws.sample((larger, draws.below(larger)), 2)
    question = f"Which digit is larger, {colors[0]} or {colors[1]}?"
    return _Draft([*pair, *digits[2:]], colors, [0, 1], question, str(larger))


def _count(digits: list[int], colors: list[str], draws: Draws) -> _Draft:
    parity = draws.below(2)
    count = draws.below(len(digits) + 1)
    counted = draws.sample(range(len(digits)), count)
    digits = [
        2 * draws.below(5) + (parity if i in counted else 1 - parity) for i in range(len(digits))
    ]
    question = f"How many digits are {('even', 'odd')[parity]}?"
    return _Draft(digits, colors, _by_palette(range(len(digits)), colors), question, str(count))


def _by_palette(places: Iterable[int], colors: list[str]) -> list[int]:
    return sorted(places, key=lambda place: COLORS.index(colors[place]))


_QUESTIONS: dict[str, Callable[[list[int], list[str], Draws], _Draft]] = {
    "which": _which,
    "sum": _sum,
    "larger": _larger,
    "count": _count,
}
