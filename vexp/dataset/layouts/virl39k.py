"""ViRL39K (VL-Rethinker, arXiv:2504.08837), as TIGER-Lab/ViRL39K publishes it.

    39Krelease.parquet   question, answer, qid, image (a list of paths below the folder)
    images/              the unpacked images.zip

It has no boxes. Questions about several images are left out; those about none are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from vexp.dataset.layouts._folder import Folder
from vexp.dataset.layouts._row import DatasetRow, LeftOut, unboxed, with_image


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows in the file's order; all are for training."""
    columns = ("question", "answer", "qid", "image")
    for _, _, cells in folder.parquet("39Krelease.parquet", columns):
        yield with_image(
            "train",
            str(cells["qid"]),
            cells["question"],
            unboxed(cells["answer"]),
            cells["image"],
            folder.path,
            may_lack=True,
        )
