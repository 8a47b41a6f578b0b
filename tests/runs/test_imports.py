"""Results of lmms-eval and of one's own become evaluations; what is wrong with them is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.runs.odd import odd_imports
from vexp.errors import ConfigError, RunError, VexpError
from vexp.evaluator.benchmarks import catalogue
from vexp.files import write_json
from vexp.runs.claim import acquire
from vexp.runs.evaluations import read_content as read_results
from vexp.runs.evaluations import read_samples
from vexp.runs.imports.adopt import adopt, is_foreign
from vexp.runs.rows import evaluation_folders
from vexp.runs.status import RESULT
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

SMALL = ["warm_start.steps=1", "rl.steps=1"]


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(project):
    return RunStore(project / "results")


@pytest.fixture
def finished(store):
    """A function from a seed to the folder of a finished run that never trained."""

    def make(seed=1):
        run = resolve([*SMALL, f"seed={seed}"])
        claim = acquire(store.open(run, training_id(run)).folder)
        content = {"format": 1, "checkpoint": None, "checkpoint_hash": f"c{seed}", "step": 1}
        write_json(claim.attempt_dir / RESULT, content)
        claim.publish()
        return store.find(training_id(run))

    return make


def lmms(folder, results, **more):
    """A results file as lmms-eval 0.7.3 writes it; see its notes for the keys."""
    content = {
        "results": results,
        "configs": {task: {"generation_kwargs": {"do_sample": False}} for task in results},
        "versions": dict.fromkeys(results, "Yaml"),
        "n-samples": {task: {"original": 100, "effective": 100} for task in results},
        "config": {"model": "qwen2_5_vl", "model_args": "pretrained=/models/x", "gen_kwargs": None},
        "lmms_eval_version": "0.7.3",
        "task_hashes": {},
        "date": 1.0,
    } | more
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "20260101_120000_results.json"
    path.write_text(json.dumps(content))
    return path


POPE = {"pope": {"alias": "pope", "pope_accuracy,none": 0.873, "pope_accuracy_stderr,none": 0.01}}


def only(run):
    (folder,) = evaluation_folders(run)
    return folder


def test_a_result_of_lmms_eval_becomes_an_evaluation_with_provenance(store, finished, tmp_path):
    run = finished()
    path = lmms(tmp_path / "out", POPE)
    samples = '{"doc_id": 0, "pope_accuracy": 1.0}\n{"doc_id": 1, "pope_accuracy": 0.0}\n'
    (path.parent / "20260101_120000_samples_pope.jsonl").write_text(samples)
    assert is_foreign(tmp_path / "out")
    report = adopt(store, tmp_path / "out", run=run.name)
    assert report.new == [f"{run.name}: pope"]
    found = read_results(only(run))
    assert found["metrics"] == {"pope_accuracy,none": {"value": 0.873, "stderr": 0.01, "n": 100}}
    assert (found["benchmark"], found["checkpoint"]) == ("pope", "c1")
    assert found["version"] == "pope Yaml pope_accuracy,none"
    assert found["protocol"]["decoding"] == "greedy"
    assert found["protocol"]["tool_version"] == "0.7.3"
    assert [s["correct"] for s in read_samples(only(run))] == [1.0, 0.0]
    provenance = json.loads((only(run) / "provenance.json").read_text())
    assert len(provenance["imported"]["sha256"]) == 64
    again = adopt(store, tmp_path / "out", run=run.name)
    assert (again.new, again.known) == ([], 1)


@pytest.mark.parametrize(
    ("results", "benchmark", "value"),
    [
        ({"vstar_bench": {"vstar_overall_acc,none": 80.1}}, "vstar", 0.801),
        ({"ai2d": {"exact_match,flexible-extract": 0.7}}, "ai2d", 0.7),
        ({"mme": {"mme_perception_score,none": 1650.5}}, "mme", 1650.5),
        ({"wemath_testmini_reasoning": {"wemath_strict,none": "34.50%"}}, "wemath_strict", 0.345),
        (
            {"mmmu_pro_vision": {"mmmu_acc,none": 0.3},
             "mmmu_pro_standard": {"mmmu_acc,none": 0.5}},
            "mmmu_pro",
            0.4,
        ),
    ],
)  # fmt: skip
def test_scores_come_to_one_scale(store, finished, tmp_path, results, benchmark, value):
    run = finished()
    adopt(store, lmms(tmp_path, results), run=run.name)
    found = {
        content["benchmark"]: content["metrics"][content["main_metric"]]["value"]
        for content in map(read_results, evaluation_folders(run))
    }
    assert found[benchmark] == pytest.approx(value, abs=1e-12)


def test_sampled_decoding_is_recorded(store, finished, tmp_path):
    run = finished()
    config = {"model_args": "x", "gen_kwargs": "do_sample=True,temperature=0.7"}
    adopt(store, lmms(tmp_path, POPE, config=config), run=run.name)
    assert read_results(only(run))["protocol"]["decoding"] == "sampled at temperature 0.7"


def test_a_model_within_a_run_folder_says_which_run_it_is(store, finished, tmp_path):
    run = finished()
    config = {"model_args": f"pretrained={run.folder}/attempts/0001/model,dtype=bf16"}
    assert adopt(store, lmms(tmp_path, POPE, config=config)).new == [f"{run.name}: pope"]
    with pytest.raises(RunError, match="do not say which run"):
        adopt(store, lmms(tmp_path / "b", POPE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": {"pope": {"pope_accuracy,none": float("nan")}}}, "which is no score"),
        ({"results": {"pope": {"pope_accuracy,none": "N/A"}}}, "pope has no score"),
        ({"n-samples": {"pope": {"original": 100, "effective": 10}}}, "on 10 of its 100 items"),
        ({"results": {"other": {"alias": "other"}}}, "other has no score"),
    ],
)
def test_what_is_no_whole_score_is_refused(store, finished, tmp_path, change, message):
    run = finished()
    with pytest.raises(RunError, match=message):
        adopt(store, lmms(tmp_path, **({"results": POPE} | change)), run=run.name)
    assert evaluation_folders(run) == []


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_sample(store, finished, tmp_path, odd):
    run = finished()
    path = lmms(tmp_path, POPE)
    rows = [{"doc_id": n, "resps": f"a{odd}b", "pope_accuracy": 1.0 - n} for n in (0, 1)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.with_name("20260101_120000_samples_pope.jsonl").write_bytes(f"\ufeff{text}\n".encode())
    adopt(store, path, run=run.name)
    assert [s["correct"] for s in read_samples(only(run))] == [1.0, 0.0]


def test_tasks_without_a_score_are_named_and_the_others_taken(store, finished, tmp_path):
    run = finished()
    groups = {"mmmu": {" ": " ", "alias": "mmmu"}, "test_set": {"submission,none": []},
              "other": {"acc,none": None, "acc_stderr,none": "N/A"}}  # fmt: skip
    report = adopt(store, lmms(tmp_path, POPE | groups), run=run.name)
    assert report.new == [f"{run.name}: pope"]
    assert report.remarks[0].startswith("without a score, so left out: mmmu, test_set, other (")


@pytest.mark.parametrize(
    ("task", "line", "model", "decoding"),
    [
        ({"temperature": 0.7}, None, "qwen2_5_vl", "sampled at temperature 0.7"),
        ({}, "temperature=0.7,top_p=0.9", "qwen2_5_vl", "sampled at temperature 0.7"),
        ({}, {"temperature": 0.7}, "qwen2_5_vl", "sampled at temperature 0.7"),
        ({"temperature": 0.7}, {"temperature": 0}, "qwen2_5_vl", "greedy"),
        ({"temperature": 0.7}, "temperature=0", "qwen2_5_vl", "greedy"),
        (
            {"temperature": 0.7, "do_sample": False},
            None,
            "qwen2_5_vl",
            "sampled at temperature 0.7",
        ),
        ({"temperature": 0.7, "do_sample": False}, None, "llava_hf", "greedy"),
        ({"temperature": 0.7}, None, "llava_hf", "sampled at temperature 0.7"),
        ({"do_sample": True}, None, "qwen2_5_vl", "greedy"),
        ({"temperature": 0.0, "do_sample": True}, None, "llava_hf", "greedy"),
        (None, None, None, "greedy"),
    ],
)
def test_decoding_is_recorded_as_it_was(store, finished, tmp_path, task, line, model, decoding):
    run = finished()
    config = {"model": model, "model_args": "x", "gen_kwargs": line}
    configs = {"pope": {"generation_kwargs": task}}
    adopt(store, lmms(tmp_path, POPE, config=config, configs=configs), run=run.name)
    assert read_results(only(run))["protocol"]["decoding"] == decoding


def test_a_verdict_that_is_no_number_is_no_sample(store, finished, tmp_path):
    run = finished()
    path = lmms(tmp_path, POPE)
    samples = path.with_name("20260101_120000_samples_pope.jsonl")
    samples.write_text(
        '{"doc_id": 0, "pope_accuracy": NaN}\n{"doc_id": 1, "pope_accuracy": 1}\n\n'
        '{"doc_id": 2, "pope_accuracy": -Infinity}\n'
    )
    report = adopt(store, path, run=run.name)
    assert [s["id"] for s in read_samples(only(run))] == ["pope/1"]
    assert report.remarks == [
        f"a verdict that is no finite number, so no sample: {samples}, line 1, 4"
    ]


@pytest.mark.parametrize(
    "line",
    ['{"doc_id": 1', "[1]", "null", '{"pope_accuracy": 1.0}', '{"doc_id": [1]}', "[" * 90_000,
     '{"doc_id": 1, "x": "\\ud800"}', '{"doc_id": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_a_damaged_sample_is_named_by_its_line(store, finished, tmp_path, line):
    run = finished()
    path = lmms(tmp_path, POPE)
    samples = path.with_name("20260101_120000_samples_pope.jsonl")
    samples.write_text(f'{{"doc_id": 0, "pope_accuracy": 1.0}}\n{line}\n')
    with pytest.raises(RunError, match=f"{samples.name}:2"):
        adopt(store, path, run=run.name)
    assert evaluation_folders(run) == []


def test_whatever_is_wrong_with_a_results_file_is_one_message(store, finished, tmp_path):
    run = finished()
    path = lmms(tmp_path / "out", POPE, config={"model": "m", "model_args": "x", "gen_kwargs": "a"})
    content = json.loads(path.read_text()) | {"task_hashes": {"pope": "h"}, "git_hash": "g"}

    def importing(text):
        path.write_text(text)
        adopt(store, path, run=run.name)

    assert odd_imports(content, importing, store.root) > 100


def test_whatever_is_wrong_with_rows_of_ones_own_is_one_message(store, finished, tmp_path):
    run = finished()
    row = {"run": run.name, "benchmark": "pope", "value": 0.5, "metric": "m", "stderr": 0.1,
           "n": 5, "version": "v", "decoding": "d", "scale": "share"}  # fmt: skip
    path = tmp_path / "rows.json"

    def importing(text):
        path.write_text(f"[{text}]")
        adopt(store, path)

    assert odd_imports(row, importing, store.root) > 60


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_cells_may_hold_line_ends_and_marks_may_come_first(store, finished, tmp_path, encoding):
    run = finished()
    text = f'run,benchmark,value,decoding\n{run.hash},pope,0.8,"a\u2028(b\r\nc"\n'
    path = tmp_path / "mine.CSV"
    path.write_bytes(text.encode(encoding))
    adopt(store, path)
    assert read_results(only(run))["protocol"]["decoding"] == "a\u2028(b\r\nc"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run,benchmark,value\nR,pope,0,8\n", "this row has 1 cell more than there are columns"),
        ("run,benchmark,value,value\nR,pope,0.8,0.9\n", "two columns are called 'value'"),
        ("", "there is no column 'run', 'benchmark', 'value'"),
        ("run\n", "there is no column 'benchmark', 'value'"),
        ("\0" * 100, "there is no column 'run'"),
        ("run;benchmark;value\nR;pope;0.8\n", "with commas between them"),
        ("run,benchmark,value\n", "this file has no rows"),
        ("run,benchmark,value,n\nR,pope,0.8,2.5\n", "no count of samples"),
        ("run,benchmark,value,stderr\nR,pope,0.8,-1\n", "stderr is -1, which is below zero"),
        ("run,benchmark,value\n../../x,pope,0.8\n", "is not taken as the name of a run"),
        ("run,benchmark,value\nR,.pope,0.8\n", "'.pope' is not taken as the name of a benchmark"),
        ("run,benchmark,value\nR,pope,0.8\n".encode("utf-16"), "is UTF-16"),
        (b"run,benchmark,value\nR,p\xe4,0.8\n", "byte 23 is not UTF-8"),
        ('run,benchmark,value\n"' + "x" * 200_000 + '",pope,0.8\n', "this file is damaged"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(store, finished, tmp_path, content, message):
    run = finished()
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VexpError, match=message) as caught:
        adopt(store, path)
    assert str(path) in str(caught.value)
    assert evaluation_folders(run) == []


def test_a_half_written_file_is_refused(store, finished, tmp_path):
    run = finished()
    path = lmms(tmp_path, POPE)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RunError, match="damaged or half-written"):
        adopt(store, path, run=run.name)
    path.write_text('{"results": {}}')
    with pytest.raises(RunError, match="it lacks config, configs, n-samples, versions"):
        adopt(store, path, run=run.name)


def test_the_same_task_in_two_files_is_refused(store, finished, tmp_path):
    run = finished()
    first = lmms(tmp_path, POPE)
    (tmp_path / "20260102_120000_results.json").write_text(first.read_text())
    with pytest.raises(RunError, match="'pope' stands in two results files"):
        adopt(store, tmp_path, run=run.name)


def test_another_version_of_a_benchmark_is_refused_beside_the_first(store, finished, tmp_path):
    run = finished()
    adopt(store, lmms(tmp_path / "a", POPE), run=run.name)
    newer = lmms(tmp_path / "b", POPE, versions={"pope": "2.0"})
    with pytest.raises(RunError, match="another result of 'pope' already") as caught:
        adopt(store, newer, run=run.name)
    assert "pope 2.0" in str(caught.value)


def test_another_decoding_of_an_equal_value_is_refused_and_the_same_is_known(
    store, finished, tmp_path
):
    run = finished()
    path = tmp_path / "mine.csv"
    path.write_text(f"run,benchmark,value\n{run.name},pope,0.8\n")
    assert len(adopt(store, path).new) == 1
    assert adopt(store, path).known == 1
    path.write_text(f"run,benchmark,value,decoding\n{run.name},pope,0.8,sampled at 1\n")
    with pytest.raises(RunError, match='decoding ""') as caught:
        adopt(store, path)
    assert 'decoding "sampled at 1"' in str(caught.value) and "version" not in str(caught.value)


def test_an_unfinished_run_is_refused(store, tmp_path):
    run = resolve(SMALL)
    folder = store.open(run, training_id(run))
    with pytest.raises(RunError, match="is not finished"):
        adopt(store, lmms(tmp_path, POPE), run=folder.name)


def own(path, text):
    path.write_text(text)
    return path


def test_rows_of_ones_own(store, finished, tmp_path):
    run = finished()
    text = (
        "run,benchmark,value,scale,n,version\n"
        f"{run.hash},pope,87.3,percent,100,v1\n{run.hash},home_made,0.5,,,\n"
    )
    report = adopt(store, own(tmp_path / "mine.csv", text))
    assert report.new == [f"{run.name}: pope", f"{run.name}: home_made"]
    assert "'home_made' is no benchmark of the papers" in report.remarks[0]
    found = [read_results(folder) for folder in evaluation_folders(run)]
    values = {c["benchmark"]: c["metrics"]["score"]["value"] for c in found}
    assert values == {"pope": pytest.approx(0.873), "home_made": 0.5}
    rows = [{"run": run.hash, "benchmark": "mme", "value": 1600, "scale": "points"}]
    assert len(adopt(store, own(tmp_path / "mine.json", json.dumps(rows))).new) == 1


def test_all_problems_of_ones_own_rows_are_named_at_once(store, finished, tmp_path):
    run = finished()
    text = (
        "run,benchmark,value,vlaue\n"
        f"{run.hash},pope,87.3,\n{run.hash},pope,0.5,\n{run.hash},ai2d,nan,\n,mme,x,1\n"
    )
    with pytest.raises(ConfigError) as caught:
        adopt(store, own(tmp_path / "mine.csv", text))
    message = str(caught.value)
    for part in (
        "value is 87.3, but its scale is share", "mine.csv:2", "stand twice", "mine.csv:3",
        "value is 'nan', which is no number", "'run' is missing", "there is no column 'vlaue'",
    ):  # fmt: skip
        assert part in message
    assert evaluation_folders(run) == []


def test_nothing_is_added_unless_everything_can_be(store, finished, tmp_path):
    run = finished()
    text = f"run,benchmark,value\n{run.hash},pope,0.5\nnobody,pope,0.5\n"
    with pytest.raises(RunError, match="there is no run 'nobody'"):
        adopt(store, own(tmp_path / "mine.csv", text))
    assert evaluation_folders(run) == []


def test_every_benchmark_of_the_published_tables_is_in_the_catalogue():
    from vexp.tables import reference

    wanted = {c.benchmark for name in reference.names() for c in reference.load(name).columns}
    assert wanted - {""} <= catalogue().keys()


def test_exports_are_not_foreign(tmp_path):
    (tmp_path / "export.json").write_text("{}")
    assert not is_foreign(tmp_path)
    assert not is_foreign(Path("nowhere"))
