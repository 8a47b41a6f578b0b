"""What answers are read as, whoever judges: one grammar, stated in docs/answers.md."""

from __future__ import annotations

import time
from fractions import Fraction

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

# Verifiers by their letters, the answer (or the whole response), the gold answer.
EQUAL = [
    ("NM", "10⁻³", "0.001"),
    ("NM", "5×10⁻⁴", "0.0005"),
    ("NM", "2^{10}", "1024"),
    ("NM", "2¹⁰", "1024"),
    ("E", "x₁", "x_1"),
    ("ME", "x²+1", "x^2+1"),
    ("NM", "⅓", "1/3"),
    ("NM", "3⅔", "11/3"),
    ("NM", "-2½", "-2.5"),
    ("NM", "1⁄2", "0.5"),
    ("NM", "7⁄8", "0.875"),
    ("NM", "27/8", "3 3/8"),
    ("NM", "3\\frac{3}{8}", "27/8"),
    ("NM", "-3\\tfrac{1}{4}", "-3.25"),
    ("NM", "3 \\frac{1}{2}", "3.5"),
    ("NM", "—5", "-5"),
    ("NM", "−5", "-5"),
    ("NM", "﹣5", "-5"),
    ("NM", "－５", "-5"),
    ("NM", "‒5", "-5"),
    ("NM", "―5", "-5"),
    ("NM", "1,000,000", "1000000"),
    ("NM", "1 000 000", "1000000"),
    ("NM", "1'000'000", "1000000"),
    ("NM", "1’000’000", "1000000"),
    ("NM", "1\u202f000", "1000"),
    ("NM", "1\\,000", "1000"),
    ("NM", "1{,}000", "1000"),
    ("NM", "1,000.5", "1000.5"),
    ("NM", "3.0\\times10^{8}", "300000000"),
    ("NM", "3×10^8", "3*10^8"),
    ("NM", "3 x 10^8", "300000000"),
    ("NM", "3e8", "3*10**8"),
    ("NM", "1e5", "100000"),
    ("NM", "1E5", "100000"),
    ("NM", "3 million", "3000000"),
    ("NM", "3 million people", "3000000 people"),
    ("NM", "$2.5 billion", "2.5 billion dollars"),
    ("NM", "2,500,000,000", "2.5 billion dollars"),
    ("NM", "3 thousand", "3000"),
    ("NM", "5 hundred", "500"),
    ("NM", "1.5 million", "1,500,000"),
    ("NM", "5 m/s", "5 m/s"),
    ("NM", "5 m s^{-1}", "5 m/s"),
    ("NM", "18 km/h", "5 m/s"),
    ("NM", "5 meters per second", "5 m/s"),
    ("NM", "5 N", "5 kg m/s^2"),
    ("NM", "5 J", "5 N·m"),
    ("NM", "5 cm²", "5 cm^2"),
    ("NM", "5 square centimeters", "5 cm²"),
    ("NM", "10 Ω", "10 ohms"),
    ("NM", "60 mph", "60 miles per hour"),
    ("NM", "300 minutes", "5 hours"),
    ("NM", "5000 m", "5 km"),
    ("NM", "5", "5 km"),
    ("NM", "€5", "5 euros"),
    ("NM", "¥500", "500 yen"),
    ("NM", "5 USD", "$5"),
    ("NM", "-$5", "$-5"),
    ("NM", "$5.00", "$5"),
    ("NM", "500 cents", "$5"),
    ("E", "€5", "€5.00"),
    ("NM", "50%", "0.5"),
    ("NM", "50 percent", "50%"),
    ("NM", "0.5%", "0.005"),
    ("NM", "12.5\\%", "1/8"),
    ("NM", "40°C", "40 °C"),
    ("NM", "104 °F", "40 °C"),
    ("NM", "40 degrees Celsius", "40°C"),
    ("NM", "7 pm", "7:00 PM"),
    ("NM", "19:00", "7 pm"),
    ("E", "7 PM", "7 pm"),
    ("NM", "about 5", "5"),
    ("NM", "5 dogs", "5"),
    ("NM", "10000.0", "10000"),
    ("NM", "1/3", "0.333"),
    ("NM", "\\pi", "3.14"),
    ("N", "0.33333", "1/3"),
    ("NM", "3.14159265", "\\pi"),
    ("NM", "0.1+0.2", "0.3"),
    ("C", "B", "B"),
    ("C", "B.", "(B)"),
    ("C", "\\textbf{B}", "B"),
    ("C", "**B. a cat**", "B"),
    ("C", "**B**: a cat", "B"),
    ("C", "B — a cat", "B"),
    ("C", "B – a cat", "B"),
    ("C", "(B) a cat", "B"),
    ("C", "B) a cat", "B"),
    ("C", "[B]", "B"),
    ("C", "B: a cat", "B"),
    ("C", "B\na cat", "B"),
    ("C", "B, a cat", "B"),
    ("C", "B (a cat)", "B"),
    ("C", "Option B", "B"),
    ("C", "The answer is B", "B"),
    ("C", "The correct option is (B).", "B"),
    ("C", "B is correct", "B"),
    ("C", "A & C", "A, C"),
    ("C", "C;A", "A, C"),
    ("C", "CA", "A, C"),
    ("C", "A,C", "AC"),
    ("C", "(A), (C)", "A, C"),
    ("C", "(A)(C)", "A, C"),
    ("C", "A C", "A, C"),
    ("C", "A, C, and D", "ACD"),
    ("C", "Both A and C", "A, C"),
    ("C", "a", "A"),
    ("C", "Ⓑ", "B"),
    ("C", "Ｂ", "B"),
    ("C", "\\boxed{B}", "B"),
    ("C", "B", "\\boxed{B}"),
    ("C", "B. dog", "B. cat"),
    ("C", "cat", "B. cat"),
    ("C", "E", "E"),
    ("C", "I", "I"),
    ("C", "none", "none"),
    ("M", "(0,1)", "(0,1)"),
    ("M", "(0, 12.5)", "0<x<12.5"),
    ("M", "0<x<12.5", "(0,12.5)"),
    ("M", "0 \\le x < 1", "[0,1)"),
    ("M", "x>3", "(3,\\infty)"),
    ("M", "3<x", "x>3"),
    ("M", "x\\geq 3", "[3,\\infty)"),
    ("M", "(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("M", "(-\\infty, 2)", "x<2"),
    ("M", "]0,1[", "(0,1)"),
    ("M", "x \\in [0,1]", "[0,1]"),
    ("M", "5>x>1", "1<x<5"),
    ("M", "\\{1,2,3\\}", "{3,2,1}"),
    ("M", "1, 2", "2, 1"),
    ("M", "(1, 2, 3)", "(1,2,3)"),
    ("M", "(0.5,2)", "(1/2,2)"),
    ("M", "x=5", "5"),
    ("M", "5", "x=5"),
    ("M", "y=2x+1", "y = 1+2x"),
    ("M", "2x+1=y", "y=2x+1"),
    ("M", "x=1 or x=2", "1,2"),
    ("M", "x=1,2", "x=2,1"),
    ("M", "x=1, y=2", "x=1,y=2"),
    ("M", "1,2,\\dots,n", "1,2,\\ldots,n"),
    ("M", "\\sin(\\pi/2)", "1"),
    ("M", "\\binom{5}{2}", "10"),
    ("M", "5!", "120"),
    ("M", "\\log_2 8", "3"),
    ("M", "x+1", "1+x"),
    ("M", "\\pm 2", "2,-2"),
    ("M", "\\sqrt{8}", "2\\sqrt{2}"),
    ("M", "red", "red"),
    ("M", "0.5x", "x/2"),
    ("M", "x^{4}", "x⁴"),
    ("M", "\\infty", "\\infty"),
    ("M", "\\text{no solution}", "no solution"),
    ("M", "2:4", "1:2"),
    ("NE", "<think>a</think>Answer：5", "5"),
    ("NE", "<think>a</think>\\boxed {5}", "5"),
    ("NE", "<think>a</think>\\boxed{5} then \\boxed{}", "5"),
    ("NE", "a</think><answer>5</answer>", "5"),
    ("NME", "5", "<answer>5</answer>"),
    ("NME", "5", "\\(\\boxed{5}\\)"),
    ("NME", "5", "$$\\boxed{5}$$"),
    ("NME", "5", "####5"),
    ("NME", "5", "**5**"),
    ("NME", "5", "Answer: 5"),
    ("NME", "5", "\\boxed{\\text{5}}"),
    ("NME", "5", "The answer is 5."),
    ("E", "5.0", "5"),
    ("E", "0.50", "0.5"),
    ("E", "hello world", "Hello  World."),
    ("E", "don't", "don’t"),
    ("E", "ice-cream", "ice–cream"),
]
DIFFERENT = [
    ("NM", "210", "2¹⁰"),
    ("NM", "x₁", "1"),
    ("M", "x2+1", "x²+1"),
    ("NM", "-2½", "-1.5"),
    ("NM", "33/8", "3 3/8"),
    ("NM", "31/2", "3 1/2"),
    ("NME", "5", "-5"),
    ("NM", "1e6", "100000"),
    ("NM", "3", "3 million people"),
    ("NM", "1,500,001", "1.5 million"),
    ("NM", "5 km/h", "5 m/s"),
    ("NM", "5 kg", "5 g"),
    ("NM", "5 cm", "5 cm²"),
    ("NM", "10 kΩ", "10 Ω"),
    ("NM", "5 hours", "5 minutes"),
    ("NM", "$5", "€5"),
    ("NM", "£5", "$5"),
    ("NM", "5", "-$5"),
    ("E", "£5", "€5"),
    ("NM", "5%", "$5"),
    ("NM", "5%", "5 km"),
    ("NM", "40 °F", "40 °C"),
    ("NM", "40 K", "40 °C"),
    ("NM", "7 a.m.", "7 pm"),
    ("NM", "12:00", "1:00"),
    ("NM", "12:30 pm", "12:30 am"),
    ("E", "7:00 pm", "7 am"),
    ("NM", "3k", "3"),
    ("NM", "2x", "2"),
    ("NM", "5i", "5"),
    ("NM", "7 not", "7"),
    ("NM", "7 maybe", "7"),
    ("NM", "5 or 6", "5"),
    ("NM", "5, 6", "5"),
    ("NM", "5 and 6", "5"),
    ("NM", "5-6", "5"),
    ("NM", "5 to 6", "5"),
    ("NM", "not 5", "5"),
    ("NM", "5!", "5"),
    ("NM", "5?", "5"),
    ("NM", "5a", "5"),
    ("NM", "5 is it", "5"),
    ("NM", "5π", "5"),
    ("NM", "x5", "5"),
    ("NM", "5 years", "5 days"),
    ("NM", "5 dogs", "5 cats"),
    ("NM", "at least 5", "5"),
    ("NM", "5+", "5"),
    ("NM", "5±1", "5"),
    ("NM", "9999", "10000"),
    ("NM", "10000.4", "10000"),
    ("NM", "100000000000000000000", "100000000000000000001"),
    ("NM", "2022", "2021"),
    ("NM", "1234567", "1234568"),
    ("NM", "0.333", "1/3"),
    ("C", "B is not correct", "B"),
    ("C", "A or B", "A"),
    ("C", "AB", "A"),
    ("C", "A/B", "A"),
    ("C", "A, B", "A"),
    ("C", "A and B", "A"),
    ("C", "not A", "A"),
    ("C", "Either A or B", "A"),
    ("C", "A, B, or C", "A"),
    ("C", "A, B, C", "A, C"),
    ("C", "A", "A, C"),
    ("C", "A. cat", "B. cat"),
    ("C", "A cat", "A"),
    ("C", "B. or C.", "B"),
    ("C", "probably B", "B"),
    ("C", "B?", "B"),
    ("C", "A - B", "A"),
    ("C", "B-", "B"),
    ("M", "[0,1)", "[0,1]"),
    ("M", "(0,1]", "[0,1)"),
    ("M", "0<=x<1", "(0,1)"),
    ("M", "x>3", "x\\ge 3"),
    ("M", "y>3", "x>3"),
    ("M", "\\{1,2\\}", "\\{1,3\\}"),
    ("M", "(1,2)", "(2,1)"),
    ("M", "x=5", "y=5"),
    ("M", "y=2x+1", "y=2x-1"),
    ("M", "x=1, y=2", "x=2,y=1"),
    ("M", "1/2^98", "1/2^99"),
    ("M", "10^{-7}", "10^{-8}"),
    ("M", "1,3,5,\\ldots,2n-1", "1,2,\\ldots,n"),
    ("M", "n", "N"),
    ("M", "der", "red"),
    ("M", "90^\\circ", "\\pi/2"),
    ("M", "-\\infty", "\\infty"),
    ("M", "1:2", "2:1"),
    ("M", "5 km", "5 m"),
    ("M", "0.0000001x", "0.0000002x"),
    ("M", "a+b", "a-b"),
    ("NE", "<think>\\boxed{3}</think>4", "3"),
    ("NE", "<think>a \\boxed{5}", "5"),
    ("NME", "6", "#### 5"),
    ("E", "1/2", "0.5"),
    ("E", "yes", "no"),
]


def verdicts(cases):
    """Each case with each of its verifiers, one test each; quick ones in one process."""
    for letters, answer, gold in cases:
        spoken = answer.startswith("<") or "</think>" in answer
        response = answer if spoken else f"<think>so</think>\\boxed{{{answer}}}"
        for letter in letters:
            yield letter, answer, gold, VERIFIERS[letter].verdict(response, gold)


def test_equal_answers_are_right():
    wrong = [case for case in verdicts(EQUAL) if case[-1].correct != 1.0]
    assert wrong == []


def test_different_answers_are_wrong_or_counted_as_unreadable():
    right = [case for case in verdicts(DIFFERENT) if case[-1].correct != 0.0]
    assert right == []
    assert [case for case in verdicts(DIFFERENT) if case[-1].status == "bad_gold"] == []


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
def test_a_mixed_number_is_a_sum(whole: int, top: int, bottom: int) -> None:
    for text in (f"{whole} {top}/{bottom}", f"{whole}\\frac{{{top}}}{{{bottom}}}"):
        assert read_quantity(text).number.value == whole + Fraction(top, bottom)
        assert read_quantity(f"-{text}").number.value == -(whole + Fraction(top, bottom))


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
