"""An answer format that is rewarded has to be asked for, where nothing teaches it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vexp.config.schema import build, to_dict
from vexp.errors import ConfigError
from vexp.spec.format_problems import INSTRUCTIONS
from vexp.spec.resolve import resolve
from vexp.spec.run import StoredRunSpec
from vexp.verifier.exact import Exact

REAL = ("backbone=qwen2_5_vl_3b", "stages=[rl]")
UNPAID = "reward.terms.format.weight=0"


def said(text):
    escaped = text.replace('"', '\\"')
    return f'prompt.instruction="{escaped}"'


def problem_of(*overrides):
    with pytest.raises(ConfigError) as caught:
        resolve([*REAL, *overrides])
    (problem,) = caught.value.problems
    return problem


def table(path, *questions):
    rows = [{"question": text, "answer": "1"} for text in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f"name: table, path: '{path}', dev_fraction: 0, test_path: '{path}'"
    return f"mix.datasets={{main: {{{own}}}}}"


@pytest.mark.parametrize(
    ("overrides", "reader"),
    [
        ((), "reward.terms.format pays for the format think_boxed"),
        (("prompt.response_format=answer_tag",), "pays for the format answer_tag"),
        ((said("Answer in a box."),), "reward.terms.format"),
        ((said("Put it in \\boxed{}."),), "reward.terms.format"),  # and the thoughts?
        ((UNPAID,), "verifier 'exact' looks for the answer"),
        (("~reward.terms.format", "verifier=numeric"), "verifier 'numeric' looks for the answer"),
        (
            (UNPAID, "rollout.stop=answer", said("End with Answer: ...")),
            "rollout.stop=answer ends a response",
        ),
    ],
)  # fmt: skip
def test_a_format_that_nothing_asks_for_is_an_error(overrides, reader):
    problem = problem_of(*overrides)
    assert reader in problem.what
    assert problem.where.startswith("prompt.instruction and prompt.system")


@pytest.mark.parametrize("chosen", INSTRUCTIONS)
def test_the_remedy_is_one(chosen):
    form = f"prompt.response_format={chosen}"
    remedy = problem_of(form).remedy
    override = remedy.split("'")[1]  # as a shell reads it
    assert resolve([*REAL, form, override]).prompt.instruction == INSTRUCTIONS[chosen]


@pytest.mark.parametrize(
    "overrides",
    [
        (said("<think> </think>, then \\boxed{}."),),
        ('prompt.system="<THINK> first, then \\boxed{}"',),
        (UNPAID, said("Finish with 'Answer: ...'.")),
        (UNPAID, "rollout.stop=answer", said("In \\boxed{}.")),
        ("prompt.response_format=answer_tag", said("In <answer> </answer>.")),
        ("stages=[warm_start,rl]",),
        ("stages=[anchor,rl]",),
        ("stages=[]",),
        ("backbone=tiny_qwen2_5_vl",),  # it reads no instructions
    ],
)
def test_runs_that_are_told_or_taught(overrides):
    resolve([*REAL, *overrides])


def test_questions_may_ask_for_it_themselves(tmp_path):
    own = " <think> first, then \\boxed{}."
    every = table(tmp_path / "every.jsonl", *(f"What is {n}?{own}" for n in range(3)))
    resolve([*REAL, every])
    some = table(tmp_path / "some.jsonl", f"What is 1?{own}", "What is 2?")
    assert "reward.terms.format" in problem_of(some).what


def test_a_verifier_that_reads_in_another_way_asks_for_nothing(monkeypatch):
    monkeypatch.setattr(Exact, "reads_format", False)
    resolve([*REAL, UNPAID])


def test_a_run_that_was_trained_without_it_can_still_be_read():
    told = resolve([*REAL, said("<think> </think>, then \\boxed{}.")])
    before = to_dict(dataclasses.replace(told.prompt, instruction=""))
    stored = build(StoredRunSpec, {**to_dict(told), "prompt": before})
    assert stored.prompt.instruction == ""
