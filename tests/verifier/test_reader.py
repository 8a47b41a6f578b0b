"""What answers are read as, whoever judges: one grammar, stated in docs/answers.md."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.verifier._choice import read_option
from vexp.verifier._quantity import read_quantity, read_value, same_value
from vexp.verifier._structure import read_structure
from vexp.verifier._text import normalized, plain_math
from vexp.verifier.exact import Exact
from vexp.verifier.math_verify import MathVerify
from vexp.verifier.multiple_choice import MultipleChoice
from vexp.verifier.numeric import Numeric

VERIFIERS = {"E": Exact(), "N": Numeric(), "M": MathVerify(), "C": MultipleChoice()}

# The verifiers by their letters, the answer (or the whole response), the gold answer, the verdict.
CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("reader_cases.jsonl").read_text("utf-8").split("\n")[:-1]
]


@pytest.mark.parametrize("letter", VERIFIERS)
def test_answers_are_read_as_a_careful_reader_reads_them(letter: str) -> None:
    wrong = []
    for letters, answer, gold, wanted in CASES:
        if letter not in letters:
            continue
        spoken = answer.startswith("<think") or "</think>" in answer
        response = answer if spoken else f"<think>so</think>\\boxed{{{answer}}}"
        verdict = VERIFIERS[letter].verdict(response, gold)
        read = verdict.status == "ok" if wanted else verdict.status != "bad_gold"
        if verdict.correct != wanted or not read:
            wrong.append((answer, gold, wanted, verdict))
    assert wrong == []


# --- properties


DASHES = "‐‑‒–—―−﹣－"
NUMBERS = st.fractions(-1000, 1000, max_denominator=64)
SPELLED = st.text(
    st.sampled_from("0123456789.,/^*+-−½⁵₂() {}[]\\$%€°<>=:;|'\"abkmxABC√π∞…"), max_size=40
)


def written(number: Fraction) -> str:
    return f"{number.numerator}/{number.denominator}"


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_whole_numbers_are_equal_only_to_themselves(a: int, b: int) -> None:
    for number, other in ((a, b), (a, a + 1), (a, a)):
        same = same_value(read_value(f"{number:,}"), read_value(str(other)), 0.5)
        assert same is (number == other)


@given(st.integers(0, 10**9), st.sampled_from(DASHES))
def test_every_dash_is_a_minus_sign(number: int, dash: str) -> None:
    assert read_quantity(f"{dash}{number}").number.value == -number


@given(st.integers(1, 99), st.integers(0, 40))
def test_superscripts_are_powers(base: int, power: int) -> None:
    raised = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert read_quantity(f"{base}{raised}").number.value == base**power
    assert read_quantity(f"{base}⁻{raised}").number.value == Fraction(1, base**power)
    assert plain_math(f"x{raised}") == plain_math(f"x^{{{power}}}") != f"x{power}"


@given(st.integers(0, 999), st.integers(1, 99), st.integers(2, 99))
def test_a_mixed_number_is_a_sum(integer: int, top: int, bottom: int) -> None:
    for text in (f"{integer} {top}/{bottom}", f"{integer}\\frac{{{top}}}{{{bottom}}}"):
        assert read_quantity(text).number.value == integer + Fraction(top, bottom)
        assert read_quantity(f"-{text}").number.value == -(integer + Fraction(top, bottom))


@given(NUMBERS, NUMBERS, st.sampled_from(["", " m", " cm", " %", " s", " apples"]))
def test_exact_values_are_compared_alike_in_both_directions(a, b, unit: str) -> None:
    one, other = read_value(written(a) + unit), read_value(written(b) + unit)
    assert same_value(one, other, 0.0) is same_value(other, one, 0.0) is (a == b)


@given(st.integers(1, 10**6))
def test_units_convert_in_both_directions(number: int) -> None:
    for text, other in ((f"{number} km", f"{number}000 m"), (f"{number} h", f"{number * 60} min")):
        assert same_value(read_value(text), read_value(other), 0.0)
        assert same_value(read_value(other), read_value(text), 0.0)
        swapped = text.split()[0] + " " + other.split()[1]
        assert not same_value(read_value(text), read_value(swapped), 0.0)


@given(st.sets(st.sampled_from("ABCDEFGH"), min_size=1, max_size=5), st.randoms())
def test_several_letters_have_no_order(letters: set[str], shuffle) -> None:
    order = sorted(letters)
    shuffle.shuffle(order)
    for between in (", ", ",", " and ", " & ", "; ", ""):
        assert read_option(between.join(order)).letters == letters
        assert not read_option(between.join(order)).hedged
    if len(letters) > 1:
        assert read_option(" or ".join(order)).hedged


@given(SPELLED | st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_without_an_error(text: str) -> None:
    normalized(text)
    read_option(text)
    read_structure(text)
    value = read_value(text)
    assert value is None or same_value(value, value, 0.0)


HOSTILE = (
    "9^9^9^9", "1" * 5000, "1e999999999", "(" * 3000 + "5" + ")" * 3000, "{" * 100_000,
    "1," * 200_000, "ab " * 200_000, " " * 300_000 + "x", "$" * 200_000, "**a" * 3000, "1/" * 450,
    "A and " * 1500, "(A" * 4000, "5 " + "m/" * 300, "1=" * 400, "\\text{" * 1500, "\\frac" * 900,
    "\\sqrt{" * 150, "½" * 900, "\u200b" * 9000, "[1,2)\\cup" * 500, "a<" * 3000, "1 dozen " * 100,
    "10**" * 200, "5 ft " * 200, "0.\\overline{" + "9" * 900 + "}",
)  # fmt: skip


@pytest.mark.parametrize("letter", "ENC")
def test_hostile_answers_and_golds_take_bounded_time(letter: str) -> None:
    verifier = VERIFIERS[letter]
    read_value("5 m")  # the units are loaded once
    start = time.perf_counter()
    for text in HOSTILE:
        verifier.verdict(f"\\boxed{{{text}}}", "5")
        verifier.verdict("\\boxed{5}", text)
        verifier.gold_problem(text)
    assert time.perf_counter() - start < 5


def test_what_math_verify_reads_itself_of_hostile_golds_takes_bounded_time() -> None:
    start = time.perf_counter()
    for text in HOSTILE:
        VERIFIERS["M"].may_take_long(text)
    assert time.perf_counter() - start < 5
