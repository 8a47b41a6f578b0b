"""Drawing bar, line and scatter charts, and saying exactly where each mark is.

Everything is measured in pixels of the finished image, so a box is what was drawn, not an estimate.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.dataset.base import Box
from vexp.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[str, str]  # series and label of a mark
PALETTE = {
    "blue": (55, 105, 190),
    "orange": (225, 120, 30),
    "green": (45, 140, 70),
    "purple": (125, 75, 170),
    "red": (195, 50, 50),
    "teal": (20, 135, 140),
}
INK, GREY, PALE = (25, 25, 25), (110, 110, 110), (222, 222, 222)
RADIUS = 4  # of a point, in pixels
GAP = 3  # between a mark and its text
TICKS = 4  # about how many steps an axis has
WIDEST = 0.42  # share of the image that the labels of horizontal bars may take


@dataclass(frozen=True)
class ChartImage:
    """What is drawn. Bars and lines have one value per series and label, points have two."""

    title: str
    axis: str  # name of the value axis; of the vertical one for points
    labels: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]]  # one for bars; x and y for points
    colors: tuple[str, ...]  # one per series; for points the first
    horizontal: bool = False  # bars lie on their side
    across: str = ""  # points: name of the horizontal axis


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` that runs from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        step = nice_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(count * step, 10) for count in range(first, last + 1)]


def nice_step(extent: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, about a `TICKS`-th of the extent."""
    rough = extent / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough - 1e-12)


def number(value: float) -> str:
    """A value as it is printed: at most one decimal, no thousands separator."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def tick_text(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") or "0"


@dataclass(frozen=True)
class Drawing:
    """An image, the box of each mark in its pixels, and the values at its grid lines."""

    image: Image
    boxes: dict[Key, Box]
    ticks: tuple[float, ...]


class Canvas:
    """An image that remembers nothing but hands back the box of each thing drawn on it."""

    def __init__(self, width: int, height: int) -> None:
        import PIL.Image
        import PIL.ImageDraw

        self.width, self.height = width, height
        self.image: Image = PIL.Image.new("RGB", (width, height), (255, 255, 255))
        self._draw = PIL.ImageDraw.Draw(self.image)
        self.size = max(9, round(min(width, height) / 28))  # of the text, in pixels

    def text_width(self, text: str) -> float:
        return float(_font(self.size).getlength(text))

    def text(
        self, x: float, y: float, text: str, anchor: str, color: Any = INK, halo: int = 0
    ) -> Box:
        """Text at a point; `anchor` as in Pillow, e.g. "mb" for centred above it."""
        place, font = (round(x), round(y)), _font(self.size)
        self._draw.text(
            place, text, color, font, anchor, stroke_width=halo, stroke_fill=(255, 255, 255)
        )
        if halo:  # a stroke thickens the letters as well
            self._draw.text(place, text, color, font, anchor)
        left, upper, right, lower = self._draw.textbbox(
            place, text, font=_font(self.size), anchor=anchor
        )
        return float(left), float(upper), float(right), float(lower)

    def line(self, points: Sequence[tuple[float, float]], color: Any, width: int = 1) -> None:
        self._draw.line([(round(x), round(y)) for x, y in points], fill=color, width=width)

    def bar(self, x1: float, y1: float, x2: float, y2: float, color: Any) -> Box:
        left, upper, right, lower = (round(v) for v in (x1, y1, x2, y2))
        if right > left and lower > upper:  # Pillow counts the last pixel in
            self._draw.rectangle((left, upper, right - 1, lower - 1), fill=color)
        return float(left), float(upper), float(right), float(lower)

    def point(self, x: float, y: float, color: Any) -> Box:
        cx, cy = round(x), round(y)
        self._draw.ellipse((cx - RADIUS, cy - RADIUS, cx + RADIUS, cy + RADIUS), fill=color)
        return cx - RADIUS, cy - RADIUS, cx + RADIUS + 1.0, cy + RADIUS + 1.0


def union(*boxes: Box) -> Box:
    """The smallest box around all of them."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib ships; laid out by Pillow itself, so equal everywhere."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")  # importing it would take a second
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the font is missing: matplotlib is not installed",
            where="dataset charts_vqa",
            remedy="pip install matplotlib",
        )
    fonts = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    file = str(fonts / "DejaVuSans.ttf")
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def bars(chart: ChartImage, width: int, height: int) -> Drawing:
    """Bars from zero, each with its label and its value; a mark's box holds all three."""
    canvas = Canvas(width, height)
    (name, values), color = next(iter(chart.series.items())), PALETTE[chart.colors[0]]
    draw = _lying if chart.horizontal else _standing
    boxes, scale = draw(canvas, chart, values, color)
    _heading(canvas, f"{chart.title}: {chart.axis}")
    keys = [(name, label) for label in chart.labels]
    return Drawing(canvas.image, dict(zip(keys, boxes, strict=True)), tuple(scale.ticks()))


def fits_standing(chart: ChartImage, width: int, height: int) -> bool:
    """Whether the labels have room below standing bars."""
    canvas = Canvas(width, height)
    left, _, right, _ = _frame(canvas)
    room = (right - left) / len(chart.labels)
    (values,) = chart.series.values()
    texts = (*chart.labels, *map(number, values))
    return all(canvas.text_width(text) <= room - GAP for text in texts)


def _frame(canvas: Canvas) -> tuple[float, float, float, float]:
    """The area for marks: room for a title above, for tick texts to the left, labels below."""
    line = canvas.size * 1.8
    return canvas.size * 4.2, line * 1.5, canvas.width - 1.7 * canvas.size, canvas.height - line


def _heading(canvas: Canvas, text: str) -> None:
    canvas.text(canvas.width / 2, canvas.size * 0.6, text, "ma")


def _standing(
    canvas: Canvas, chart: ChartImage, values: Sequence[float], color: Any
) -> tuple[list[Box], Scale]:
    left, upper, right, lower = _frame(canvas)
    scale = Scale(0.0, max(values) * 1.15, lower, upper)
    _rules(canvas, scale, left, right)
    room = (right - left) / len(values)
    found = []
    for index, (label, value) in enumerate(zip(chart.labels, values, strict=True)):
        middle = left + (index + 0.5) * room
        top = scale.at(value)
        bar = canvas.bar(middle - 0.32 * room, top, middle + 0.32 * room, lower, color)
        text = canvas.text(middle, top - GAP, number(value), "mb")
        name = canvas.text(middle, lower + GAP, label, "ma")
        found.append(union(bar, text, name))
    canvas.line([(left, lower), (right, lower)], INK)
    return found, scale


def _lying(
    canvas: Canvas, chart: ChartImage, values: Sequence[float], color: Any
) -> tuple[list[Box], Scale]:
    _, upper, right, lower = _frame(canvas)
    widest = max(canvas.text_width(label) for label in chart.labels)
    left = min(widest + 4 * GAP, WIDEST * canvas.width)
    scale = Scale(0.0, max(values) * 1.2, left, right)
    room = (lower - upper) / len(values)
    found = []
    for index, (label, value) in enumerate(zip(chart.labels, values, strict=True)):
        middle = upper + (index + 0.5) * room
        end = scale.at(value)
        bar = canvas.bar(left, middle - 0.32 * room, end, middle + 0.32 * room, color)
        text = canvas.text(end + GAP, middle, number(value), "lm")
        name = canvas.text(left - GAP, middle, label, "rm")
        found.append(union(bar, text, name))
    canvas.line([(left, upper), (left, lower)], INK)
    for tick in scale.ticks():
        canvas.text(scale.at(tick), lower + GAP, tick_text(tick), "ma", GREY)
    return found, scale


def lines(chart: ChartImage, width: int, height: int) -> Drawing:
    """Lines through points, each point with its value; a mark's box holds both."""
    canvas = Canvas(width, height)
    left, upper, right, lower = _frame(canvas)
    upper += canvas.size * 1.8  # for the legend
    everything = [value for values in chart.series.values() for value in values]
    low, high = min(everything), max(everything)
    margin = 0.22 * ((high - low) or 1.0)
    scale = Scale(low - margin, high + margin, lower, upper)
    _rules(canvas, scale, left, right)
    step = (right - left) / len(chart.labels)
    places = [left + (index + 0.5) * step for index in range(len(chart.labels))]
    for x, label in zip(places, chart.labels, strict=True):
        canvas.text(x, lower + GAP, label, "ma")
    for (_, values), color in zip(chart.series.items(), chart.colors, strict=True):
        points = [(x, scale.at(value)) for x, value in zip(places, values, strict=True)]
        canvas.line(points, PALETTE[color], width=2)
    found: dict[Key, Box] = {}
    for (name, values), color in zip(chart.series.items(), chart.colors, strict=True):
        for index, (x, value) in enumerate(zip(places, values, strict=True)):
            highest = max(others[index] for others in chart.series.values())
            y, above = scale.at(value), value == highest
            point = canvas.point(x, y, PALETTE[color])
            offset = -(RADIUS + GAP) if above else RADIUS + GAP
            anchor = "mb" if above else "ma"
            text = canvas.text(x, y + offset, number(value), anchor, halo=2)
            found[name, chart.labels[index]] = union(point, text)
    canvas.line([(left, lower), (right, lower)], INK)
    _legend(canvas, chart)
    _heading(canvas, chart.title)
    return Drawing(canvas.image, found, tuple(scale.ticks()))


def _legend(canvas: Canvas, chart: ChartImage) -> None:
    x, y = canvas.size * 4.2, canvas.size * 3.2
    for name, color in zip(chart.series, chart.colors, strict=True):
        canvas.bar(x, y - 4, x + 14, y + 4, PALETTE[color])
        x = canvas.text(x + 14 + GAP, y, name, "lm")[2] + 14


def points(chart: ChartImage, width: int, height: int) -> Drawing:
    """Named points over two axes; a mark's box holds the point and its name.

    A name that would lie on another mark goes to the point's other side; where no side is free, the
    point is left out, and has no box.
    """
    canvas = Canvas(width, height)
    left, upper, right, lower = _frame(canvas)
    lower -= canvas.size * 1.6  # for the name of the axis
    upper += canvas.size * 1.2
    (_, xs), (name, ys) = chart.series.items()
    across, along = _loose(xs, left, right), _loose(ys, lower, upper)
    _rules(canvas, along, left, right)
    for tick in across.ticks():
        canvas.line([(across.at(tick), upper), (across.at(tick), lower)], PALE)
        canvas.text(across.at(tick), lower + GAP, tick_text(tick), "ma", GREY)
    canvas.line([(left, lower), (right, lower)], INK)
    canvas.line([(left, upper), (left, lower)], INK)
    canvas.text((left + right) / 2, canvas.height - GAP, chart.across, "mb")
    canvas.text(GAP, canvas.size * 3.0, chart.axis, "lm")
    _heading(canvas, chart.title)
    found: dict[Key, Box] = {}
    for label, x, y in zip(chart.labels, xs, ys, strict=True):
        box = _named_point(canvas, across.at(x), along.at(y), label, chart, list(found.values()))
        if box is not None:
            found[name, label] = box
    return Drawing(canvas.image, found, tuple(along.ticks()))


def _named_point(
    canvas: Canvas, x: float, y: float, label: str, chart: ChartImage, taken: Sequence[Box]
) -> Box | None:
    width, half = canvas.text_width(label), canvas.size * 0.7
    spot = (x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1)
    for side, anchor in ((1, "lm"), (-1, "rm")):
        start = x + side * (RADIUS + GAP)
        end = start + side * width
        planned = union(spot, (min(start, end), y - half, max(start, end), y + half))
        inside = planned[0] >= canvas.size * 4.2 and planned[2] <= canvas.width
        if inside and not any(overlap(planned, box) for box in taken):
            point = canvas.point(x, y, PALETTE[chart.colors[0]])
            return union(point, canvas.text(start, y, label, anchor))
    return None


def _loose(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale with room around the values."""
    low, high = min(values), max(values)
    margin = 0.1 * ((high - low) or 1.0)
    return Scale(low - margin, high + margin, start, end)


def _rules(canvas: Canvas, scale: Scale, left: float, right: float) -> None:
    """Grid lines across the area for marks, with their values at the left."""
    for tick in scale.ticks():
        y = scale.at(tick)
        canvas.line([(left, y), (right, y)], PALE)
        canvas.text(left - GAP, y, tick_text(tick), "rm", GREY)
