"""What the real models have in common: a folder or a hub name, its identity, and how it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from vexp.backbone.base import Backbone
from vexp.config.types import UNHASHED
from vexp.errors import CheckpointError, Problem
from vexp.paths import expanded
from vexp.policy.options import NO_TOKENS, Attention, Emits, Precision

if TYPE_CHECKING:
    from vexp.hub import Repository
    from vexp.policy.policy import Policy
    from vexp.policy.prompt_encoder import PromptEncoder
    from vexp.spec.run import RunSpec

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Pretrained(Backbone):
    """A model in Hugging Face format, from a folder or from the hub at a fixed commit.

    A run's id depends on what the model is, not on where it lies: on the commit, or on a local
    folder's files. For a folder `revision` is null, for a hub name that is not the default, main.
    Code that a model brings along is never run.
    """

    model_type: ClassVar[str]  # of the transformers configuration
    follows_instructions = True
    depth: ClassVar[int]  # decoder layers of the model that is the default

    path: Annotated[str, UNHASHED] = ""  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = None  # commit, tag or branch on the hub
    weights: Precision = "fp32"  # bf16: weights and gradients in half the memory

    def __post_init__(self) -> None:
        path, revision = self.path, self.revision
        if path and self.local:  # workers may be started elsewhere
            path = str(expanded(path).absolute())
        if path != _default(self, "path") and revision == _default(self, "revision"):
            revision = None if self.local else "main"
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "revision", revision)

    @property
    def local(self) -> bool:
        """Whether `path` is meant as a folder."""
        from vexp import hub

        return not hub.is_name(self.path) or Path(self.path).is_dir()

    @property
    def decoder_layers(self) -> int | None:
        from vexp.backbone import _folder

        if self.path == _default(self, "path"):
            return self.depth
        folder = self._here()
        return _folder.decoder_layers(folder) if folder else None

    @property
    def parameters(self) -> int | None:
        from vexp.backbone import _folder

        folder = self._here()
        if folder is None or _folder.problems(folder, self.model_type):
            return None
        return _folder.parameters(folder)

    @property
    def bytes_per_parameter(self) -> int:
        return 2 if self.weights == "bf16" else 4

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        from vexp.backbone import _folder

        if not self.path:
            what = "no model is named"
            yield Problem(what, where="path", remedy="set backbone.path to a folder or a hub name")
            return
        if self.weights == "bf16" and run is not None and run.compute.precision != "bf16":
            yield Problem(
                "weights in bf16 need arithmetic in bf16",
                where="weights and compute.precision",
                remedy="set compute.precision=bf16, or backbone.weights=fp32",
            )
        if self.local and self.revision is not None:
            yield Problem(
                f"a folder has no revision, and `path` is one: {self.path}",
                where="revision",
                accepted="null for a folder",
            )
        folder = self._here()
        if self.local and folder is not None:
            yield from _folder.problems(folder, self.model_type)

    def unknown(self) -> Iterator[Problem]:
        if self._known():
            return
        if self.local:
            yield Problem(
                f"there is no folder {self.path!r}: what the model is cannot be told here",
                where="backbone.path",
                remedy="set backbone.path to a folder that exists, or to a name on the hub",
            )
        else:
            yield Problem(
                f"which commit {self.revision!r} of {self.path!r} means is not known here",
                where="backbone.revision",
                remedy="name a commit, or run "
                f"`hf download {self.path} --revision {self.revision}` first",
            )

    def content(self) -> dict[str, Any]:
        """The commit, or the hash of a folder; where neither can be told, what was asked for."""
        return self._known() or {"unknown": f"{self.path}@{self.revision}"}

    def _known(self) -> dict[str, str]:
        from vexp import hub
        from vexp.backbone import _folder

        if not self.local:
            found = hub.commit(self.path, self.revision or "main")
            return {"commit": found} if found else {}
        folder = self._here()
        if folder is None or _folder.problems(folder, self.model_type):
            return {}
        return {"model": _folder.fingerprint(folder)}

    def repositories(self) -> Iterator[Repository]:
        from vexp.hub import Repository

        if not self.local:
            yield Repository("model", self.path, self.revision or "main")

    def check(self, checkpoint: Path) -> None:
        from vexp.backbone import _imports

        _imports.hide_broken_packages()
        from vexp.backbone import _checkpoint, _emitted, _folder

        for problem in _folder.problems(Path(checkpoint), self.model_type):
            raise CheckpointError(
                problem.what, where=problem.where, accepted=problem.accepted, remedy=problem.remedy
            )
        source = self._here()
        if source is not None:
            expected = _checkpoint.configuration(source)
            if _emitted.recorded(Path(checkpoint)):  # for which the vocabulary may have grown
                found = _folder.text_config(_folder.read(Path(checkpoint) / _folder.CONFIG))
                expected.get_text_config().vocab_size = found.get("vocab_size")
            _checkpoint.check_architecture(Path(checkpoint), expected)

    def load(
        self,
        checkpoint: Path | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        attention: Attention = "auto",
        emits: Emits = NO_TOKENS,
    ) -> Policy:
        from vexp.backbone import _imports

        _imports.hide_broken_packages()
        from vexp.backbone import _checkpoint, _emitted, _folder, _processor
        from vexp.backbone._family import FAMILIES
        from vexp.policy.policy import Policy

        folder = Path(checkpoint) if checkpoint else self._source()
        self.check(folder)
        settings = self.image_settings(_folder.image_settings(folder))
        model = _checkpoint.read_model(folder, _DTYPES[self.weights])
        tokenizer = _processor.tokenizer(folder)
        saved = _emitted.recorded(folder)
        _emitted.add(model, tokenizer, emits)
        return Policy(
            model,
            tokenizer,
            _processor.image_processor(folder, self.model_type, settings),
            FAMILIES[self.model_type],
            device=device,
            precision=precision,
            attention=attention,
            emits=tuple(dict.fromkeys((*saved, *emits))),
            files=_processor.kept_files(folder, settings),
        )

    def encoder(self) -> PromptEncoder:
        from vexp.backbone import _imports

        _imports.hide_broken_packages()
        from vexp.backbone import _checkpoint, _folder, _processor
        from vexp.backbone._family import FAMILIES
        from vexp.policy.policy import encoder

        folder = self._source()
        settings = self.image_settings(_folder.image_settings(folder))
        return encoder(
            FAMILIES[self.model_type],
            _checkpoint.configuration(folder),
            _processor.tokenizer(folder),
            _processor.image_processor(folder, self.model_type, settings),
        )

    def image_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What the image processor is told in the place of the model's `own` settings."""
        return {}

    def _here(self) -> Path | None:
        """The model's folder, if it is on this machine."""
        from vexp import hub

        if self.local:
            return Path(self.path) if self.path and Path(self.path).is_dir() else None
        return hub.cached(self.path, self.revision or "main")

    def _source(self) -> Path:
        from vexp import hub

        if not self.local:
            revision = self.revision or "main"
            # The commit that the run's id has, also where the branch has moved on since.
            return hub.fetch(self.path, hub.commit(self.path, revision) or revision)
        if not Path(self.path).is_dir():
            raise CheckpointError(
                f"there is no folder {self.path!r}",
                where="backbone.path",
                remedy="set backbone.path to a folder that exists, or to a name on the hub",
            )
        return Path(self.path)


def _default(backbone: Pretrained, name: str) -> Any:
    fields = {field.name: field.default for field in dataclasses.fields(backbone)}
    return fields[name]
