"""Questions about bar, line and scatter charts, drawn from real tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from vexp.config.types import UNHASHED, Between, Count, Fraction, PositiveInt
from vexp.dataset._draws import Draws
from vexp.dataset.base import Dataset, Item, Split
from vexp.errors import ConfigError, Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.dataset._chart import ChartImage, Drawing, Key
    from vexp.dataset._vega import Panel

Shape = Literal["bar", "line", "scatter"]
Single = Literal["value", "which", "above"]
Multi = Literal["compare", "difference", "count"]
# Which questions a chart answers exactly: points of a scatter chart have no values beside them.
FITS: dict[Shape, tuple[str, ...]] = {
    "bar": ("value", "which", "compare", "difference", "count"),
    "line": ("value", "which", "compare", "difference", "count"),
    "scatter": ("above", "compare", "count"),
}
CLEAR = Decimal("0.05")  # share of the values' range by which a height has to differ to be seen
TRIES = 200  # draws before an item is given up; a few are enough


@dataclass(frozen=True)
class _Drawn:
    """A chart as it was drawn, and what its marks show."""

    chart: ChartImage
    noun: str
    shape: Shape
    drawing: Drawing

    @property
    def plural(self) -> str:
        return "varieties" if self.noun == "variety" else f"{self.noun}s"

    @property
    def keys(self) -> list[Key]:
        return list(self.drawing.boxes)

    def shown(self, key: Key) -> Decimal:
        """The value as it is printed, or for points as it is plotted."""
        from vexp.dataset._chart import number

        value = self.chart.series[key[0]][self.chart.labels.index(key[1])]
        return Decimal(repr(value)) if self.shape == "scatter" else Decimal(number(value))


@dataclass(frozen=True)
class _Asked:
    question: str
    answer: str
    evidence: tuple[Key, ...]  # the marks that have to be read
    seen: tuple[str, ...]  # what a demonstration says about them


@register("dataset", "charts_vqa")
@dataclass(frozen=True, kw_only=True)
class ChartsVqa(Dataset):
    """Charts of real tables, drawn on the fly with exact evidence boxes; nothing to fetch.

    The tables are those of vega_datasets; train, dev and test show different rows of them. An item
    is a function of the fields, the split and the index alone. Bars and points of lines have their
    values printed beside them, so every answer can be read exactly; a mark's box holds the mark,
    its value, and of a bar or a scattered point its label. A blind guess is right in 1 of 2
    `compare` and `above` questions.
    """

    provides = ("boxes",)

    width: Annotated[int, Between(224)] = 448  # of the image in pixels
    height: Annotated[int, Between(168)] = 336  # of the image in pixels
    charts: tuple[Shape, ...] = ("bar", "line", "scatter")  # which kinds are drawn
    marks_min: Annotated[int, Between(3, 8)] = 4  # fewest marks of a series
    marks_max: Annotated[int, Between(3, 8)] = 6  # most marks of a series
    single: tuple[Single, ...] = ("value", "which", "above")  # questions about one mark
    multi: tuple[Multi, ...] = ("compare", "difference", "count")  # questions about several
    single_share: Fraction = 0.5  # share of questions with one piece of evidence
    train_size: PositiveInt = 20_000  # questions to train on
    dev_size: Annotated[PositiveInt, UNHASHED] = 1_000  # for tuning
    test_size: Annotated[PositiveInt, UNHASHED] = 1_000  # held out
    seed: Count = 0  # another seed, other charts (of the same rows)

    def __post_init__(self) -> None:
        if found := list(self._conflicts()):
            raise ConfigError(found)

    def size(self, split: Split) -> int:
        return {"train": self.train_size, "dev": self.dev_size, "test": self.test_size}[split]

    def item(self, split: Split, index: int) -> Item:
        if not 0 <= index < self.size(split):
            raise IndexError(f"{split} has {self.size(split)} items, there is no item {index}")
        draws = Draws("charts_vqa", self.seed, split, index)
        kind = self._kind(draws)
        drawn, asked = self._drawn(split, kind, draws)
        return Item(
            id=f"{split}/{index:06d}",
            question=asked.question,
            answer=asked.answer,
            image=drawn.drawing.image,
            boxes=tuple(drawn.drawing.boxes[key] for key in asked.evidence),
            tag="single" if kind in get_args(Single) else "multi",
            demonstration=f"<think>{', '.join(asked.seen)}</think>\\boxed{{{asked.answer}}}",
        )

    def tag_of(self, split: Split, index: int) -> str:
        kind = self._kind(Draws("charts_vqa", self.seed, split, index))
        return "single" if kind in get_args(Single) else "multi"

    def content(self) -> dict[str, Any]:
        return {"items": 1}  # raised when equal fields make other items than before

    def _kind(self, draws: Draws) -> str:
        kinds: Sequence[str] = self.single if draws.unit() < self.single_share else self.multi
        return draws.choose(kinds)

    def _drawn(self, split: Split, kind: str, draws: Draws) -> tuple[_Drawn, _Asked]:
        """A chart and a question that fits it; another chart where two values are equal."""
        from vexp.dataset._vega import panels

        shapes = [shape for shape in self.charts if kind in FITS[shape]]
        for _ in range(TRIES):
            shape = draws.choose(shapes)
            drawn = self._chart(draws.choose(draws.choose(panels(split, shape))), draws)
            asked = _QUESTIONS[kind](drawn, draws) if drawn else None
            if drawn and asked:
                return drawn, asked
        raise AssertionError(f"no chart for {kind!r} in {TRIES} tries")

    def _chart(self, panel: Panel, draws: Draws) -> _Drawn | None:
        """Part of a panel as a chart; None where too few of its points have room."""
        from vexp.dataset import _chart

        count = min(draws.between(self.marks_min, self.marks_max), len(panel.labels))
        chosen = _chosen(panel, count, draws)
        names = list(panel.measures)
        if panel.shape == "bar":
            names = [draws.choose(names)]
        elif panel.shape == "scatter" or draws.unit() < 0.5:
            names = draws.sample(names, 2)
            if panel.title.startswith("Airports"):
                names = list(panel.measures)  # a map has its longitude across
        else:
            names = [draws.choose(names)]
        chart = _chart.ChartImage(
            title=panel.title,
            axis=names[-1],
            across=names[0],
            labels=tuple(panel.labels[i] for i in chosen),
            series={name: tuple(panel.measures[name][i] for i in chosen) for name in names},
            colors=tuple(draws.sample(list(_chart.PALETTE), len(names))),
        )
        return self._rendered(chart, panel, draws)

    def _rendered(self, chart: ChartImage, panel: Panel, draws: Draws) -> _Drawn | None:
        import dataclasses

        from vexp.dataset import _chart

        if panel.shape == "bar":
            lying = draws.unit() < 0.5 or not _chart.fits_standing(chart, self.width, self.height)
            chart = dataclasses.replace(chart, horizontal=lying)
        draw = {"bar": _chart.bars, "line": _chart.lines, "scatter": _chart.points}[panel.shape]
        drawing = draw(chart, self.width, self.height)
        if len(drawing.boxes) < 3:
            return None
        return _Drawn(chart, panel.noun, panel.shape, drawing)

    def _conflicts(self) -> Iterator[Problem]:
        if self.marks_min > self.marks_max:
            yield Problem(f"marks_min ({self.marks_min}) exceeds marks_max ({self.marks_max})")
        if not self.charts:
            yield Problem("`charts` is empty", accepted=", ".join(get_args(Shape)))
            return
        for name, kinds, share in (
            ("single", self.single, self.single_share),
            ("multi", self.multi, 1 - self.single_share),
        ):
            if share > 0 and not kinds:
                yield Problem(f"`{name}` is empty", remedy="name a kind, or change single_share")
            for kind in kinds:
                fitting = [shape for shape in get_args(Shape) if kind in FITS[shape]]
                if share > 0 and not set(fitting) & set(self.charts):
                    yield Problem(
                        f"no chart answers {kind!r} questions",
                        where=f"{name} and charts",
                        accepted=f"charts with one of {', '.join(fitting)}",
                        remedy=f"add one to `charts`, or remove {kind!r} from `{name}`",
                    )


def _chosen(panel: Panel, count: int, draws: Draws) -> list[int]:
    """Places of the labels to show; of a line a stretch, every third hour of a day."""
    if panel.shape != "line":
        return sorted(draws.sample(range(len(panel.labels)), count))
    stride = 3 if len(panel.labels) >= 3 * count else 1
    first = draws.below(len(panel.labels) - stride * (count - 1))
    return [first + stride * n for n in range(count)]


def _of(key: Key, drawn: _Drawn) -> str:
    """How a question names a mark: by its label, and its series where there are several."""
    return f"{key[0]} at {key[1]}" if _several(drawn) else key[1]


def _several(drawn: _Drawn) -> bool:
    return drawn.shape == "line" and len(drawn.chart.series) > 1


def _measure(drawn: _Drawn) -> str:
    """What the values are, without the unit."""
    name = drawn.chart.axis if drawn.shape != "line" else next(iter(drawn.chart.series))
    return name.partition(" (")[0]


def _read(key: Key, drawn: _Drawn) -> str:
    return f"{_of(key, drawn)} is {drawn.shown(key)}"


def _value(drawn: _Drawn, draws: Draws) -> _Asked | None:
    key = draws.choose(drawn.keys)
    question = f"What is the value of {_of(key, drawn)}?"
    return _Asked(question, str(drawn.shown(key)), (key,), (_read(key, drawn),))


def _which(drawn: _Drawn, draws: Draws) -> _Asked | None:
    key = draws.choose(drawn.keys)
    value = drawn.shown(key)
    rivals = [other for other in drawn.keys if other[0] == key[0]]
    if sum(drawn.shown(other) == value for other in rivals) > 1:
        return None
    of = f" of {key[0]}" if _several(drawn) else ""
    question = f"Which {drawn.noun} has the value {value}{of}?"
    return _Asked(question, key[1], (key,), (_read(key, drawn),))


def _above(drawn: _Drawn, draws: Draws) -> _Asked | None:
    """Yes or no with a clear distance to a grid line, so that it can be seen."""
    limit, above, below = _limit(drawn, draws)
    if limit is None:
        return None
    key = draws.choose(draws.choose((above, below)))
    answer = "yes" if key in above else "no"
    question = f"Is the {_measure(drawn)} of {_of(key, drawn)} above {limit}? Answer yes or no."
    seen = f"{_of(key, drawn)} is {'above' if key in above else 'below'} {limit}"
    return _Asked(question, answer, (key,), (seen,))


def _compare(drawn: _Drawn, draws: Draws) -> _Asked | None:
    """Two marks of one series, or of two lines at one place."""
    first = draws.choose(drawn.keys)
    others = [
        key for key in drawn.keys if key != first and (key[0] == first[0] or key[1] == first[1])
    ]
    second = draws.choose(others)
    values = drawn.shown(first), drawn.shown(second)
    if not _apart(*values, drawn):
        return None
    differs = 1 if first[0] == second[0] else 0  # by label, or by series
    high, low = (first, second) if values[0] > values[1] else (second, first)
    where = f" at {first[1]}" if differs == 0 else ""
    of = f" of {first[0]}" if differs == 1 and _several(drawn) else ""
    what = _measure(drawn) if drawn.shape == "scatter" else f"value{of}"
    question = f"Which has the higher {what}{where}, {first[differs]} or {second[differs]}?"
    seen: tuple[str, ...] = (_read(first, drawn), _read(second, drawn))
    if drawn.shape == "scatter":
        seen = (f"{high[1]} is above {low[1]}",)
    return _Asked(question, high[differs], (first, second), seen)


def _difference(drawn: _Drawn, draws: Draws) -> _Asked | None:
    first, second = draws.sample(drawn.keys, 2)
    answer = abs(drawn.shown(first) - drawn.shown(second))
    if not answer:
        return None
    names = f"{_of(first, drawn)} and {_of(second, drawn)}"
    question = f"What is the difference between the values of {names}?"
    seen = (_read(first, drawn), _read(second, drawn))
    return _Asked(question, str(answer), (first, second), seen)


def _count(drawn: _Drawn, draws: Draws) -> _Asked | None:
    """How many marks of one series lie above a value; every mark of it is evidence."""
    series = draws.choose(sorted({name for name, _ in drawn.keys}))
    keys = tuple(key for key in drawn.keys if key[0] == series)
    limit, above, _ = _limit(drawn, draws, keys)
    if limit is None:
        return None
    what = _measure(drawn) if drawn.shape == "scatter" else "value"
    of = f" of {series}" if _several(drawn) else ""
    question = f"How many {drawn.plural} have a {what}{of} above {limit}?"
    seen = tuple(_read(key, drawn) for key in keys)
    if drawn.shape == "scatter":
        seen = tuple(f"{k[1]} is {'above' if k in above else 'below'} {limit}" for k in keys)
    return _Asked(question, str(len(above)), keys, seen)


def _limit(
    drawn: _Drawn, draws: Draws, keys: Sequence[Key] = ()
) -> tuple[str | None, tuple[Key, ...], tuple[Key, ...]]:
    """A grid line that no mark is close to, and the marks above and below it; each has some."""
    from vexp.dataset._chart import tick_text

    values = {key: drawn.shown(key) for key in keys or drawn.keys}
    low, high = min(values.values()), max(values.values())
    ticks = [Decimal(tick_text(tick)) for tick in drawn.drawing.ticks]
    limits = [
        tick
        for tick in ticks
        if low < tick < high and all(abs(v - tick) >= CLEAR * (high - low) for v in values.values())
    ]
    if not limits:
        return None, (), ()
    limit = draws.choose(limits)
    above = tuple(key for key in values if values[key] > limit)
    return str(limit), above, tuple(key for key in values if key not in above)


def _apart(a: Decimal, b: Decimal, drawn: _Drawn) -> bool:
    """Whether it can be seen which is higher: by the numbers, or for points by the height."""
    if drawn.shape != "scatter":
        return a != b
    values = [drawn.shown(key) for key in drawn.keys]
    return abs(a - b) >= CLEAR * (max(values) - min(values)) > 0


_QUESTIONS: dict[str, Callable[[_Drawn, Draws], _Asked | None]] = {
    "value": _value,
    "which": _which,
    "above": _above,
    "compare": _compare,
    "difference": _difference,
    "count": _count,
}
