"""Overrides as they come from a command line: read, or answered by one message."""

from __future__ import annotations

import shlex

import pytest

from vexp.config.grammar import read_override
from vexp.errors import ConfigError
from vexp.spec.resolve import resolve


@pytest.mark.parametrize(
    "text",
    ["Think <think> first", "a; b & c | d", "x^2 # y", "‘so’ – she", "one\ntwo", "a < b > c `d`!"],
)
def test_text_without_signs_of_the_grammar_needs_no_quotes(text):
    assert read_override(f"prompt.instruction={text}", "here").value() == text
    assert resolve([f"prompt.instruction={text}"]).prompt.instruction == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Look, then <think>", "Look, then <think>"),
        ("It's <so>", "It's <so>"),
        ("(<a>)", "(<a>)"),
        ("a = b", "a = b"),
        ("x{<", "x{<"),
        ("5\\% of <all>", "5\\% of <all>"),
        ('"<a', '"<a'),
        ("$5 <a>, it's `so`", "$5 <a>, it's `so`"),
    ],
)
def test_the_remedy_is_a_command_that_works(value, text):
    with pytest.raises(ConfigError) as error:
        read_override(f"prompt.instruction={value}", "here")
    remedy = error.value.problems[0].remedy
    (argument,) = shlex.split(remedy.partition("own: ")[2])
    assert read_override(argument, "here").value() == text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("rl.steps=foo(1)", "there is no function 'foo'"),
        ("rl.steps=extend_list(1)", "there is no function 'extend_list'"),
        ("rl.steps=" + "1" * 5000, "so many digits"),
        ("rl.steps=" + "1" * 2000, "so many digits"),
        ("rl.learning_rate=" + "1" * 400, "so many digits"),
        ("rl.steps=" + "[" * 2000, "this is not an override"),
        ("rl.steps=interval(1,3)", "an interval has no end of values"),
        ("rl.steps=1,2", "names several values"),
        ("rl.steps=range(1,3)", "names several values"),
        ("algorithm=glob(*)", "names several values"),
        ("=3", "this override has no key"),
        ("<a>=<b>", "this is not an override"),
    ],
)
def test_a_run_answers_by_one_short_message(text, what):
    with pytest.raises(ConfigError) as error:
        resolve([text])
    (problem,) = error.value.problems
    assert what in problem.what
    assert len(str(problem)) < 800


@pytest.mark.parametrize(
    ("override", "value"),
    [
        (r"prompt.instruction='Write \${x}$'", "Write ${x}$"),
        (r"prompt.instruction=Write \${x} for ${seed}", "Write ${x} for 1"),
        (r"prompt.instruction='\${'", "${"),
        (r"prompt.instruction='a \\${seed}'", r"a \1"),
        (r"prompt.instruction='\frac{1}{2} costs $5'", r"\frac{1}{2} costs $5"),
        (r"prompt.instruction='${prompt.system}'", ""),
    ],
)
def test_an_escaped_reference_is_text(override, value):
    assert resolve([override]).prompt.instruction == value


@pytest.mark.parametrize("text", ["${x}", "a ${x} b", "${oc.env:HOME}"])
def test_what_refers_to_nothing_says_how_text_is_written(text):
    with pytest.raises(ConfigError, match=r"write `\\\$\{`"):
        resolve([f"prompt.instruction='{text}'"])


@pytest.mark.parametrize("text", ["results_dir=~/x", "results_dir='~/x'", "+results_dir=~/x"])
def test_the_home_folder_is_meant_by_its_sign(text, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve([text]).results_dir == str(tmp_path / "x")
    assert resolve(["plugins=[]", "results_dir=x/~y"]).results_dir == "x/~y"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("~nobody_of_this_name/x", "no home folder '~nobody_of_this_name'"),
        ("$SCRATCH/x", "has a variable"),
        ("'/a/\\${SCRATCH}/x'", "has a variable"),
        ("x" * 256, "more than 255 bytes"),
        ("'" + "好" * 86 + "'", "more than 255 bytes"),
    ],
)
def test_places_that_cannot_be_meant(place, what):
    with pytest.raises(ConfigError) as error:
        resolve([f"results_dir={place}"])
    (problem,) = error.value.problems
    assert what in problem.what
    assert "results_dir, set by override" in problem.where


def test_a_variable_of_the_environment_is_no_key():
    with pytest.raises(ConfigError, match="variables of the environment are not read here"):
        resolve(["results_dir=${SCRATCH}/x"])
