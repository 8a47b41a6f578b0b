"""From one item to its evidence: phrases, proposed boxes, verdicts, boxes (EASE, appendix B)."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vexp.annotate import boxes, phrases
from vexp.annotate.client_pool import Asking, Nonsense
from vexp.annotate.journal import AnnotationJournal
from vexp.annotate.spec import Annotation
from vexp.config.hashing import plain, written
from vexp.dataset.base import Box, Item
from vexp.endpoint.request import pixels_digest
from vexp.localizer.base import Localizer


@dataclass(frozen=True)
class Proposal:
    """A box that may be evidence, and where it comes from."""

    phrase: str
    box: Box
    # "union" of two localizers that agree, "first" or "second" localizer, or "given" by the data
    source: str
    confidence: float | None = None
    iou: float | None = None  # of the two localizers' boxes, where there are two
    verdict: str = "unjudged"  # "valid", "rejected", "unreadable", "unjudged" or "duplicate"


@dataclass
class Evidence:
    """What was found for an item."""

    boxes: tuple[Box, ...] = ()
    proposals: list[Proposal] = field(default_factory=list)
    phrases: tuple[str, ...] = ()
    left_out: str = ""  # why it has no boxes; the same words for all of a kind

    @property
    def tag(self) -> str:
        return boxes.tag_of(len(self.boxes))


@dataclass(frozen=True)
class Annotator:
    """Finds the evidence of one item after the other."""

    spec: Annotation
    journal: AnnotationJournal

    def evidence(self, item: Item, ask: Asking) -> Evidence:
        """The evidence of an item.

        Raises:
            EndpointError: if an endpoint gives no answer at all.
        """
        if item.image is None:
            return Evidence(left_out="it has no image")
        named: tuple[str, ...] = ()
        if item.boxes and self.spec.existing_boxes != "ignored":
            proposals = [found for box in item.boxes if (found := _given(box, item))]
        else:
            ask.step = "extractor"
            try:
                extracted = self.spec.extractor.phrases(item, ask)
            except Nonsense:
                return Evidence(left_out="the extractor's answer cannot be read")
            named = tuple(phrases.merged(extracted, self.spec.merging.near_phrase))
            if not named:
                return Evidence(left_out="nothing that can be located was named")
            proposals = [p for phrase in named for p in self._proposals(item, phrase, ask)]
        if not proposals:
            return Evidence(phrases=named, left_out="nothing was located")
        judged = [self._judged(proposal, item, ask) for proposal in proposals]
        return self._merged(judged, named)

    def _proposals(self, item: Item, phrase: str, ask: Asking) -> Iterator[Proposal]:
        """The boxes of a phrase by both localizers, merged: appendix B.2."""
        one = self._located("localizer", self.spec.localizer, item, phrase, ask)
        other = self._located("second_localizer", self.spec.second_localizer, item, phrase, ask)
        if one is None or other is None:
            if found := one or other:
                yield replace(found, source="first" if one else "second")
            return
        overlap = boxes.iou(one.box, other.box)
        if boxes.agree(one.box, other.box, self.spec.merging.agreement):
            union = boxes.hull(one.box, other.box)
            yield replace(one, box=union, source="union", iou=overlap)
            return
        yield replace(one, source="first", iou=overlap)
        if self.spec.validator is not None:  # it needs a verdict of its own
            yield replace(other, source="second", iou=overlap)

    def _located(
        self, step: str, localizer: Localizer | None, item: Item, phrase: str, ask: Asking
    ) -> Proposal | None:
        """The box inside the image, or None where there is none or the answer is nonsense."""
        if localizer is None:
            return None
        assert item.image is not None
        ask.step = step

        def find() -> dict[str, Any] | None:
            found = localizer.locate(item, phrase, ask)
            return None if found is None else vars(found)

        key = _key(_identity(localizer), pixels_digest(item.image), phrase)
        try:
            found = self.journal.once(key, find, step=step, id=item.id)
        except Nonsense:
            return None
        box = boxes.clip(tuple(found["box"]), item.image.size) if found else None
        return None if box is None else Proposal(phrase, box, step, found["confidence"])

    def _judged(self, proposal: Proposal, item: Item, ask: Asking) -> Proposal:
        """The proposal with its verdict: appendix B.3."""
        trusted = proposal.source == "given" and self.spec.existing_boxes == "kept"
        if self.spec.validator is None or trusted:
            return proposal
        ask.step = "validator"
        try:
            valid = self.spec.validator.accepts(item, proposal.phrase, proposal.box, ask)
        except Nonsense:
            return replace(proposal, verdict="unreadable")
        return replace(proposal, verdict="valid" if valid else "rejected")

    def _merged(self, judged: list[Proposal], named: tuple[str, ...]) -> Evidence:
        """The boxes that passed, each region once: appendix B.4 counts them."""
        passed = [i for i, p in enumerate(judged) if p.verdict in ("valid", "unjudged")]
        kept = boxes.distinct([judged[i].box for i in passed], self.spec.merging.duplicate)
        staying = {passed[place] for place in kept}
        for index in set(passed) - staying:
            judged[index] = replace(judged[index], verdict="duplicate")
        found = tuple(judged[index].box for index in sorted(staying))
        left_out = "" if found else "no box was validated"
        return Evidence(found, judged, named, left_out)


def _given(box: Box, item: Item) -> Proposal | None:
    assert item.image is not None
    inside = boxes.clip(box, item.image.size)
    return None if inside is None else Proposal("", inside, "given")


@functools.lru_cache(maxsize=8)
def _identity(localizer: Localizer) -> str:
    return written(plain(localizer))


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
