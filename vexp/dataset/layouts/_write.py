"""Writing rows as a table, beside a record of what was left out and why."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vexp.dataset import _images
from vexp.dataset._boxes import BadBoxes, read_boxes
from vexp.dataset._cells import MOST_CHARACTERS, BadRow
from vexp.dataset._images import BadImage, Source
from vexp.dataset._placeholders import without_placeholder
from vexp.dataset.layouts._row import DatasetRow, LeftOut
from vexp.errors import DataError
from vexp.files import new_folder, storage_errors, write_json

FORMAT = 1
SOURCE = "source"  # the link to the folder, or the copy of what is needed of it
IMAGES = "images"  # files made of images that lay in other files
LOST = "the image does not exist"
SHOWN = 5  # ids named for each reason
_SUFFIXES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


@dataclass
class Written:
    """What came of a conversion."""

    target: Path
    rows: dict[str, dict[str, int]] = field(default_factory=dict)  # split: tag: count
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason: ids
    without_image: dict[str, int] = field(default_factory=dict)  # of the rows, by split

    @property
    def lost_images(self) -> int:
        """Rows left out because the file that they name is not there."""
        return len(self.left_out.get(LOST, ()))

    def count(self, split: str, cells: Mapping[str, Any]) -> None:
        tags = self.rows.setdefault(split, {"single": 0, "multi": 0, "untagged": 0})
        tags[cells["tag"] or "untagged"] += 1
        self.without_image[split] = self.without_image.get(split, 0) + (cells["image"] is None)

    def leave_out(self, left: LeftOut) -> None:
        self.left_out.setdefault(left.reason, []).append(left.id)

    def to_dict(self) -> dict[str, Any]:
        left = {
            reason: {"count": len(ids), "ids": ids[:SHOWN]}
            for reason, ids in sorted(self.left_out.items())
        }
        return {"rows": self.rows, "without_image": self.without_image, "left_out": left}


def write(
    layout: str,
    rows: Iterable[DatasetRow | LeftOut],
    source: Path,
    target: Path,
    *,
    limit: int | None,
    images: str,
) -> Written:
    """The table, built aside and renamed into place."""
    done = Written(target)
    with new_folder(target) as folder, storage_errors(target):
        if images == "link":
            (folder / SOURCE).symlink_to(source, target_is_directory=True)
        files: dict[str, IO[str]] = {}
        try:
            for row in _limited(_of_this_form(rows, layout, source), limit, done):
                if limit is not None and sum(done.rows.get(row.split, {}).values()) >= limit:
                    continue
                cells = _checked(row, source, folder, images, done)
                if cells is None:
                    continue
                if row.split not in files:
                    path = folder / f"{row.split}.jsonl"
                    files[row.split] = path.open("w", encoding="utf-8")
                files[row.split].write(json.dumps(cells, ensure_ascii=False) + "\n")
                done.count(row.split, cells)
        finally:
            for file in files.values():
                file.close()
        if "train" not in files:
            raise DataError(
                "no row for training can be used",
                where=str(source),
                accepted="; ".join(f"{r}: {len(ids)}" for r, ids in sorted(done.left_out.items())),
                remedy="mend the folder's files, or download them again",
            )
        content = {"format": FORMAT, "layout": layout, "limit": limit, **done.to_dict()}
        write_json(folder / "manifest.json", content)
    return done


def _of_this_form(
    rows: Iterable[DatasetRow | LeftOut], layout: str, source: Path
) -> Iterator[DatasetRow | LeftOut]:
    """The rows; a value of an unexpected type ends the conversion with one message."""
    try:
        yield from rows
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"a record does not have the form of the layout {layout!r}: "
            f"{type(error).__name__}: {error}",
            where=str(source),
            remedy=f"`vexp convert {layout}` says what the folder has to hold",
        ) from error


def _limited(
    rows: Iterable[DatasetRow | LeftOut], limit: int | None, done: Written
) -> Iterator[DatasetRow]:
    """The rows as they come, or by a hash of their ids where not all are wanted."""
    usable: list[DatasetRow] = []
    for row in rows:
        if isinstance(row, LeftOut):
            done.leave_out(row)
        elif limit is None:
            yield row
        else:
            usable.append(row)
    yield from sorted(usable, key=lambda row: hashlib.blake2b(row.id.encode()).digest())


def _checked(
    row: DatasetRow, source: Path, folder: Path, images: str, done: Written
) -> dict[str, Any] | None:
    """The row's cells, or None where it is left out."""
    texts = _texts(row)
    if isinstance(texts, LeftOut):
        done.leave_out(texts)
        return None
    if isinstance(row.image, Path) and (
        ".." in row.image.parts or not row.image.is_relative_to(source)
    ):
        done.leave_out(LeftOut(row.id, "the image lies outside the folder"))
        return None
    try:
        size = _size(row)
        boxes = read_boxes([list(box) for box in row.boxes], row.box_format, size)
    except BadImage as error:
        done.leave_out(LeftOut(row.id, _general(error, row)))
        return None
    except BadBoxes as error:
        reason = "a box reaches out of the image" if "reaches" in str(error) else "a box is bad"
        done.leave_out(LeftOut(row.id, reason))
        return None
    return {
        "id": row.id,
        "image": _stored(row, source, folder, images),
        **texts,
        "boxes": [list(box) for box in boxes],
        "tag": ("", "single")[len(boxes)] if len(boxes) < 2 else "multi",
    }


def _texts(row: DatasetRow) -> dict[str, str] | LeftOut:
    texts = {"question": row.question, "answer": row.answer}
    for name, content in texts.items():
        if not content:
            return LeftOut(row.id, f"the {name} is empty")
        if len(content) > MOST_CHARACTERS:
            return LeftOut(row.id, f"the {name} has more than {MOST_CHARACTERS:,} characters")
    try:
        question, _ = without_placeholder(row.question, image=row.image is not None)
    except BadRow:
        return LeftOut(row.id, "its question has placeholders that stand for no image")
    return texts | {"question": question}


def _size(row: DatasetRow) -> tuple[int, int] | None:
    if row.image is None:
        return None
    if isinstance(row.image, bytes):
        return _images.header_size(Source(data=row.image))
    return _images.header_size(Source(file=row.image))


def _general(error: BadImage, row: DatasetRow) -> str:
    """The reason without the file's name, so that equal reasons are counted together."""
    text = str(error)
    if isinstance(row.image, Path):
        text = text.replace(f"image file {str(row.image)!r}", "the image")
    return text.replace("the image's bytes", "the image")


def _stored(row: DatasetRow, source: Path, folder: Path, images: str) -> str | None:
    """The image's path within the table's folder."""
    if row.image is None:
        return None
    if isinstance(row.image, bytes):
        suffix = next((s for start, s in _SUFFIXES if row.image.startswith(start)), ".img")
        name = f"{IMAGES}/{hashlib.blake2b(row.image, digest_size=16).hexdigest()}{suffix}"
        path = folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(row.image)
        return name
    name = f"{SOURCE}/{row.image.relative_to(source).as_posix()}"
    path = folder / name
    if images == "copy" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row.image, path)
    return name
