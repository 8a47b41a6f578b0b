"""The configuration of an annotation: who extracts, locates and validates, and how boxes merge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vexp.config.hashing import digest, plain
from vexp.config.types import UNHASHED, Fraction, PositiveInt
from vexp.dataset.base import Dataset, Split
from vexp.endpoint.settings import Endpoint
from vexp.errors import ConfigError, Problem
from vexp.extractor.base import Extractor
from vexp.localizer.base import Localizer
from vexp.registry import REGISTRY, component_slots
from vexp.validator.base import Validator

PRIMARY = "annotate"  # conf/annotate.yaml, the file with the defaults list
SPLIT: Split = "train"  # EASE annotates training items only; benchmarks stay as they are


@dataclass(frozen=True, kw_only=True)
class Merging:
    """When phrases and boxes mean the same thing."""

    near_phrase: Fraction = 0.9  # share of the shorter phrase's words; with equal head nouns. Ours
    # IoU of two localizers' boxes from which their union is the evidence; below, the first one's
    # counts. EASE's value is lost in the text we have; a third party has it.
    agreement: Fraction = 0.7
    duplicate: Fraction = 0.9  # IoU of boxes of different phrases from which the later goes. Ours


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One annotation of a dataset's training split."""

    dataset: Dataset
    extractor: Extractor
    localizer: Localizer
    second_localizer: Localizer | None = None  # null: the first one is believed
    validator: Validator | None = None  # null: every proposed box is believed
    merging: Merging = field(default_factory=Merging)
    # Boxes that the data has already: judged like any other, taken as they are, or not looked at.
    existing_boxes: Literal["validated", "kept", "ignored"] = "validated"
    # Items without a validated box; they are named in the manifest in either case.
    without_boxes: Annotated[Literal["left_out", "kept"], UNHASHED] = "left_out"
    limit: Annotated[PositiveInt | None, UNHASHED] = (
        None  # items, the first of the split; null: all
    )
    workers: Annotated[PositiveInt, UNHASHED] = 8  # items under way at a time
    # Items in a row for which an endpoint gives no answer, after which the rest is not tried.
    stop_after: Annotated[PositiveInt, UNHASHED] = 10
    phrases_expected: Annotated[PositiveInt, UNHASHED] = 2  # of an item, for a dry run's estimate
    plugins: Annotated[tuple[str, ...], UNHASHED] = ()

    @property
    def identity(self) -> str:
        """Hash of all that decides what becomes of an item: settings, prompts, plugins, data."""
        return digest({"annotation": plain(self), "plugins": REGISTRY.plugin_hashes()})

    @property
    def size(self) -> int:
        """How many items are annotated."""
        size = self.dataset.size(SPLIT)
        return size if self.limit is None else min(size, self.limit)

    def __post_init__(self) -> None:
        found = list(self._problems())
        if found:
            raise ConfigError(found)

    def endpoints(self) -> dict[str, Endpoint]:
        """Where components ask, by the component's place."""
        parts = component_slots(self)
        found = ((path, getattr(component, "endpoint", None)) for path, component in parts)
        return {path: endpoint for path, endpoint in found if isinstance(endpoint, Endpoint)}

    def _problems(self) -> Iterator[Problem]:
        for path, endpoint in self.endpoints().items():
            for problem in endpoint.problems():
                where = f"{path}.endpoint.{problem.where}"
                yield Problem(
                    problem.what, where=where, accepted=problem.accepted, remedy=problem.remedy
                )
        if self.second_localizer is not None and self.second_localizer == self.localizer:
            yield Problem(
                "the second localizer is the first one again; they would always agree",
                where="second_localizer",
            )
