"""From phrases to boxes with components that do as they are told: whose box counts, and when."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

import PIL.Image
import pytest

from vexp.annotate.client_pool import Asking
from vexp.annotate.evidence import Annotator
from vexp.annotate.journal import AnnotationJournal
from vexp.annotate.spec import Annotation, Merging
from vexp.dataset.base import Item
from vexp.errors import ConfigError
from vexp.extractor.base import Extractor
from vexp.localizer.base import Localizer, Located
from vexp.spec.resolve import resolve
from vexp.validator.base import Validator

BOXES = {"cup": (10.0, 10.0, 50.0, 50.0), "dog": (60.0, 20.0, 90.0, 70.0)}
NEAR = (10.0, 10.0, 50.0, 46.0)  # of the cup: an IoU of 0.9
FAR = (40.0, 40.0, 80.0, 80.0)


@dataclass(frozen=True, kw_only=True)
class Names(Extractor):
    """Names what it is told."""

    name = "names"
    said: tuple[str, ...] = ("cup",)

    def phrases(self, item, ask):
        return self.said


@dataclass(frozen=True, kw_only=True)
class Finds(Localizer):
    """Finds what it is told."""

    name = "finds"
    boxes: dict = field(default_factory=lambda: dict(BOXES))
    log: list = field(default_factory=list, compare=False)

    def __hash__(self):
        return id(self)

    def locate(self, item, phrase, ask):
        self.log.append(phrase)
        return Located(self.boxes[phrase], 0.5) if phrase in self.boxes else None


@dataclass(frozen=True, kw_only=True)
class Accepts(Validator):
    """Rejects the boxes it is told."""

    name = "accepts"
    but: tuple = ()
    seen: list = field(default_factory=list, compare=False)

    def accepts(self, item, phrase, box, ask):
        self.seen.append((phrase, box))
        return box not in self.but


ITEM = Item(id="i", question="q", answer="a", image=PIL.Image.new("RGB", (100, 80)))


def annotated(tmp_path, item=ITEM, **parts):
    dataset = resolve([]).mix.datasets["main"]
    parts = {"extractor": Names(), "localizer": Finds(), "validator": Accepts()} | parts
    spec = Annotation(dataset=dataset, **parts)
    journal = AnnotationJournal(tmp_path / "journal.jsonl")
    return Annotator(spec, journal).evidence(item, Asking(journal, {}, item.id))


def test_every_case_of_two_localizers(tmp_path):
    """Against the table of appendix B.2, written out: first, second, agreement, verdicts."""
    cup = BOXES["cup"]
    cases = itertools.product((None, cup), (None, cup, NEAR, FAR), (False, True), (False, True))
    for number, (one, other, validated, second_is_valid) in enumerate(cases):
        if not (one or other):
            expected = []
        elif one and other in (cup, NEAR):
            expected = [cup]  # the box around both is the larger one here
        elif one and other:
            expected = [one, other] if validated and second_is_valid else [one]
        else:
            expected = [one or other]
            if other is FAR and validated and not second_is_valid:
                expected = []
        folder = tmp_path / str(number)
        folder.mkdir()
        validator = Accepts(but=() if second_is_valid else (FAR,)) if validated else None
        found = annotated(
            folder,
            localizer=Finds(boxes={"cup": one} if one else {}),
            second_localizer=Finds(boxes={"cup": other, "x": FAR} if other else {"x": FAR}),
            validator=validator,
        )
        assert list(found.boxes) == expected, (one, other, validated, second_is_valid)


def test_agreement_unites(tmp_path):
    shifted = (14.0, 12.0, 54.0, 52.0)
    found = annotated(
        tmp_path, second_localizer=Finds(boxes={"cup": shifted}), merging=Merging(agreement=0.7)
    )
    assert found.boxes == ((10.0, 10.0, 54.0, 52.0),)
    (proposal,) = found.proposals
    common, union = 36 * 38, 2 * 1600 - 36 * 38
    assert proposal.source == "union"
    assert proposal.iou == pytest.approx(common / union)


def test_boxes_are_cut_to_the_image_before_they_are_compared(tmp_path):
    found = annotated(
        tmp_path,
        localizer=Finds(boxes={"cup": (-500.0, 10.0, 50.0, 50.0)}),
        second_localizer=Finds(boxes={"cup": (0.0, 10.0, 50.0, 50.0)}),
    )
    assert found.boxes == ((0.0, 10.0, 50.0, 50.0),)
    outside = Finds(boxes={"cup": (200.0, 10.0, 250.0, 50.0)})
    (tmp_path / "journal.jsonl").unlink()
    assert annotated(tmp_path, localizer=outside).left_out == "nothing was located"


def test_one_region_under_two_names_is_one_piece_of_evidence(tmp_path):
    same = Finds(boxes={"cup": BOXES["cup"], "mug": NEAR, "dog": BOXES["dog"]})
    found = annotated(tmp_path, extractor=Names(said=("cup", "mug", "dog")), localizer=same)
    assert found.boxes == (BOXES["cup"], BOXES["dog"])
    assert found.tag == "multi"
    assert [p.verdict for p in found.proposals] == ["valid", "duplicate", "valid"]


def test_rejected_boxes_do_not_hide_others(tmp_path):
    """A box counts as a duplicate only of one that stays."""
    found = annotated(
        tmp_path,
        extractor=Names(said=("cup", "mug", "dog")),
        localizer=Finds(boxes=BOXES | {"mug": NEAR}),
        validator=Accepts(but=(BOXES["cup"],)),
    )
    assert found.boxes == (NEAR, BOXES["dog"])
    assert [p.verdict for p in found.proposals] == ["rejected", "valid", "valid"]


def test_each_phrase_is_located_and_judged_by_itself(tmp_path):
    finds, accepts = Finds(), Accepts()
    said = ("cup", "the background", "a cup", "dog")
    found = annotated(tmp_path, extractor=Names(said=said), localizer=finds, validator=accepts)
    assert finds.log == ["cup", "dog"]
    assert accepts.seen == list(BOXES.items())
    assert found.tag == "multi"


def test_without_image_phrases_or_boxes_there_is_a_reason(tmp_path):
    plain = dataclasses.replace(ITEM, image=None)
    assert annotated(tmp_path, plain).left_out == "it has no image"
    none = annotated(tmp_path, extractor=Names(said=("the scene",)))
    assert none.left_out == "nothing that can be located was named"
    rejected = annotated(tmp_path, validator=Accepts(but=(BOXES["cup"],)))
    assert (rejected.left_out, rejected.tag) == ("no box was validated", "")


def test_a_second_localizer_that_is_the_first_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is the first one again"):
        annotated(tmp_path, second_localizer=Finds())
