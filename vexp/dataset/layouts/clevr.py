"""CLEVR (arXiv:1612.06890), CLEVR_v1.0 as published.

    questions/CLEVR_train_questions.json, CLEVR_val_questions.json
    scenes/CLEVR_train_scenes.json, CLEVR_val_scenes.json
    images/train/, images/val/

The evidence of a question is found by running its program on its scene. CLEVR has no boxes: they
are computed from each object's place, depth and size, with the camera of its renderer. That is an
approximation; a box may be a few pixels off. `val` becomes dev; test has no answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vexp.dataset.base import Split
from vexp.dataset.layouts._folder import Folder, field
from vexp.dataset.layouts._row import DatasetRow, LeftOut, spoken
from vexp.dataset.layouts._scenes import NoEvidence, evidence, scene_of

WIDTH, HEIGHT = 480, 320
FOCAL = 35 / 32 * WIDTH  # pixels: Blender's lens and sensor in the published renderer
RADIUS = {"large": 0.7, "small": 0.35}  # of an object, in Blender's units
# Half the height of what is seen of an object, from about 28 degrees above, over its radius.
STRETCH = {"sphere": 1.0, "cylinder": 1.35, "cube": 1.1}
_FILES: tuple[tuple[Split, str], ...] = (("train", "train"), ("dev", "val"))


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The questions of both splits that have answers."""
    for split, word in _FILES:
        name = f"questions/CLEVR_{word}_questions.json"
        where = folder.path / name
        scenes = {
            scene["image_filename"]: scene
            for scene in folder.json(f"scenes/CLEVR_{word}_scenes.json", key="scenes")
        }
        for question in folder.json(name, key="questions"):
            item = f"{word}/{field(question, 'question_index', where)}"
            image = field(question, "image_filename", where)
            try:
                scene = scene_of(image, scenes)
                objects = evidence(field(question, "program", where), scene)
            except NoEvidence as error:
                yield LeftOut(item, str(error))
                continue
            yield DatasetRow(
                split,
                item,
                str(field(question, "question", where)).strip(),
                spoken(field(question, "answer", where)),
                folder.path / "images" / word / image,
                [box(scene["objects"][i]) for i in objects],
            )


def box(thing: Mapping[str, Any]) -> list[float]:
    """The box around an object, from the projection of its middle; cut to the image."""
    x, y, depth = thing["pixel_coords"]
    half = FOCAL * RADIUS[thing["size"]] / depth
    tall = half * STRETCH[thing["shape"]]
    return [max(x - half, 0), max(y - tall, 0), min(x + half, WIDTH), min(y + tall, HEIGHT)]
