"""Questions from a local JSONL or Parquet file, with images as files or bytes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vexp.config.types import UNHASHED, Fraction, Neutral
from vexp.dataset import _check, _images
from vexp.dataset._boxes import BadBoxesAre, has_area, read_boxes
from vexp.dataset._cells import optional_text, text, written
from vexp.dataset._columns import alike
from vexp.dataset._fingerprints import digest
from vexp.dataset._placeholders import without_placeholder
from vexp.dataset._rows import Stamp, file_hash, open_rows
from vexp.dataset._splits import SPLITS, RowLocation, Rule, share_out
from vexp.dataset.base import Box, Dataset, Item, Split
from vexp.errors import ConfigError, DataError, Problem, suggest
from vexp.paths import expanded
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("dataset", "table")
@dataclass(frozen=True, kw_only=True)
class Table(Dataset):
    """Any local JSONL or Parquet file: one question per row.

    An image is a path (relative to the file), bytes, base64 text, or a {bytes, path} structure; an
    empty cell is a question without an image. A split is a file of its own, or the rows that
    `split_column` names, or a share of the rows chosen by a hash of their ids. The id of a run
    depends on the file's bytes and its images, not on where they lie. Image bytes of a Parquet file
    are held in memory.
    """

    provides = ("boxes",)

    path: Annotated[str, UNHASHED] = ""  # .jsonl or .parquet, relative to where vexp is started
    dev_path: Annotated[str | None, UNHASHED] = None  # a file of its own for dev
    test_path: Annotated[str | None, UNHASHED] = None  # a file of its own for test
    image: str | None = "image"  # column of the image; may be missing; null: no images are meant
    question: str = "question"  # column of the question
    answer: str = "answer"  # column of the gold answer
    boxes: str = "boxes"  # column of the evidence boxes; may be missing
    box_format: Literal["xyxy_px", "xyxy_norm"] = "xyxy_px"  # pixels, or fractions of the image
    # A box with no area in the image; what reaches out is cut where they are dropped. Counted.
    bad_boxes: Annotated[BadBoxesAre, Neutral("refused")] = "refused"  # by row, before training
    tag: str = "tag"  # column of `single` or `multi`; may be missing: then boxes are counted
    demonstration: str = (
        "demonstration"  # column of full responses for supervised stages; may be missing
    )
    id_column: str = "id"  # column of unique ids; may be missing: then rows are numbered
    split_column: str | None = None  # column that says train, dev or test; null: by hash
    dev_fraction: Fraction = 0.1  # share of rows for dev, by hash of the id
    test_fraction: Fraction = 0.1  # share of rows for test, by hash of the id
    # `image` keeps all questions about an image in one split.
    split_by: Annotated[Literal["id", "image"], Neutral("id")] = "id"  # whose hash shares rows out

    def __post_init__(self) -> None:
        for name in ("path", "dev_path", "test_path"):  # workers may be started elsewhere
            if path := getattr(self, name):
                object.__setattr__(self, name, str(expanded(path).absolute()))
        if self.dev_fraction + self.test_fraction > 1:
            raise ConfigError(
                Problem(
                    f"dev_fraction ({self.dev_fraction}) and test_fraction ({self.test_fraction}) "
                    "are more than 1 together",
                    remedy="leave a share for training",
                )
            )

    def size(self, split: Split) -> int:
        return len(self.places(split))

    def item(self, split: Split, index: int) -> Item:
        places = self.places(split)
        if not 0 <= index < len(places):
            raise IndexError(f"{split} has {len(places)} items, there is no item {index}")
        place = places[index]
        try:
            return self._item(place)
        except ValueError as error:  # BadImage, BadBoxes, BadRow, or a line that is not JSON
            raise _bad_row(error, place) from error

    def question_of(self, split: Split, index: int) -> str:
        return str(self.fields_of(self.places(split)[index])["question"])

    def tag_of(self, split: Split, index: int) -> str:
        place = self.places(split)[index]
        try:
            cells = self.fields_of(place)
            if tag := optional_text(cells["tag"], "tag"):
                return tag
            found = _images.source(cells["image"], place.stamp.path.parent)
            size = None if found is None else _images.header_size(found)
            return _counted(read_boxes(cells["boxes"], self.box_format, size, self.bad_boxes), size)
        except ValueError as error:
            raise _bad_row(error, place) from error

    def longest(self, split: Split, count: int) -> Sequence[int]:
        """By the characters of the question, and by the pixels of the image, half of each."""
        places = self.places(split)
        texts, pixels = [], []
        for index, place in enumerate(places):
            cells = self.fields_of(place)
            texts.append((len(str(cells["question"] or "")), index))
            pixels.append((_pixels(cells["image"], place.stamp.path.parent), index))
        half = max(1, count // 2)
        found = heapq.nlargest(half, texts) + heapq.nlargest(half, pixels)
        return sorted({index for _, index in found})

    def image_file(self, split: Split, index: int) -> Path | None:
        place = self.places(split)[index]
        found = _images.source(self.fields_of(place)["image"], place.stamp.path.parent)
        return found.file if found else None

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if not self.path:
            yield Problem(
                "no file is named",
                where="path",
                remedy="set mix.datasets.<name>.path to a .jsonl or .parquet file",
            )
            return
        try:
            files = {split: open_rows(stamp).columns for split, stamp in self._files().items()}
        except DataError as error:
            yield error.problem
            return
        for split, columns in files.items():
            yield from self._missing_columns(run, split, columns)
            if self.image is not None and self.image not in columns:
                yield from _check.images_unread(self, self._files()[split])

    def golds(self) -> Iterator[tuple[str, str]]:
        """Of all rows of all splits, but for those that are broken: the data check names them."""
        for split in SPLITS:
            for place in self.places(split):
                try:
                    cell = place.rows.row(place.number, [self.answer])[self.answer]
                    gold = text(written(cell, place.stamp, self.answer), "answer")
                except ValueError:  # BadRow, or a line that is not JSON
                    continue
                yield f"{place} (id {place.id!r})", gold

    def data_problems(self) -> Iterator[Problem]:
        return _check.shown(self._look(), self._stamps())

    def data_notes(self) -> Iterator[str]:
        return iter(self._look().notes)

    def content(self) -> dict[str, Any]:
        """Hash of the training file and of the images it names, and which splits lie elsewhere.

        Of an image file, size and up to 64 KiB count (see `_images.fingerprint`): hashing tens of
        thousands of images whole would make planning take minutes.
        """
        files = self._files()
        elsewhere = sorted(split for split in files if split != "train")
        return {"splits_elsewhere": elsewhere, **_content(files["train"], self.image)}

    def held_out_content(self, split: Split) -> Mapping[str, Any]:
        stamp = self._files().get(split)
        return {} if split == "train" or stamp is None else _content(stamp, self.image)

    def places(self, split: Split) -> Sequence[RowLocation]:
        """The rows of a split.

        Raises:
            DataError: if a file is missing or cannot be read.
        """
        files = self._files()
        shares = {"dev": self.dev_fraction, "test": self.test_fraction}
        rule = Rule(
            main=files["train"],
            own_files=tuple((name, s) for name, s in files.items() if name != "train"),
            id_column=self.id_column,
            split_column=self.split_column,
            shares=tuple((name, x) for name, x in shares.items() if name not in files),  # type: ignore[misc]
            image_column=self.image if self.split_by == "image" else None,
        )
        return share_out(rule)[split]

    def fields_of(self, place: RowLocation) -> Mapping[str, Any]:
        """The row's cells by field name: image, question, answer, boxes, tag, demonstration."""
        names = ("image", "question", "answer", "boxes", "tag", "demonstration")
        columns = {name: column for name in names if (column := getattr(self, name)) is not None}
        row = place.rows.row(place.number, columns.values())
        return dict.fromkeys(names) | {name: row[column] for name, column in columns.items()}

    def _item(self, place: RowLocation) -> Item:
        cells = self.fields_of(place)
        question, answer = (
            text(written(cells[name], place.stamp, getattr(self, name)), name)
            for name in ("question", "answer")
        )
        found = _images.source(cells["image"], place.stamp.path.parent)
        question, _ = without_placeholder(question, image=found is not None)
        image = None if found is None else _images.decode(found)
        size = image.size if image else None
        boxes = read_boxes(cells["boxes"], self.box_format, size, self.bad_boxes)
        return Item(
            id=place.id,
            question=question,
            answer=answer,
            image=image,
            boxes=boxes,
            tag=optional_text(cells["tag"], "tag") or _counted(boxes, size),
            demonstration=optional_text(cells["demonstration"], "demonstration"),
        )

    def _look(self) -> _check.Look:
        """All rows looked at, once: a file that changes later is refused."""
        self._files()
        if "_looked" not in self.__dict__:
            self.__dict__["_looked"] = _check.look(self, self._stamps())
        looked: _check.Look = self.__dict__["_looked"]
        return looked

    def _stamps(self) -> tuple[Stamp, ...]:
        return tuple(self._files().values())

    def _files(self) -> dict[Split, Stamp]:
        """The files by split, as they were when this dataset was first asked for anything."""
        paths: dict[Split, str | None] = {
            "train": self.path, "dev": self.dev_path, "test": self.test_path
        }  # fmt: skip
        now = {split: Stamp.of(Path(path)) for split, path in paths.items() if path is not None}
        first: dict[Split, Stamp] = self.__dict__.setdefault("_first", now)
        for split, stamp in now.items():
            if stamp != first[split]:
                raise DataError(
                    "the file was changed while it was in use",
                    where=str(stamp.path),
                    remedy="put it back and run the same command, or start anew with the new data",
                )
        return now

    def _missing_columns(
        self, run: RunSpec, split: Split, columns: Sequence[str]
    ) -> Iterator[Problem]:
        wanted = {"question": self.question, "answer": self.answer}
        if self.split_column and split == "train":
            wanted["split_column"] = self.split_column
        if any("boxes" in component.required() for _, component in run.components()):
            wanted["boxes"] = self.boxes
        trained_on = split == "train" and self in run.mix.datasets.values()
        if trained_on and {"warm_start", "anchor"} & set(run.stages):
            wanted["demonstration"] = self.demonstration
        # A default that is not there means "none"; a name the user chose has to be there.
        optional = ("image", "boxes", "tag", "demonstration", "id_column")
        defaults = {name: type(self).__dataclass_fields__[name].default for name in optional}
        chosen = {name: getattr(self, name) for name in optional}
        wanted |= {n: c for n, c in chosen.items() if c is not None and c != defaults[n]}
        for name, column in wanted.items():
            if column not in columns:
                yield Problem(
                    f"there is no column {column!r} for `{name}`",
                    where=str(self._files()[split].path),
                    accepted=suggest(column, columns, noun="columns"),
                    remedy=self._remedy(name, columns),
                )

    def _remedy(self, name: str, columns: Sequence[str]) -> str:
        remedy = _REMEDIES.get(name, f"set `{name}` to the name of a column")
        meant = alike(name, columns, self.read_columns())
        if not meant:
            return remedy
        set_it = f"if {meant[0]!r} is meant, set `{name}: {meant[0]}`"
        return f"{set_it}; {remedy}" if name in _REMEDIES else set_it

    def read_columns(self) -> tuple[str | None, ...]:
        """The columns that are read where they are there."""
        names = ("image", "question", "answer", "boxes", "tag", "demonstration", "id_column")
        return tuple(getattr(self, name) for name in (*names, "split_column"))


def _pixels(cell: Any, folder: Path) -> int:
    """How many pixels an image has; 0 for none and for what the data check names."""
    try:
        found = _images.source(cell, folder)
        width, height = _images.header_size(found) if found else (0, 0)
    except _images.BadImage:
        return 0
    return width * height


def _counted(boxes: Sequence[Box], size: tuple[int, int] | None) -> str:
    """The tag of a row that has none: how many of its boxes have an area in the image."""
    usable = sum(has_area(box, size) for box in boxes) if size else 0
    return {0: "", 1: "single"}.get(usable, "multi")


def _bad_row(error: ValueError, place: RowLocation) -> DataError:
    return DataError(
        str(error),
        where=f"{place} (id {place.id!r})",
        remedy="mend or remove this row",
    )


_REMEDIES = {
    "answer": "every question needs a gold answer; set `answer` to the name of its column",
    "boxes": "this run needs evidence boxes; set `boxes`, or choose other components",
    "demonstration": "`warm_start` and `anchor` imitate demonstrations; set `demonstration`, or "
    "leave them out: stages=[rl]",
}


def _content(stamp: Stamp, image_column: str | None) -> dict[str, str]:
    """Hashes of a file and of the image files it names."""
    return {"file": file_hash(stamp), "images": digest(stamp, image_column or "")}
