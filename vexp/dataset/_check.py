"""Looking at every row of a table once before training: what is wrong, and what is worth a note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vexp.dataset import _columns
from vexp.dataset._boxes import BadBoxes, read_boxes
from vexp.dataset._cells import BadRow, optional_text, text, written
from vexp.dataset._fingerprints import content_of
from vexp.dataset._frames import Frames
from vexp.dataset._images import BadImage, header_size, source
from vexp.dataset._placeholders import control_token, without_placeholder
from vexp.dataset._rows import Stamp, open_rows
from vexp.dataset._splits import SPLITS, RowLocation, split_called
from vexp.dataset.base import Split
from vexp.errors import DataError, Problem

if TYPE_CHECKING:
    from vexp.dataset.table import Table

SHOWN = 20  # problems named; the rest is counted
NAMED = 3  # rows named in a note


@dataclass
class Look:
    """What a look at all rows of a table came to."""

    problems: list[Problem] = field(default_factory=list)  # the first SHOWN
    count: int = 0  # of all problems
    notes: list[str] = field(default_factory=list)
    # by what is to be noted of them
    rows: dict[str, list[RowLocation]] = field(default_factory=dict)
    images: set[Stamp] = field(default_factory=set)  # files with an image in some row
    boxes: int = 0  # in all rows
    frames: Frames = field(default_factory=Frames)

    def add(self, problem: Problem) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.problems.append(problem)

    def note_row(self, what: str, place: RowLocation) -> None:
        self.rows.setdefault(what, []).append(place)


def look(table: Table, stamps: tuple[Stamp, ...]) -> Look:
    """Every row once; no image is decoded whole.

    Raises:
        DataError: if a file cannot be read at all.
    """
    found = Look()
    for problem in _of_files(table, stamps):
        found.add(problem)
    first: dict[str, RowLocation] = {}
    for split in SPLITS:
        for place in table.places(split):
            if place.number in place.rows.broken():
                continue
            if other := first.get(place.id):
                what = f"the id {place.id!r} was used before, by {other}"
                found.add(Problem(what, where=str(place)))
            first.setdefault(place.id, place)
            for reason in _row_problems(table, place, found):
                found.add(Problem(reason, where=f"{place} (id {place.id!r})"))
    for problem in _of_columns(table, stamps, found):
        found.add(problem)
    if not found.count:
        found.notes = list(_notes(table, stamps, found))
    return found


def shown(found: Look, stamps: tuple[Stamp, ...]) -> Iterator[Problem]:
    """The first `SHOWN` problems of a table and, if there are more, how many."""
    yield from found.problems
    if found.count > SHOWN:
        yield Problem(
            f"… and {found.count - SHOWN} more problems; {found.count} in all",
            where=", ".join(str(stamp.path) for stamp in stamps),
            remedy="mend or remove these rows",
        )


def images_unread(table: Table, stamp: Stamp) -> Iterator[Problem]:
    """The problem of a file whose images lie in a column that is not read."""
    if meant := _columns.images_unread(stamp, table.read_columns()):
        count, columns = len(open_rows(stamp)), open_rows(stamp).columns
        names = " and ".join(map(repr, meant))
        empty = "is empty" if table.image in columns else "is not there"
        yield Problem(
            f"the column {table.image!r} {empty}, but {names} may be meant for the image: "
            f"{count:,} questions would be asked without it",
            where=str(stamp.path),
            remedy=f"set `image: {meant[0]}`, or `image: null` if no image is meant to be seen",
        )


def _of_files(table: Table, stamps: tuple[Stamp, ...]) -> Iterator[Problem]:
    for stamp in stamps:
        rows = open_rows(stamp)
        for number, reason in rows.broken().items():
            yield Problem(reason, where=rows.where(number))
    if table.split_column:
        yield from _unknown_splits(stamps[0], table.split_column)
    if not table.size("train"):
        yield Problem("no row belongs to the training split", where=str(stamps[0].path))


def _unknown_splits(stamp: Stamp, column: str) -> Iterator[Problem]:
    rows = open_rows(stamp)
    for number, word in enumerate(rows.column(column)):
        if split_called(word) is None and number not in rows.broken():
            yield Problem(
                f"{column!r} is {word!r}", where=rows.where(number), accepted=", ".join(SPLITS)
            )


def _row_problems(table: Table, place: RowLocation, found: Look) -> Iterator[str]:
    try:
        cells = table.fields_of(place)
    except DataError as error:
        yield error.problem.what
        return
    has_image = True  # as far as the question is concerned, also if it cannot be read
    try:
        image = source(cells["image"], place.stamp.path.parent)
        has_image = image is not None
        size = None if image is None else header_size(image)
        boxes = read_boxes(cells["boxes"], table.box_format, size, table.bad_boxes)
        found.boxes += len(boxes)
        if size:
            found.frames.add(boxes, size)
    except (BadImage, BadBoxes) as error:
        yield str(error)
    if has_image:
        found.images.add(place.stamp)
    yield from _text_problems(table, place, cells, found, has_image=has_image)


def _text_problems(
    table: Table, place: RowLocation, cells: Mapping[str, Any], found: Look, *, has_image: bool
) -> Iterator[str]:
    for name in ("question", "answer", "tag", "demonstration"):
        is_asked = name in ("question", "answer")
        cell = cells[name]
        if is_asked:
            cell = written(cell, place.stamp, getattr(table, name))
        if cell is not cells[name]:
            is_integer = str(cell).lstrip("-").isdigit()
            how = "as an integer, like all of its column" if is_integer else "as a float of 32 bits"
            found.note_row(f"the {name} is written {how}", place)
        try:
            words = (text if is_asked else optional_text)(cell, name)
            if name == "question":
                _, taken = without_placeholder(words, image=has_image)
                if taken:
                    found.note_row(f"the placeholder {taken} of the question is taken out", place)
            if name in ("question", "demonstration") and (token := control_token(words)):
                found.note_row(f"{token} in the {name} is read as plain characters", place)
        except BadRow as error:
            yield str(error)


def _of_columns(table: Table, stamps: tuple[Stamp, ...], found: Look) -> Iterator[Problem]:
    """What all rows together show."""
    for stamp in stamps:
        column_is_empty = table.image in open_rows(stamp).columns and stamp not in found.images
        if column_is_empty:
            yield from images_unread(table, stamp)
    for what, remedy in found.frames.problems(in_pixels=table.box_format == "xyxy_px"):
        yield Problem(what, where=", ".join(str(stamp.path) for stamp in stamps), remedy=remedy)


def _notes(table: Table, stamps: tuple[Stamp, ...], found: Look) -> Iterator[str]:
    for what, places in found.rows.items():
        yield f"{len(places):,} {'row' if len(places) == 1 else 'rows'}: {what} ({_first(places)})"
    if table.box_format == "xyxy_px":
        yield from found.frames.notes()
    for stamp in stamps:
        yield from _unread_columns(table, stamp, found)
    yield from _shared_images(table)


def _unread_columns(table: Table, stamp: Stamp, found: Look) -> Iterator[str]:
    columns, read = open_rows(stamp).columns, table.read_columns()
    if stamp in found.images:
        for name in _columns.further_images(stamp, read):
            yield f"{stamp.path.name}: the column {name!r} holds images too, and is not read"
    meant = {"boxes": not found.boxes, "id_column": table.id_column not in columns}
    for name in (name for name, is_unread in meant.items() if is_unread):
        for column in _columns.alike(name, columns, read):
            if _columns.filled(stamp, column):
                yield (
                    f"{stamp.path.name}: the column {column!r} is not read; "
                    f"if it is meant, set `{name}: {column}`"
                )
    if table.split_column is None:
        for column in _columns.alike("split_column", columns, read):
            if count := _columns.held_out_words(stamp, column):
                yield (
                    f"{stamp.path.name}: the column {column!r} names {count:,} rows for dev or "
                    f"test and is not read; if it is meant, set `split_column: {column}`"
                )


def _shared_images(table: Table) -> Iterator[str]:
    """Held-out questions about images that are trained on."""
    if table.image is None:
        return
    prints = {
        split: [content_of(p.stamp, table.image).get(p.number) for p in table.places(split)]
        for split in SPLITS
    }
    trained = {print_ for print_ in prints["train"] if print_ is not None}
    by_hash = table.split_column is None
    held_out: dict[Split, str | None] = {"dev": table.dev_path, "test": table.test_path}
    for split, path in held_out.items():
        own = [print_ for print_ in prints[split] if print_ is not None]
        shared = [print_ for print_ in own if print_ in trained]
        if shared:
            remedy = (
                "set `split_by: image`, which keeps the questions of an image together"
                if by_hash and path is None
                else "take them out of one of the two"
            )
            yield (
                f"{len(set(shared)):,} of {len(set(own)):,} {split} images ({len(shared):,} of "
                f"{len(own):,} questions) are images of training questions too; {remedy}"
            )


def _first(places: list[RowLocation]) -> str:
    named = [
        f"{str(place).removeprefix(f'{place.stamp.path.parent}/')}, id {place.id[:60]!r}"
        for place in places[:NAMED]
    ]
    return "; ".join([*named, "…"] if len(places) > NAMED else named)
