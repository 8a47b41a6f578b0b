"""What each verifier takes for right, and what it makes of gold answers it cannot read."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vexp.registry import REGISTRY
from vexp.verifier._quantity import read_quantity
from vexp.verifier.base import Verdict
from vexp.verifier.exact import Exact
from vexp.verifier.math_verify import MathVerify
from vexp.verifier.multiple_choice import MultipleChoice
from vexp.verifier.numeric import Numeric


def boxed(answer: str) -> str:
    return f"<think>so</think>\\boxed{{{answer}}}"


def right(verifier, answer: str, gold: str, *, read: bool = True) -> bool:
    verdict = verifier.verdict(boxed(answer), gold)
    assert verdict.status == ("ok" if read else "unreadable")
    return verdict.correct == 1.0


ALL = [Exact(), MultipleChoice(), Numeric(), MathVerify()]


@pytest.mark.parametrize("verifier", ALL, ids=lambda v: v.name)
def test_no_answer_and_bad_gold(verifier) -> None:
    assert verifier.verdict("it is 5", "5") == Verdict(0.0, None, "no_answer")
    assert verifier.verdict("<answer>5", "5") == Verdict(0.0, None, "no_answer")  # unclosed
    for gold in ("", "  ", "$$"):
        assert verifier.verdict(boxed("5"), gold).status == "bad_gold"
        assert verifier.verdict(boxed("5"), gold).correct == 0.0
    assert verifier.verdict(boxed("1") + boxed("2"), "2").extracted == "2"  # the last box


@pytest.mark.parametrize("verifier", ALL[:3], ids=lambda v: v.name)
@given(response=st.text(max_size=60), gold=st.text(max_size=20))
def test_any_text_gets_a_verdict(verifier, response: str, gold: str) -> None:
    verdict = verifier.verdict(boxed(response), gold)
    assert verdict.correct in (0.0, 1.0)
    assert verdict.status == "ok" or verdict.correct == 0.0


# --- exact


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "7"),
        (" Red. ", "red"),
        ("\\text{Red}", "red"),
        ("$7$", "7"),
        ("1,234", "1234"),
        ("1{,}234", "1,234"),
        ("(1, 2)", "(1,2)"),
        ("50\\%", "50"),
        ("50 percent", "50%"),
        ("5 cm", "5"),
        ("5", "5 centimeters"),
        ("5 cm", "5 centimetres"),
        ("\\$5", "5 dollars"),
        ("90^\\circ", "90 degrees"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("hot  dog", "Hot dog"),
        ("−3", "-3"),
        ("+3", "3"),
    ],
)
def test_exact_disregards_spelling(answer: str, gold: str) -> None:
    assert right(Exact(), answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "8"),
        ("blue", "red"),
        ("5 cm", "5 m"),  # two units have to agree
        ("5 cm", "5 cm^2"),
        ("0.5", "1/2"),  # text, not numbers
        ("1,23", "123"),  # no thousands separator
        ("in", "5 in"),
        ("a red one", "red"),
        ("hot dog", "hotdog"),
    ],
)
def test_exact_tells_other_text_apart(answer: str, gold: str) -> None:
    assert not right(Exact(), answer, gold)


# --- multiple choice


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("[b].", "B"),
        ("\\text{B}", "B"),
        ("Option B", "B"),
        ("The answer is (B).", "B"),
        ("B. a cat", "B"),
        ("B) a cat", "(B) a cat"),
        ("a cat", "B. A cat"),  # the text of the gold option
        ("B", "B: a cat"),
        ("B. a cat", "a cat"),
        ("a cat", "a cat"),
    ],
)
def test_multiple_choice_by_letter_or_text(answer: str, gold: str) -> None:
    assert right(MultipleChoice(), answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("C", "B"),
        ("B or C", "B"),
        ("a dog", "B. a cat"),
        ("C. a cat", "B. a cat"),  # the letter decides
    ],
)
def test_multiple_choice_tells_options_apart(answer: str, gold: str) -> None:
    assert not right(MultipleChoice(), answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("a cat", "B"), ("Bob", "B"), ("B", "a cat"), ("not B", "B"), ("A cat", "A")],
)
def test_a_letter_is_not_compared_with_text(answer: str, gold: str) -> None:
    """Nor taken from within words; an article is no letter."""
    assert not right(MultipleChoice(), answer, gold, read=False)


# --- numeric


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5", "5.0"),
        ("0.33333", "1/3"),
        ("\\frac{1}{3}", "0.33334"),
        ("\\frac12", ".5"),
        ("-\\frac{3}{4}", "-0.75"),
        ("1\\frac{1}{2}", "1.5"),
        ("-1\\frac{1}{2}", "-1.5"),
        ("1 1/2", "1.5"),
        ("-1 1/2", "-1.5"),
        ("2\\sqrt{3}", "3.4641"),
        ("\\sqrt[3]{27}", "3"),
        ("\\frac{\\sqrt{2}}{2}", "0.70711"),
        ("1,234,567", "1234567"),
        ("1.2 \\times 10^{5}", "120000"),
        ("1e-6", "0.000001"),
        ("50\\%", "0.5"),
        ("50", "50%"),
        ("50%", "50 percent"),
        ("5 cm", "5"),
        ("5 apples", "5"),
        ("3 million", "3,000,000"),
        ("x = 5", "5"),
        ("$5", "5 dollars"),
        ("2\\pi", "6.28319"),
        ("2^{-1}", "0.5"),
        ("(3+4)*2", "14"),
        ("0", "-0.0"),
    ],
)
def test_equal_numbers(answer: str, gold: str) -> None:
    assert right(Numeric(), answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5", "5.01"),
        ("5 cm", "5 m"),
        ("5 cm^2", "5 cm"),
        ("50%", "0.05"),
        ("0.001", "0"),
        ("-5", "5"),
        ("3 million", "3"),
        ("2:30", "2"),
    ],
)
def test_different_numbers(answer: str, gold: str) -> None:
    assert not right(Numeric(), answer, gold)


@pytest.mark.parametrize("answer", ["five", "5 or 6", "1,5", "1/0", "2x", "5i", "5 is wrong"])
def test_what_is_no_number_is_counted_as_such(answer: str) -> None:
    assert not right(Numeric(), answer, "5", read=False)


@pytest.mark.parametrize(
    "gold", ["cat", "1/0", "9^9^9^9", "\\sqrt{-1}", "(" * 199, "-" * 150, "1" * 5000, "1,5", "5 6"]
)
def test_golds_that_are_no_number(gold: str) -> None:
    verdict = Numeric().verdict(boxed("5"), gold)
    assert (verdict.correct, verdict.status) in ((0.0, "bad_gold"),)


@given(st.fractions(-1000, 1000, max_denominator=1000))
def test_a_fraction_equals_its_decimal(number: Fraction) -> None:
    top, bottom = number.numerator, number.denominator
    sign = "-" if top < 0 else ""
    for text in (f"{top}/{bottom}", f"{sign}\\frac{{{abs(top)}}}{{{bottom}}}", repr(float(number))):
        assert read_quantity(text).value == pytest.approx(float(number), rel=1e-12)


@given(st.integers(-(10**15), 10**15))
def test_thousands_separators(number: int) -> None:
    assert read_quantity(f"{number:,}").value == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_as_python_writes_them(number: float) -> None:
    assert read_quantity(repr(number)).value == number


@given(
    st.floats(1e-3, 1e6),
    st.floats(-1e-2, 1e-2),
    st.sampled_from([1e-6, 1e-4, 1e-2]),
)
def test_the_tolerance_is_relative(gold: float, error: float, tolerance: float) -> None:
    assume(abs(abs(error) - tolerance) > 0.02 * tolerance)
    assume(not gold.is_integer())  # whole numbers are compared exactly
    answer = gold * (1 + error)
    assume(not answer.is_integer())
    assert right(Numeric(tolerance=tolerance), repr(answer), repr(gold)) == (abs(error) < tolerance)


@given(st.recursive(st.integers(0, 9).map(str), lambda x: st.tuples(x, st.sampled_from("+-*/"), x)
       .map(lambda t: f"({t[0]}{t[1]}{t[2]})"), max_leaves=8))  # fmt: skip
def test_arithmetic_agrees_with_python(expression: str) -> None:
    assume(len(expression) < 150)
    try:
        expected = float(eval(expression))
    except ZeroDivisionError:
        assert read_quantity(expression) is None
        return
    assert math.isclose(read_quantity(expression).value, expected, abs_tol=1e-9)


# --- math-verify (in this process here; its worker processes are tested with the pool)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("x+1", "1+x", True),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True),
        ("\\{2,1\\}", "\\{1,2\\}", True),
        ("0.5", "1/2", True),
        ("red", "red", True),
        ("der", "red", False),  # not r*e*d
        ("x+1", "x-1", False),
        ("cat", "5", False),
    ],
)
def test_symbolic_equality(answer: str, gold: str, expected: bool) -> None:
    assert right(MathVerify(), answer, gold) == expected


def test_a_gold_that_is_no_mathematics() -> None:
    assert MathVerify().verdict(boxed("5"), "??").status == "bad_gold"
    assert MathVerify().verdict(boxed("??"), "??").correct == 0.0


@pytest.mark.parametrize("answer", ["A (or B)", "A [or B]", "A) a cat B) a dog"])
def test_a_second_option_behind_the_first_is_a_hedge(answer):
    verifier = REGISTRY.get("verifier", "multiple_choice")()
    assert verifier.verdict(f"\\boxed{{{answer}}}", "A").correct == 0
    assert verifier.verdict("\\boxed{A) the region (B) of the map}", "A").correct == 1


@pytest.mark.parametrize("gold", ["3<|im_end|>", "3</s>", "B<|eot_id|> "])
@pytest.mark.parametrize("name", ["exact", "numeric", "multiple_choice", "math_verify"])
def test_a_gold_that_ends_in_a_control_token_is_named(name, gold):
    reason = REGISTRY.get("verifier", name)().gold_problem(gold)
    assert "control token" in reason


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("5 Å", "5 Å", 1), ("5 angstrom", "5 Å", 1), ("25 cm²", "25 cm2", 1), ("25 cm2", "25 cm^2", 1),
     ("0.0025 m2", "25 cm2", 1), ("25 cm3", "25 cm2", 0)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["numeric", "math_verify"])
def test_units_as_plain_text_has_them(name, answer, gold, right):
    verdict = REGISTRY.get("verifier", name)().verdict(f"\\boxed{{{answer}}}", gold)
    assert (verdict.correct, verdict.status) == (right, "ok")
