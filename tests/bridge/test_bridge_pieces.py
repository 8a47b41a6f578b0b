"""The parts of the bridge that need no lmms-eval."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vexp.bridge import questions, scoring
from vexp.bridge.journal import Journal, Response
from vexp.bridge.unwrap import unwrapped
from vexp.cli.eval import of_table
from vexp.cli.main import main
from vexp.errors import ConfigError, DataError, Interrupted, RunError, StorageError
from vexp.evaluator import _lmms_worker, lmms_eval
from vexp.evaluator.base import EvaluationContext
from vexp.evaluator.benchmarks import OWN, TASKS, catalogue, chosen, papers
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve

ABOUT = {"weights": "abc", "temperature": 0.0}


def response(number: int, **changes) -> Response:
    plain = {"task": "t", "document": str(number), "seed": 0, "question": "q", "text": f"a{number}"}
    return Response(**(plain | {"tokens": 2, "truncated": False} | changes))


# --- what a scorer is given


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("Yes", "Yes", "Yes"),
        ("<think>No</think><answer>Yes</answer>", "<answer>Yes</answer>", "Yes"),
        ("<think>No</think> so \\boxed{\\text{Yes}}", "so \\boxed{\\text{Yes}}", "Yes"),
        (
            "\\boxed{1}<think>2</think>\\boxed{\\frac{1}{2}}",
            "\\boxed{1}\\boxed{\\frac{1}{2}}",
            "\\frac{1}{2}",
        ),
        ("<think>\\boxed{3} and on and on", "", ""),
        ("Because.\nAnswer: B", "Because.\nAnswer: B", "B"),
    ],
)
def test_what_is_scored(text, thoughts, answer):
    assert unwrapped(text, "none") == text
    assert unwrapped(text, "thoughts") == thoughts
    assert unwrapped(text, "answer") == answer


@given(st.text(), st.text(alphabet="abcXYZ0189 .-", min_size=1).map(str.strip).filter(bool))
def test_a_boxed_answer_comes_out_of_any_thoughts(thoughts, answer):
    safe = thoughts.replace("</think>", "").replace("<think>", "")
    assert unwrapped(f"<think>{safe}</think>\\boxed{{{answer}}}", "answer") == answer


# --- the journal


def test_a_journal_brings_back_what_was_added(tmp_path):
    path = tmp_path / "responses.jsonl"
    first = Journal(path, ABOUT)
    first.add([response(1), response(2, text='line\nbreak "ü"')])
    second = Journal(path, ABOUT)
    assert second.known == 2
    assert second.get(("t", "2", 0), "q") == response(2, text='line\nbreak "ü"')
    assert second.get(("t", "2", 1), "q") is None  # another seed asks again
    second.add([response(3)])
    assert Journal(path, ABOUT).known == 3


def test_a_journal_of_other_weights_is_refused(tmp_path):
    Journal(tmp_path / "j", ABOUT).add([response(1)])
    with pytest.raises(RunError, match="other settings: weights"):
        Journal(tmp_path / "j", ABOUT | {"weights": "abd"})


def test_a_question_that_changed_is_said(tmp_path):
    journal = Journal(tmp_path / "j", ABOUT)
    journal.add([response(1)])
    with pytest.raises(RunError, match="question 1 of t is another one"):
        journal.get(("t", "1", 0), "p")


@given(cut=st.integers(1, 400))
def test_a_journal_that_was_cut_off_anywhere_keeps_whole_responses(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("j") / "j"
    journal = Journal(path, ABOUT)
    journal.add([response(n) for n in range(3)])
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    again = Journal(path, ABOUT)
    kept = [again.found(("t", str(n), 0)) for n in range(3)]
    assert all(found in (None, response(n)) for n, found in enumerate(kept))
    assert kept == sorted(kept, key=lambda found: found is None)  # a beginning, without holes
    again.add([response(n) for n, found in enumerate(kept) if found is None])
    assert path.read_bytes() == whole


def test_a_journal_whose_folder_was_taken_over_is_not_begun_anew(tmp_path):
    home = tmp_path / "work"
    home.mkdir()
    journal = Journal(home / "j", ABOUT)
    home.rename(tmp_path / "elsewhere")
    with pytest.raises((StorageError, FileNotFoundError)):
        journal.add([response(1)])
    assert not home.exists()


# --- rows of our own tasks


def test_a_question_has_its_context_and_lettered_options():
    row = {"question": "<image>Which?", "context": "A farm.", "choices": ["cow", "cat"]}
    assert questions.text(row) == "A farm.\nWhich?\nA. cow\nB. cat"
    assert questions.text(row, {"post_prompt": "!"}).endswith("B. cat!")


def test_an_image_may_be_a_path_bytes_or_there_already(tmp_path, monkeypatch):
    picture = Image.new("RGBA", (3, 2))
    picture.save(tmp_path / "a.png")
    monkeypatch.setenv(questions.FOLDER, str(tmp_path))
    content = (tmp_path / "a.png").read_bytes()
    for found in ("a.png", {"bytes": content, "path": None}, picture, [picture]):
        (image,) = questions.image({"image": found})
        assert (image.size, image.mode) == ((3, 2), "RGB")
    assert questions.image({"image": None}) == questions.image({}) == []
    with pytest.raises(DataError, match="cannot be read"):
        questions.image({"image": "b.png"})
    with pytest.raises(DataError, match="no column 'answer'"):
        questions.answer({"question": "?"})


@pytest.mark.parametrize(
    ("rule", "gold", "right", "wrong"),
    [
        (scoring.choice, "B", "\\boxed{B}", "\\boxed{A}"),
        (scoring.number, 4, "<answer>4</answer>", "<answer>5</answer>"),
        (scoring.yes_or_no, "yes", "\\boxed{Yes, it is}", "\\boxed{maybe}"),
        (scoring.yes_or_no, False, "\\boxed{No.}", "\\boxed{Yes}"),
        (scoring.choice_or_math, "C", "\\boxed{C}", "\\boxed{0}"),
        (scoring.choice_or_math, "1/2", "\\boxed{\\frac{1}{2}}", "\\boxed{2}"),
    ],
)
def test_rules(rule, gold, right, wrong):
    assert rule({"answer": gold}, [right]) == {"accuracy": 1.0}
    assert rule({"answer": gold}, [wrong]) == {"accuracy": 0.0}
    assert rule({"answer": gold}, ["I do not know"]) == {"accuracy": 0.0}


# --- the catalogue


def test_every_benchmark_can_be_run():
    for name, benchmark in catalogue().items():
        assert benchmark.runs, name
        for task, (source, metric, _factor) in benchmark.runs.items():
            assert "," in metric
            assert (source == OWN) == (TASKS / f"{task}.yaml").is_file(), task
        if benchmark.mean_of:
            assert len(benchmark.runs) > 1
    assert {path.stem for path in TASKS.glob("*.yaml")} == {
        task for b in catalogue().values() for task, (source, *_) in b.runs.items() if source == OWN
    }


def test_a_paper_stands_for_its_benchmarks():
    ease = chosen(["ease", "pope"], where="here")
    assert len(ease) == 12
    assert len(of_table("ease/table1")) == 11
    assert ease == papers()["ease"]
    with pytest.raises(ConfigError) as raised:
        chosen(["popes", "eaze"], where="--benchmarks")
    assert [str(p).splitlines()[0] for p in raised.value.problems] == [
        "there is no benchmark 'popes'",
        "there is no benchmark 'eaze'",
    ]
    assert "did you mean 'pope'" in str(raised.value)
    assert "did you mean 'ease'" in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{name: lmms_eval}", "no benchmark is named"),
        ("{name: lmms_eval, benchmark: pope, task: gqa}", "a benchmark and a task are named"),
        ("{name: lmms_eval, benchmark: pop}", "did you mean 'pope'"),
        ("{name: lmms_eval, benchmark: mme, limit: 10}", "a part of MME has no score"),
        ("{name: lmms_eval, benchmark: mmk12}", "where the questions of MMK12 are"),
        ("{name: lmms_eval, benchmark: pope, k: 8}", "greedy answers are the same for all 8"),
    ],
)
def test_mistakes_are_said_before_anything_runs(settings, said):
    with pytest.raises(ConfigError, match=said):
        resolve([f"+evaluator.it={settings}"])


def test_a_part_of_a_benchmark_is_no_result_of_it():
    make = REGISTRY.get("evaluator", "lmms_eval")
    assert make(benchmark="pope").of_benchmark == "pope"
    assert make(benchmark="pope", limit=5).of_benchmark == ""


def test_a_plan_names_the_evaluations_and_the_list_names_the_benchmarks(capsys):
    with pytest.raises(SystemExit):
        main(["list", "benchmarks"])
    out = capsys.readouterr().out
    assert "pope" in out and "ease" in out and "needs data=" in out
    with pytest.raises(SystemExit) as ended:
        main(["eval", "nowhere", "--benchmarks", "popes"])
    assert ended.value.code == 2
    assert "there is no benchmark 'popes'" in capsys.readouterr().err


def test_data_count_by_what_they_are_not_where(tmp_path):
    run, make = resolve([]), REGISTRY.get("evaluator", "lmms_eval")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text("{}\n")
    first, second = (make(benchmark="mmk12", data=str(tmp_path / n)).protocol(run) for n in "ab")
    assert first == second
    (tmp_path / "b" / "test.jsonl").write_text("{}\n{}\n")
    assert make(benchmark="mmk12", data=str(tmp_path / "b")).protocol(run) != first


# --- the worker, with a stand-in for Python


def stand_in(tmp_path, body: str) -> str:
    """A command that answers the question for versions, and as a worker does `body`."""
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys, time\n"
        "import vexp\n"
        "if sys.argv[1] == '-c':\n"
        "    print(json.dumps(['0.7.3', vexp.__version__])); sys.exit()\n"
        "work = pathlib.Path(sys.argv[3]).parent\n" + body
    )
    script.chmod(0o755)
    return str(script)


def desk(tmp_path, **changes) -> EvaluationContext:
    plain = {
        "checkpoint": None,
        "content": "c",
        "work": tmp_path,
        "progress": lambda done, total: None,
        "note": print,
        "ensure": lambda: None,
        "stopping": lambda: False,
    }
    return EvaluationContext(**(plain | changes))


def test_what_a_worker_says_is_what_the_user_is_told(tmp_path):
    said = {"kind": "DataError", "what": "no data", "where": "w", "accepted": "", "remedy": "r"}
    python = stand_in(
        tmp_path, f"(work/'error.json').write_text({json.dumps(said)!r}); sys.exit(3)"
    )
    with pytest.raises(DataError, match="no data"):
        _lmms_worker.work(python, True, {"data": ""}, desk(tmp_path))


@pytest.mark.parametrize("body", ["sys.exit(0)", "sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_leaves_no_result_has_failed_whatever_its_exit_code(tmp_path, body):
    with pytest.raises(RunError, match="left no result"):
        _lmms_worker.work(stand_in(tmp_path, body), True, {"data": ""}, desk(tmp_path))


def test_a_result_of_a_former_attempt_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "result.json").write_text('{"seeds": []}')
    with pytest.raises(RunError, match="left no result"):
        _lmms_worker.work(stand_in(tmp_path, "sys.exit(0)"), True, {"data": ""}, desk(tmp_path))


def test_stopping_ends_the_worker(tmp_path):
    # It reads its standard input as the real one does, and would outlast the test otherwise.
    body = "sys.stdin.read(); (work/'ended').touch()"
    with pytest.raises(Interrupted):
        _lmms_worker.work(
            stand_in(tmp_path, body), True, {"data": ""}, desk(tmp_path, stopping=lambda: True)
        )
    assert (tmp_path / "ended").exists()


def test_the_worker_is_kept_from_judges_the_hub_and_env_files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("USE_LLM_JUDGE", "True")
    monkeypatch.setenv("RANK", "1")
    body = (
        "found = {'env': dict(os.environ), 'cwd': os.getcwd()}\n"
        "(work/'result.json').write_text(json.dumps(found))"
    )
    found = _lmms_worker.work(stand_in(tmp_path, body), True, {"data": ""}, desk(tmp_path))
    assert found["env"]["OPENAI_API_KEY"] == "unused"
    assert found["env"]["USE_LLM_JUDGE"] == "False"
    assert found["env"]["HF_HUB_OFFLINE"] == found["env"]["HF_DATASETS_OFFLINE"] == "1"
    assert "RANK" not in found["env"]
    assert found["cwd"] == str(tmp_path)  # lmms-eval reads a .env file where it is started


def test_a_python_without_lmms_eval_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot be started"):
        _lmms_worker.work(str(tmp_path / "nothing"), True, {}, desk(tmp_path))
    script = tmp_path / "python"
    for versions, said in (([None, "1"], "lmms-eval is not"), (["0.6", "0.1.0"], "lmms-eval 0.6")):
        script.write_text(f"#!/bin/sh\necho '{json.dumps(versions)}'\n")
        script.chmod(0o755)
        with pytest.raises(RunError, match=said):
            _lmms_worker.work(str(script), True, {}, desk(tmp_path))


# --- from what lmms-eval says to metrics


def seed(number: int, verdicts: list[float], value: float) -> dict:
    rows = [
        {
            "document": str(index), "question": "q", "answer": "a", "response": "r", "scored": "s",
            "tokens": 3, "truncated": False, "scores": {"pope_accuracy": verdict},
        }
        for index, verdict in enumerate(verdicts)
    ]  # fmt: skip
    results = {
        "pope": {"alias": "pope", "pope_accuracy,none": value, "pope_accuracy_stderr,none": 0.1}
    }
    return {
        "seed": number, "results": results, "versions": {"pope": "Yaml"}, "task_hashes": {},
        "samples": {"pope": rows},
    }  # fmt: skip


def scored(monkeypatch, tmp_path, seeds, **fields):
    found = {"lmms_eval": "0.7.3", "generated": 1, "known": 0, "seeds": seeds}
    monkeypatch.setattr(_lmms_worker, "work", lambda *_: found)
    evaluator = lmms_eval.LmmsEval(**({"benchmark": "pope"} | fields))
    return evaluator.score(resolve([]), desk(tmp_path))


def test_the_score_is_lmms_evals_and_its_error_that_of_the_verdicts(monkeypatch, tmp_path):
    found = scored(monkeypatch, tmp_path, [seed(0, [1, 0, 1, 1], 0.75)])
    assert found.metrics["score"] == {"value": 0.75, "stderr": pytest.approx(0.25), "n": 4}
    assert found.about["version"] == "pope Yaml pope_accuracy,none; prompt of the run"
    # where the score is no mean of verdicts (an F1, say) there is no error to tell
    other = scored(monkeypatch, tmp_path, [seed(0, [1, 0, 1, 1], 0.6)])
    assert other.metrics["score"]["stderr"] is None


def test_avg_at_k_is_the_mean_over_seeds(monkeypatch, tmp_path):
    seeds = [seed(5, [1, 0], 0.5), seed(6, [1, 1], 1.0)]
    found = scored(monkeypatch, tmp_path, seeds, k=2, seed=5, temperature=1.0)
    assert found.metrics["score"]["value"] == 0.75
    assert found.metrics["score"]["stderr"] == pytest.approx(0.25)  # of 1.0 and 0.5
    assert found.metrics["run_std"]["value"] == pytest.approx(0.5**0.5 / 2)
    assert [s.id for s in found.samples] == ["pope/0#0", "pope/1#0", "pope/0#1", "pope/1#1"]


def test_a_sharp_in_the_id_of_a_document_is_part_of_it(monkeypatch, tmp_path):
    seeds = [seed(0, [1, 0, 1, 1], 0.75)]
    for number, row in enumerate(seeds[0]["samples"]["pope"]):
        row["document"] = f"p.jpg#{number}"
    found = scored(monkeypatch, tmp_path, seeds)
    assert found.metrics["score"]["stderr"] == pytest.approx(0.25)  # of four questions
    assert found.samples[1].id == "pope/p.jpg#1"


def test_a_score_that_is_no_number_is_said(monkeypatch, tmp_path):
    with pytest.raises(RunError, match="is no number"):
        scored(monkeypatch, tmp_path, [seed(0, [1], "nan")])
    assert scored(monkeypatch, tmp_path, [seed(0, [1], "50%")]).metrics["score"]["value"] == 50


def test_responses_are_plain_rows():
    assert json.loads(json.dumps(asdict(response(1))))["text"] == "a1"
