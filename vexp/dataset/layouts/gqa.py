"""GQA (arXiv:1902.09506): questions whose words are linked to objects of a scene graph.

    train_balanced_questions.json, val_balanced_questions.json   or below questions/, questions1.2/
    train_sceneGraphs.json, val_sceneGraphs.json                 or below sceneGraphs/
    images/                                                      <imageId>.jpg

The evidence of a question are the objects that its words, its short and its full answer are linked
to (`annotations`); their boxes are those of the scene graph, in pixels. Questions that are linked
to none are left out. `val` becomes dev.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vexp.dataset.base import Split
from vexp.dataset.layouts._folder import Folder, field
from vexp.dataset.layouts._row import DatasetRow, LeftOut

_FILES: tuple[tuple[Split, str], ...] = (("train", "train"), ("dev", "val"))
_LINKS = ("question", "answer", "fullAnswer")


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The balanced questions of both splits."""
    for split, word in _FILES:
        name = f"{word}_balanced_questions.json"
        places = (name, f"questions/{name}", f"questions1.2/{name}")
        questions = folder.json(*places)
        graphs = folder.json(f"{word}_sceneGraphs.json", f"sceneGraphs/{word}_sceneGraphs.json")
        where = folder.file(*places)
        for number, question in questions.items():
            item = f"{word}/{number}"
            image = str(field(question, "imageId", where))
            graph = graphs.get(image)
            if graph is None:
                yield LeftOut(item, "its image has no scene graph")
                continue
            objects = _linked(field(question, "annotations", where))
            boxes = [_box(graph["objects"][key]) for key in objects if key in graph["objects"]]
            if not boxes:
                yield LeftOut(item, "it is linked to no object")
                continue
            file = folder.path / "images" / f"{image}.jpg"
            asked = str(field(question, "question", where)).strip()
            yield DatasetRow(split, item, asked, str(field(question, "answer", where)), file, boxes)


def _linked(annotations: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The objects that are linked, each once, in the order in which they are named."""
    found: dict[str, None] = {}
    for part in _LINKS:
        for value in (annotations.get(part) or {}).values():
            found |= dict.fromkeys(str(value).split(","))  # a word may name several
    return list(found)


def _box(thing: Mapping[str, Any]) -> list[float]:
    x, y, w, h = (float(thing[key]) for key in ("x", "y", "w", "h"))
    return [x, y, x + w, y + h]
