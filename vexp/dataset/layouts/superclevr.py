"""Super-CLEVR (arXiv:2212.00259), as published.

    superCLEVR_questions_30k.json   questions with their programs
    superCLEVR_scenes.json          scenes, with the box of every object (obj_mask_box; pixels)
    images/                         superCLEVR_new_<number>.png

The evidence of a question is found by running its program on its scene. Questions about parts of
objects, and those whose evidence is hidden, are left out. As its authors split it, the first 20,000
images are for training, the next 5,000 for dev, and the rest for test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.dataset.base import Split
from vexp.dataset.layouts._folder import Folder, field
from vexp.dataset.layouts._row import DatasetRow, LeftOut, spoken
from vexp.dataset.layouts._scenes import NoEvidence, evidence, scene_of

_QUESTIONS = "superCLEVR_questions_30k.json"
_TRAIN, _DEV = 20_000, 25_000  # the first image that is not in the split


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The questions of all splits."""
    scenes = {
        scene["image_filename"]: scene
        for scene in folder.json("superCLEVR_scenes.json", key="scenes")
    }
    where = folder.path / _QUESTIONS
    for question in folder.json(_QUESTIONS, key="questions"):
        image = field(question, "image_filename", where)
        item = f"{image.removesuffix('.png')}/{field(question, 'question_index', where)}"
        try:
            scene = scene_of(image, scenes)
            boxes = [
                _box(scene, i, where) for i in evidence(field(question, "program", where), scene)
            ]
        except NoEvidence as error:
            yield LeftOut(item, str(error))
            continue
        yield DatasetRow(
            _split(int(field(question, "image_index", where))),
            item,
            str(field(question, "question", where)).strip(),
            spoken(field(question, "answer", where)),
            folder.path / "images" / image,
            boxes,
        )


def _split(image_index: int) -> Split:
    if image_index < _TRAIN:
        return "train"
    return "dev" if image_index < _DEV else "test"


def _box(scene: Mapping[str, Any], thing: int, where: Path) -> list[float]:
    """The visible part of an object, from its mask: x, y, width and height as published."""
    x, y, w, h = field(field(scene, "obj_mask_box", where), str(thing), where)["obj"][0]
    if not (w and h):
        raise NoEvidence("an object of its evidence is hidden")
    return [x, y, x + w, y + h]
