"""Gold answers that the verifier cannot read are named before training, by row."""

from __future__ import annotations

import json

import pytest

from vexp.dataset.table import Table
from vexp.errors import ConfigError
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.train import golds
from vexp.verifier.base import Verdict, Verifier
from vexp.verifier.pool import gold_problems

WRAPPED = ["<answer> 5 </answer>", "\\boxed{5}", "#### 5", "$\\boxed{5}$"]


def write(folder, answers):
    path = folder / "data.jsonl"
    rows = [{"id": f"q{i}", "question": "?", "answer": a} for i, a in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_on(folder, answers, verifier):
    path = write(folder, answers)
    overrides = ["stages=[rl]", "evaluator.heldout.split=dev", "mix.datasets.main.test_fraction=0"]
    data = ["mix.datasets.main=table", f"mix.datasets.main.path={path}"]
    return resolve(
        [*data, *overrides, "mix.datasets.main.dev_fraction=0.5", f"verifier={verifier}"]
    )


def refusal(run):
    with pytest.raises(ConfigError) as caught:
        golds.check_data(run)
    return caught.value.problems


@pytest.mark.parametrize("verifier", ["exact", "numeric", "math_verify"])
def test_a_gold_in_a_clear_wrapping_is_read(tmp_path, verifier) -> None:
    assert golds.check_data(run_on(tmp_path, WRAPPED * 5, verifier)) == []


@pytest.mark.parametrize("verifier", ["exact", "numeric", "multiple_choice", "math_verify"])
def test_a_gold_within_a_solution_is_named_by_row(tmp_path, verifier) -> None:
    answers = ["A" if verifier == "multiple_choice" else "5"] * 9 + ["2 + 3 makes it #### 5"]
    (problem,) = refusal(run_on(tmp_path, answers, verifier))
    assert f"1 of 10 gold answers cannot be read by the verifier {verifier!r}" in problem.what
    assert "data.jsonl, line 10 (id 'q9'): '2 + 3 makes it #### 5': it stands" in problem.where
    assert "docs/answers.md" in problem.remedy
    assert ("verifier=exact" in problem.remedy) is (verifier != "exact")


def test_golds_that_are_no_numbers_are_counted_and_the_first_named(tmp_path) -> None:
    (problem,) = refusal(run_on(tmp_path, ["5", *["red"] * 9], "numeric"))
    assert problem.what.startswith("9 of 10 gold answers")
    assert problem.where.count("'red': it is no number with or without a unit") == golds.SHOWN
    assert "… and 4 more" in problem.where


def test_a_few_among_many_are_noted_and_training_starts(tmp_path) -> None:
    notes = golds.check_data(run_on(tmp_path, [*["5"] * 199, "red"], "numeric"))
    assert len(notes) == 1
    assert "1 of 200 gold answers" in notes[0]


def test_problems_of_the_data_and_of_golds_are_said_together(tmp_path) -> None:
    problems = refusal(run_on(tmp_path, ["", "red", *["5"] * 8], "numeric"))
    assert len(problems) == 2
    assert "the answer is empty" in problems[0].what
    assert "1 of 9 gold answers" in problems[1].what


def test_the_gold_answers_of_a_table_are_those_of_all_its_splits(tmp_path) -> None:
    answers = [str(number) for number in range(40)]
    table = Table(path=str(write(tmp_path, answers)))
    assert {gold for _, gold in table.golds()} == set(answers)
    assert table.size("test") > 0


@pytest.mark.parametrize("name", ["digits_vqa", "charts_vqa"])
@pytest.mark.parametrize("verifier", ["exact", "math_verify"])
def test_the_answers_of_generated_datasets_are_read(name, verifier) -> None:
    dataset = REGISTRY.get("dataset", name)()
    assert (
        gold_problems(REGISTRY.get("verifier", verifier)(), (g for _, g in dataset.golds())) == {}
    )


def test_slow_golds_are_read_in_workers_and_quick_ones_are_not(monkeypatch) -> None:
    verifier = REGISTRY.get("verifier", "math_verify")()
    sent = []

    class InProcess:
        def judge(self, pairs):
            sent.extend(gold for _, gold in pairs)
            return [verifier.verdict(*pair) for pair in pairs]

    monkeypatch.setattr("vexp.verifier.pool.golds.pool_for", lambda _: InProcess())
    quick = ["5", "1/2", "red", "(1, 2)", "\\{1, 2\\}", "x > 3", "5 km", "7 pm", ""]
    assert gold_problems(verifier, quick) == {"": "it is empty"}
    assert gold_problems(verifier, ["x^2+1", "5", "??"]) == {"??": "the verifier cannot read it"}
    assert sent == ["x^2+1", "??"]


def test_of_many_slow_golds_some_are_read(monkeypatch) -> None:
    counts = []

    class Workers:
        def judge(self, pairs):
            counts.append(len(pairs))
            return [Verdict(1.0)] * len(pairs)

    monkeypatch.setattr("vexp.verifier.pool.golds.pool_for", lambda _: Workers())
    verifier = REGISTRY.get("verifier", "math_verify")()
    assert gold_problems(verifier, [f"x^2+{number}" for number in range(3_000)]) == {}
    assert 300 <= counts[0] <= 400


def test_a_verifier_of_ones_own_is_asked_by_its_verdicts() -> None:
    class Own(Verifier):
        def verdict(self, response: str, gold: str) -> Verdict:
            return Verdict(0.0, None, "ok" if gold == "good" else "bad_gold")

    assert gold_problems(Own(), ["good", "bad"]) == {"bad": "the verifier cannot read it"}
