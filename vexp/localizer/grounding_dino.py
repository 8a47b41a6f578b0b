"""Grounding DINO (arXiv:2303.05499) as transformers has it: EASE's first localizer."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vexp import hub
from vexp.config.types import UNHASHED, Fraction
from vexp.errors import CheckpointError, ConfigError, Problem
from vexp.files import read_json
from vexp.localizer.base import Localizer, Located
from vexp.paths import expanded
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.endpoint.request import Ask

MODEL_TYPE = "grounding-dino"  # in config.json
_ONE_AT_A_TIME = threading.Lock()  # the model works on one image; threads wait for each other


@register("localizer", "grounding_dino")
@dataclass(frozen=True, kw_only=True)
class GroundingDINO(Localizer):
    """The most confident box of an open-vocabulary detector, where it is confident enough."""

    asks = False

    path: Annotated[str, UNHASHED] = "IDEA-Research/grounding-dino-base"  # folder or hub name
    revision: str = "12bdfa3120f3e7ec7b434d90674b3396eccf88eb"  # commit; of no use for a folder
    # EASE's value is lost in the text we have; a third party has this one.
    threshold: Fraction = 0.35  # confidence that a box has to exceed
    device: Annotated[Literal["auto", "cpu", "cuda"], UNHASHED] = "auto"  # a GPU if it is there

    def __post_init__(self) -> None:
        if found := list(self._mistakes()):
            raise ConfigError(found)

    def locate(self, item: Item, phrase: str, ask: Ask) -> Located | None:
        import torch

        assert item.image is not None
        with _ONE_AT_A_TIME, torch.inference_mode():
            processor, model = _loaded(self.path, self.revision, self.device)
            # the form it was trained on: lower case, a dot at the end
            text = f"{phrase.lower().replace('.', ' ').strip()}."
            longest = model.config.max_text_len
            inputs = processor(
                images=item.image, text=text, return_tensors="pt", truncation=True,
                max_length=longest,
            ).to(model.device)  # fmt: skip
            width, height = item.image.size
            (found,) = processor.post_process_grounded_object_detection(
                model(**inputs), inputs["input_ids"], threshold=self.threshold,
                target_sizes=[(height, width)],
            )  # fmt: skip
        if not len(found["scores"]):
            return None
        best = int(found["scores"].argmax())
        x1, y1, x2, y2 = (float(x) for x in found["boxes"][best])
        return Located((x1, y1, x2, y2), float(found["scores"][best]))

    def content(self) -> dict[str, Any]:
        """Hashes of a folder's configuration and weights; of the hub, the repository's name."""
        folder = expanded(self.path)
        if not folder.is_dir():
            return {"repository": self.path}
        files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
        return {path.name: _file_hash(path, path.stat().st_mtime_ns) for path in files}

    def _mistakes(self) -> Iterator[Problem]:
        """What keeps this model from being loaded."""
        folder = expanded(self.path)
        if folder.is_dir():
            config = read_json(folder / "config.json")
            found = config.get("model_type") if isinstance(config, dict) else None
            if found != MODEL_TYPE:
                yield Problem(
                    f"config.json says {found!r}, not {MODEL_TYPE!r}"
                    if found
                    else "there is no config.json that says what the model is",
                    where=f"path ({folder})",
                    remedy="name a folder as `save_pretrained` or `hf download` writes it",
                )
            elif not list(folder.glob("*.safetensors")):
                yield Problem(
                    f"there are no weights in safetensors format in {self.path!r}",
                    where="path",
                    remedy="pickled weights are never loaded; convert them",
                )
        elif not hub.is_name(self.path):
            yield Problem(
                f"{self.path!r} is neither a folder nor the name of a hub repository", where="path"
            )
        elif not self.revision:
            yield Problem(
                "a model of the hub needs a revision", where="revision", remedy="name a commit"
            )


@functools.lru_cache(maxsize=2)
def _loaded(path: str, revision: str, device: str) -> tuple[Any, Any]:
    """Processor and model.

    Raises:
        CheckpointError: if they are not to be had, or are something else.
    """
    from vexp.backbone._imports import hide_broken_packages

    hide_broken_packages()
    import torch
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    folder = expanded(path)
    if not folder.is_dir():
        folder = _fetched(path, revision)
    try:
        load: Any = AutoProcessor.from_pretrained  # typed as if it took no folder
        processor = load(folder, trust_remote_code=False)
        read: Any = GroundingDinoForObjectDetection.from_pretrained  # and as if it gave one thing
        model, info = read(
            folder,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        if lacking := info["missing_keys"]:  # transformers would leave them random
            raise ValueError(f"it lacks {len(lacking)} weights, e.g. {min(lacking)}")
    except Exception as error:  # a damaged folder may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"this is no Grounding DINO that can be loaded: {reason}",
            where=str(folder),
            remedy="set localizer.path to a folder of it, or to its name on the hub",
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return processor, model.to(device).eval()


def _fetched(path: str, revision: str) -> Path:
    try:
        return hub.fetch(path, revision)
    except CheckpointError as error:
        raise CheckpointError(
            error.problem.what,
            where=error.problem.where,
            remedy=f"`hf download {path} --revision {revision}` where there is a network, or set "
            "localizer.path to a folder",
        ) from error


@functools.lru_cache(maxsize=16)
def _file_hash(path: Path, _modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
