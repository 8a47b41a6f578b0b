"""Two checkpoints on the same questions: `vexp diff A B --samples`."""

from __future__ import annotations

import json
import statistics

import pytest
from click.testing import CliRunner
from scipy import stats

from tests.runs.conftest import Recorder
from vexp.cli.main import Commands
from vexp.errors import RunError
from vexp.records import Metric, Results
from vexp.runs.execute import execute
from vexp.runs.responses import are_numbered, split_id
from vexp.tables.compare_checkpoints import Compared, NotCompared, compare


@pytest.fixture
def finished(stub_run, store):
    """A function from overrides to a finished run's folder."""
    return lambda *given: execute(stub_run(*given), reporter=Recorder(), store=store).run


def rewritten(run, correct, ids=None):
    """Give the run's one evaluation these scores."""
    (folder,) = run.evaluations_dir.iterdir()
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    rows = [rows[0] | {"id": f"q/{n}", "correct": c} for n, c in enumerate(correct)]
    for row, name in zip(rows, ids or [], strict=False):
        row["id"] = name
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"samples": len(rows)}))


def test_accuracies_difference_and_exact_test(finished):
    first, second = finished(), finished("warm_start.seed=2")
    ours, theirs = [1] * 10 + [0] * 30, [1] * 7 + [0] * 3 + [1] * 15 + [0] * 15
    rewritten(first, ours)
    rewritten(second, theirs)
    (found,) = compare(first, second)
    assert isinstance(found, Compared)
    assert (found.questions, found.first, found.second) == (40, 0.25, 0.55)
    assert (len(found.better), len(found.worse)) == (15, 3)
    assert found.test.p == pytest.approx(stats.binomtest(3, 18).pvalue)
    assert found.difference.mean == pytest.approx(0.3)
    error = statistics.stdev(b - a for a, b in zip(ours, theirs, strict=True)) / 40**0.5
    assert found.difference.low == pytest.approx(0.3 - 1.96 * error, abs=0.03)
    assert found.difference.high == pytest.approx(0.3 + 1.96 * error, abs=0.03)


NAMES = [f"q.jpg/{question}#{place}" for question in range(5) for place in range(4)]


def test_several_answers_to_a_question_are_one_question(finished):
    first, second = finished(), finished("warm_start.seed=2")
    rewritten(first, [0, 0, 0, 1] * 5, NAMES)
    rewritten(second, [1, 0, 0, 1] * 5, NAMES)
    for run in (first, second):
        (folder,) = run.evaluations_dir.iterdir()
        results = json.loads((folder / "results.json").read_text())
        results["protocol"]["k"] = 4
        (folder / "results.json").write_text(json.dumps(results))
    (found,) = compare(first, second)
    assert (found.questions, found.first, found.second, found.test) == (5, 0.25, 0.5, None)
    assert len(found.better) == 5


def test_a_sharp_in_an_id_is_part_of_it(finished):
    first, second = finished(), finished("warm_start.seed=2")
    rewritten(first, [0, 0, 0, 1] * 5, NAMES)
    rewritten(second, [1, 0, 0, 1] * 5, NAMES)
    (found,) = compare(first, second)
    assert (found.questions, found.first, found.second) == (20, 0.25, 0.5)
    assert found.test.p == pytest.approx(stats.binomtest(0, 5).pvalue)
    assert found.better == tuple(NAMES[::4])


@pytest.mark.parametrize(
    ("evaluator", "protocol", "numbered"),
    [
        ("heldout", {"decoding": "greedy"}, False),
        ("avg_at_k", {"k": 8}, True),
        ("credit", {"group_size": 1}, True),
        ("lmms_eval", {"drawn": {"k": 1}}, False),
        ("lmms_eval", {"drawn": {"k": 3}}, True),
        ("imported", {"k": 8}, False),
        ("heldout", {}, False),
    ],
)
def test_the_protocol_says_whose_number_ends_an_id(evaluator, protocol, numbered):
    results = Results(1, "it", "key", {"accuracy": Metric(1.0)}, "", evaluator, protocol)
    assert are_numbered(results) is numbered
    whole = split_id("p.jpg#1#0", numbered=numbered)
    assert whole == (("p.jpg#1", "0") if numbered else ("p.jpg#1#0", ""))


def test_what_cannot_be_compared_says_why(finished):
    first = finished()
    other = finished("warm_start.seed=2", "evaluator.heldout.size=9")
    third = finished("warm_start.seed=3")
    (found,) = compare(first, other)
    assert found == NotCompared("heldout", "their protocols differ")
    rewritten(third, [1, 0], ["else/1", "else/2"])
    (found,) = compare(first, third)
    assert found == NotCompared("heldout", "their samples are not of the same questions")


def test_the_command(finished, store, monkeypatch):
    first, second = finished(), finished("warm_start.seed=2")
    rewritten(first, [1, 0, 0, 0, 0, 0])
    rewritten(second, [0, 1, 1, 1, 1, 1])
    arguments = ["diff", first.name, second.name, "--samples", "--results-dir", str(store.root)]
    told = CliRunner().invoke(Commands(), arguments)
    assert "6 questions: 16.7 % against 83.3 %, difference +66.7" in told.output
    assert "5 better, 1 worse, p = 0.22 (exact McNemar)" in told.output
    assert "methods are compared over seeds" in told.output
    told = json.loads(CliRunner().invoke(Commands(), [*arguments, "--json"]).output)
    assert told["evaluations"][0]["worse"] == ["q/0"]


def test_without_any_evaluation_it_says_what_to_do(stub_run, store):
    runs = [
        execute(stub_run(f"seed={n}"), reporter=Recorder(), store=store, evaluate=False).run
        for n in (1, 2)
    ]
    told = CliRunner().invoke(
        Commands(), ["diff", *(run.name for run in runs), "--samples",
                     "--results-dir", str(store.root)],
    )  # fmt: skip
    assert isinstance(told.exception, RunError)
    assert "neither run has a finished evaluation" in str(told.exception)
