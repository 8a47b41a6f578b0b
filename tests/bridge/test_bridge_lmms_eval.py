"""The bridge with lmms-eval itself; `make test-all` makes the environment that it needs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.bridge.conftest import ROOT
from tests.tiny import SMALL
from vexp.config.schema import to_dict
from vexp.evaluator._lmms_tasks import datasets
from vexp.evaluator.benchmarks import OWN, catalogue
from vexp.tables.reference import load

pytestmark = [
    pytest.mark.lmms_eval,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("lmms_eval"),
]
HERE = Path(__file__).parent
VEXP = [sys.executable, "-m", "vexp"]
QUESTIONS = 25
FORMS = (
    lambda gold: gold,
    lambda gold: f"<think>It is not {{wrong}}.</think><answer>{gold}</answer>",
    lambda gold: f"<think>\n\nHm.\n\n</think> \\boxed{{\\text{{{gold}}}}}",
    lambda gold: "I cannot tell.",
    lambda gold: f"<think>{gold}",
)  # which of them are right: what their answer is, with the thoughts gone
RIGHT = (True, True, True, False, False)
BARE = (True, False, False, False, False)  # where nothing is unwrapped
SUMS = [("1/2", "\\frac{1}{2}"), ("0.25", "\\frac{1}{4}"), ("3", "3.0"), ("7", "8"), ("2^3", "8")]
SUMS_RIGHT = (True, True, True, False, True)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A checkpoint, questions for POPE and for a task of one's own, and the answers to them."""
    home = tmp_path_factory.mktemp("bridge")
    SMALL.load().save(home / "model")
    write_pope(home / "pope" / "test.parquet", QUESTIONS)
    answers = {f"pope/{i}": FORMS[i % 5](gold(i)) for i in range(QUESTIONS)}
    answers |= {f"pope_again/{i}": answers[f"pope/{i}"] for i in range(QUESTIONS)}
    answers |= {
        f"sums/{i}": f"<think>\n\nso</think><answer>{SUMS[i % 5][1]}</answer>"
        for i in range(QUESTIONS)
    }
    (home / "answers.json").write_text(json.dumps(answers))
    write_sums(home / "own")
    return home


def gold(index: int) -> str:
    return ("yes", "no")[index % 2]


def write_pope(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for index in range(number):
        picture = path.parent / "picture.png"
        Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(picture)
        rows.append(
            {"id": str(index), "question_id": str(index), "question": f"Is there a {index}?",
             "answer": gold(index), "category": "random",
             "image": {"bytes": picture.read_bytes(), "path": None}}
        )  # fmt: skip
        picture.unlink()
    kinds = {key: {"dtype": "string", "_type": "Value"} for key in rows[0] if key != "image"}
    info = {"info": {"features": {"image": {"_type": "Image"}, **kinds}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [(key, image if key == "image" else pa.string()) for key in rows[0]]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps(info)})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_sums(folder: Path) -> None:
    """A task of one's own, scored with lmms-eval's rule for reasoning, which asks math_verify."""
    folder.mkdir()
    rows = [{"question": f"{i}: what is it?", "answer": SUMS[i % 5][0]} for i in range(QUESTIONS)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "utils.py").write_text(
        "from lmms_eval.tasks._task_utils.reasoning_utils import compute_score\n"
        "def text(doc, lmms_eval_specific_kwargs=None): return doc['question']\n"
        "def visual(doc): return []\n"
        "def process(doc, results):\n"
        "    found = compute_score('x', results[0], doc['answer'], {'question': ''})\n"
        "    return {'acc_score': found['acc_score']}\n"
    )
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'sums.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\n"
        "doc_to_text: !function utils.text\ndoc_to_visual: !function utils.visual\n"
        "doc_to_target: answer\nprocess_results: !function utils.process\n"
        "metric_list: [{metric: acc_score, aggregation: mean, higher_is_better: true}]\n"
    )


def sizes() -> list[str]:
    usual = to_dict(type(SMALL)())
    own = {key: value for key, value in to_dict(SMALL).items() if value != usual[key]}
    backbone = [f"backbone.{key}={value}" for key, value in own.items()]
    return ["backbone=tiny_qwen2_5_vl", *backbone]


def oracle(home: Path, **settings) -> list[str]:
    values = {"answers": str(home / "answers.json"), **settings}
    engine = [f"engine.{key}={value}" for key, value in values.items()]
    plugin = f"plugins=['{HERE / 'oracle.py'}']"
    return [plugin, "engine=oracle", *engine, "rollout.max_response_length=200"]


def environment(home: Path) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "HF_HOME": str(home / "hf"),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def vexp(
    home: Path, *arguments: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*VEXP, *map(str, arguments)]
    where = cwd or home
    return subprocess.run(command, cwd=where, env=environment(home), capture_output=True, text=True)


def evaluated(home: Path, *arguments: object, cwd: Path) -> dict:
    cwd.mkdir(exist_ok=True)
    done = vexp(home, "eval", home / "model", "--json", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def samples(results: Path, label: str) -> list[dict]:
    (path,) = results.glob(f"**/evaluations/{label}-*/samples.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def fraction(right: tuple[bool, ...]) -> float:
    return sum(right[i % 5] for i in range(QUESTIONS)) / QUESTIONS


def test_scores_are_those_of_lmms_evals_own_command(home, eval_python, tmp_path):
    """Sample by sample, on a shipped task with local data and on a task of one's own.

    What is right is known beforehand, so the defaults that would change it are seen to be off:
    threads that break math_verify's time limit, thoughts that are (not) removed, and answers that
    are cut at a blank line.
    """
    common = f"name: lmms_eval, python: '{eval_python}', batch_size: 4"
    pope = f"{common}, benchmark: pope, data: '{home / 'pope'}'"
    asked = (
        f"+evaluator.pope={{{pope}}}",
        f"+evaluator.bare={{{pope}, unwrap: none}}",
        f"+evaluator.sums={{{common}, task: sums, tasks_dir: '{home / 'own'}', unwrap: none}}",
    )
    found = evaluated(
        home, *sizes(), *oracle(home), "~evaluator.heldout", *asked, cwd=tmp_path / "ours"
    )
    score = {label: result["metrics"]["score"]["value"] for label, result in found.items()}
    assert score == {
        "pope": pytest.approx(fraction(RIGHT)),
        "bare": pytest.approx(fraction(BARE)),
        "sums": pytest.approx(fraction(SUMS_RIGHT)),
    }
    assert "sampled" not in found["pope"]["protocol"]["decoding"]

    config = tmp_path / "config.json"
    shown = vexp(home, "show", "--json", *sizes(), *oracle(home))
    config.write_text(json.dumps(json.loads(shown.stdout)["config"]))
    theirs = home / "theirs"
    again = theirs / "pope_again"
    again.mkdir(parents=True)
    where = subprocess.run(
        [eval_python, "-c", "import importlib.util as u; print(u.find_spec('lmms_eval').origin)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (again / "pope_again.yaml").write_text(
        f"include: {Path(where).parent}/tasks/pope/pope.yaml\ntask: pope_again\n"
        "dataset_path: parquet\n"
        f"dataset_kwargs: {{data_files: {{test: {home / 'pope/test.parquet'}}}}}\n"
    )
    shutil.copytree(home / "own", theirs / "sums")
    paths = f"{HERE / 'site'}{os.pathsep}{environment(home)['PYTHONPATH']}"
    done = subprocess.run(
        [eval_python, "-m", "lmms_eval", "--model", "vexp",
         "--model_args", f"config={config},checkpoint={home / 'model'}",
         "--tasks", "pope_again,sums", "--include_path", str(theirs), "--device", "cpu",
         "--batch_size", "4", "--log_samples", "--output_path", str(tmp_path / "out"),
         "--reasoning_tags", "none", "--process_docs_parallel", "1", "--verbosity", "DEBUG"],
        cwd=tmp_path, env=environment(home) | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for label, task, metric in (
        ("bare", "pope_again", "pope_accuracy"),
        ("sums", "sums", "acc_score"),
    ):
        (path,) = (tmp_path / "out").glob(f"**/*_samples_{task}.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        value = lambda row: row[metric]["score"] if isinstance(row[metric], dict) else row[metric]  # noqa: B023, E731
        command = {row["doc_id"]: (value(row), row["filtered_resps"]) for row in rows}
        mine = samples(tmp_path / "ours", label)
        ours = {int(row["id"].split("/")[1]): (row["correct"], row["extracted"]) for row in mine}
        assert command == ours
        assert len(ours) == QUESTIONS


def test_a_killed_evaluation_generates_nothing_twice(home, eval_python, tmp_path):
    log = tmp_path / "asked.jsonl"
    settings = [
        *sizes(), *oracle(home, wait_s=0.5, log=str(log)), "~evaluator.heldout",
        f"+evaluator.pope={{name: lmms_eval, benchmark: pope, data: '{home / 'pope'}', "
        f"python: '{eval_python}', batch_size: 2}}",
    ]  # fmt: skip
    command = [*VEXP, "eval", str(home / "model"), *settings]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(home), stdout=subprocess.DEVNULL
    ) as first:
        (journal,) = wait_for(lambda: list(tmp_path.glob("results/**/responses.jsonl")), first)
        wait_for(lambda: journal.read_bytes().count(b"\n") > 1, first)
        random = np.random.default_rng()
        time.sleep(float(random.uniform(0, 3)))
        first.send_signal(signal.SIGKILL)
    kept = journal.read_text()
    time.sleep(2)  # the worker is gone as well: it would have answered four more by now
    assert journal.read_text() == kept or journal.read_text().startswith(kept)
    before = journal.read_text()
    time.sleep(2)
    assert journal.read_text() == before
    answered = {f"pope/{json.loads(line)['document']}" for line in before.splitlines()[1:]}
    assert 0 < len(answered) < QUESTIONS
    begun = len(log.read_text().splitlines())

    found = evaluated(home, *settings, cwd=tmp_path)["pope"]
    batches = [json.loads(line) for line in log.read_text().splitlines()[begun:]]
    again = [item for batch in batches for item in batch]
    assert not answered & set(again)
    assert len(again) == len(set(again)) == QUESTIONS - len(answered)
    assert found["lmms_eval"]["known"] == len(answered)
    assert found["lmms_eval"]["generated"] == len(again)
    assert found["metrics"]["score"]["value"] == pytest.approx(fraction(RIGHT))
    rows = samples(tmp_path, "pope")
    assert len({row["id"] for row in rows}) == len(rows) == QUESTIONS


def wait_for(condition, process):
    while not (found := condition()):
        assert process.poll() is None, "it ended"
        time.sleep(0.1)
    return found


def test_a_sweep_has_the_benchmark_in_its_table_beside_the_published_number(
    home, eval_python, tmp_path
):
    listed = lambda settings: "".join(f'  - "{one}"\n' for one in settings)  # noqa: E731
    (tmp_path / "mine.yaml").write_text(
        "base:\n" + listed([*sizes(), *oracle(home)]) + "evaluation:\n  heldout: {size: 2}\n"
        f"  pope: {{name: lmms_eval, benchmark: pope, data: '{home / 'pope'}',\n"
        f"         python: '{eval_python}'}}\n"
        "rows:\n  qwen3_vl_4b_base: {label: Base, stages: []}\n"
        "table:\n  reference: ease/table1\n  columns:\n"
        "    - {id: pope, benchmark: pope, label: POPE, scale: percent}\n"
    )
    planned = vexp(home, "plan", "mine.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    launched = vexp(home, "launch", "mine.yaml", "--wait", cwd=tmp_path)
    assert launched.returncode == 0, launched.stderr + launched.stdout
    table = vexp(home, "table", "mine.yaml", "--format", "csv", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    (row,) = csv.DictReader(table.stdout.splitlines())
    assert float(row["mean"]) == pytest.approx(fraction(RIGHT))
    printed = load("ease/table1").row("qwen3_vl_4b_base").values["pope"]
    assert float(row["published"]) == pytest.approx(printed / 100)


def test_questions_that_are_not_there_are_said(home, eval_python, tmp_path):
    asked = f"+evaluator.it={{name: lmms_eval, benchmark: mmstar, python: '{eval_python}'}}"
    done = vexp(home, "eval", home / "model", *sizes(), "~evaluator.heldout", asked, cwd=tmp_path)
    assert done.returncode == 1
    assert "the questions of mmstar_reasoning could not be loaded" in done.stderr
    assert "set data= to a local copy" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_task_of_the_catalogue(eval_python, tmp_path):
    done = subprocess.run(
        [eval_python, HERE / "every_task.py", tmp_path], cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["wrong"] == {}
    ours = {t for b in catalogue().values() for t, (s, *_) in b.runs.items() if s == OWN}
    assert answer["found"].keys() == ours == set(answer["metrics"])
    for task, ((right, images, text), (wrong, _, _)) in answer["found"].items():
        assert (right, wrong) == (1.0, 0.0), task
        assert images > 0, task
        instructed = "Put the final answer in \\boxed{}." in text
        assert instructed == (task == "mmk12"), text


def test_the_datasets_to_fetch_are_those_that_lmms_eval_reads(home, eval_python):
    """Its own reader of task files against ours, which does not import it."""
    shipped = {
        task: source
        for benchmark in catalogue().values()
        for task, (source, *_) in benchmark.runs.items()
        if source != OWN
    }
    code = (
        "import json, pathlib, sys\n"
        "from vexp.backbone._imports import hide_broken_packages\n"
        "hide_broken_packages()\n"
        "import lmms_eval.tasks\n"
        "from lmms_eval.utils import load_yaml_config\n"
        "top = pathlib.Path(lmms_eval.tasks.__file__).parent\n"
        "read = lambda s: load_yaml_config(yaml_path=str(top / s), mode='simple')['dataset_path']\n"
        "print(json.dumps({t: read(s) for t, s in json.loads(sys.argv[1]).items()}))\n"
    )
    done = subprocess.run(
        [eval_python, "-c", code, json.dumps(shipped)], env=environment(home),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = {
        task: [each.name for each in datasets({task: source}, "", eval_python)]
        for task, source in shipped.items()
    }
    assert ours == {task: [name] for task, name in theirs.items()}
    assert [each.name for each in datasets({"pope": ""}, "", eval_python)] == [theirs["pope"]]
