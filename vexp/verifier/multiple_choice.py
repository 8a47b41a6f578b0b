"""The answer is right if it names the gold option or options, by letter or by text."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.registry import register
from vexp.response.format import extract_answer
from vexp.verifier._choice import Option, read_option
from vexp.verifier._compare import same_text
from vexp.verifier._text import LONGEST, wrapping_left
from vexp.verifier.base import Verdict, Verifier


@register("verifier", "multiple_choice")
@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Verifier):
    """Compares option letters; the gold answer may be `B`, `A, C`, `(B) a cat`, or just `a cat`.

    Several letters are a set: `A, C`, `C and A` and `AC` are equal; `A or C` commits to none and
    is wrong. A letter is taken only from an answer that consists of letters or begins with one.
    Without a letter, the option's text decides. An answer without a letter for a gold answer that
    is only one, or the reverse, cannot be compared: its status is "unreadable".
    """

    version = 2  # 2: by the one reader of docs/answers.md

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        wanted = read_option(gold[:LONGEST])
        if self.gold_problem(gold):
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        if len(extracted) > LONGEST:
            return Verdict(0.0, extracted, "unreadable")
        answer = read_option(extracted)
        if answer.text and wanted.text and not (answer.hedged or _labels_differ(answer, wanted)):
            if same_text(answer.text, wanted.text):
                return Verdict(1.0, extracted)
            if not (answer.letters and wanted.letters):
                return Verdict(0.0, extracted)
        if answer.letters and wanted.letters:
            return Verdict(float(answer.letters == wanted.letters and not answer.hedged), extracted)
        return Verdict(0.0, extracted, "unreadable")

    def gold_problem(self, gold: str) -> str | None:
        option = read_option(gold[:LONGEST])
        if option.hedged:
            return "it names options with `or`, so that no answer can be right"
        if not option.letters and not option.text:
            return "it is empty"
        return wrapping_left(gold)


def _labels_differ(answer: Option, gold: Option) -> bool:
    return bool(answer.letters and gold.letters) and answer.letters != gold.letters
