"""From a published dataset to a table beside the published row, by the commands a user types."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.annotate.scene import SQUARES, picture, seeing, settings
from tests.bridge.conftest import ROOT
from tests.bridge.test_bridge_lmms_eval import write_pope
from tests.endpoint.server import Server
from tests.fetch.server import Hub
from vexp.tables.reference import load

pytestmark = [
    pytest.mark.lmms_eval,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("lmms_eval"),
]
ITEMS = 36
ASKED = 10
ROWS = ("qwen3_vl_4b_dapo", "qwen3_vl_4b_ease")
SAYS = "<think>I see it.</think>\\boxed{yes}"  # what the demonstrations teach
POPE = "lmms-lab-encoder/POPE"  # as lmms-eval's task file has it
# Sampled at temperature 2: what was taught is said so surely that groups would have one reward.
SWEEP = """
base:
  - backbone=tiny_qwen3_vl
  - backbone.layers=3
  - backbone.hidden_size=64
  - backbone.heads=4
  - backbone.kv_heads=2
  - backbone.intermediate_size=96
  - backbone.vision_hidden_size=32
  - backbone.vision_heads=2
  - mix.datasets.main=table
  - mix.datasets.main.path=annotated/train.jsonl
  - stages=[warm_start,rl]
  - warm_start.steps=40
  - warm_start.batch_size=8
  - warm_start.learning_rate=5e-3
  - warm_start.ramp_steps=2
  - rl.steps=3
  - rl.prompts_per_step=2
  - rollout.group_size=4
  - rollout.max_response_length=24
  - rollout.temperature=2
  - checkpoint.every=2
  - algorithm=dapo_ease
evaluation:
  heldout: {size: 2}
  pope: {name: lmms_eval, benchmark: pope, python: PYTHON, max_response_length: 24}
  ours: {name: lmms_eval, benchmark: r_bench, data: r_bench, python: PYTHON,
         max_response_length: 24}
rows:
  qwen3_vl_4b_dapo: {label: DAPO}
  qwen3_vl_4b_ease: {label: EASE, overrides: [+auxiliary.ease=ease]}
table:
  reference: ease/table1
  columns:
    - {id: pope, benchmark: pope, label: POPE, scale: percent}
    - {evaluator: ours, metric: score, label: R-Bench, scale: percent}
"""


@pytest.fixture
def call(tmp_path):
    """Runs a command of vexp in an empty folder; the hub is out of reach unless it is named."""

    def run(*arguments: object, **environment: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        known = {
            "HF_HOME": str(tmp_path / "fetched"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "vexp", *map(str, arguments)],
            cwd=tmp_path, env=kept | known | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


def virl39k(folder: Path) -> None:
    """A few dozen drawn images as TIGER-Lab/ViRL39K publishes its own."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(ITEMS):
        picture(folder / "images" / f"{number}-0.png", number)
        named = " and a ".join(SQUARES if number % 2 else ["red square"])
        rows.append({
            "question": f"<image>\nQuestion {number}: is there a {named}?",
            "answer": "\\boxed{yes}",
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": 0.25,
            "category": "(GradeSchool) Geometric",
            "source": "drawn",
            "qid": f"drawn-{number}",
            "image": [f"images/{number}-0.png"],
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "39Krelease.parquet")


def gold(index: int) -> str:
    return "no" if index % 5 == 0 else "yes"


def r_bench(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(ASKED):
        picture(folder / f"images/{number}.png", number)
        rows.append({"question_id": number, "image": f"images/{number}.png",
                     "text": f"Is there a square {number}?", "label": gold(number)})  # fmt: skip
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def samples(results: Path, label: str) -> dict[str, list[dict]]:
    """The answers to a benchmark, by run."""
    found = results.glob(f"runs/*/evaluations/{label}-*/samples.jsonl")
    return {p.parts[-4]: [json.loads(row) for row in p.read_text().splitlines()] for p in found}


def test_from_a_published_dataset_to_a_table_beside_the_published_row(call, eval_python, tmp_path):
    virl39k(tmp_path / "ViRL39K")
    call("convert", "virl39k", "ViRL39K", "converted")
    server = Server(seeing)
    try:
        call("annotate", *settings(server.url), "--data", "converted", "--output", "annotated")
    finally:
        server.close()
    table = tmp_path / "annotated" / "train.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [len(row["boxes"]) for row in rows] == [1 + number % 2 for number in range(ITEMS)]
    table.write_text("".join(json.dumps(row | {"demonstration": SAYS}) + "\n" for row in rows))

    (tmp_path / "mine.yaml").write_text(SWEEP.replace("PYTHON", f"'{eval_python}'"))
    write_pope(tmp_path / "published" / "test.parquet", ASKED)
    questions = (tmp_path / "published" / "test.parquet").read_bytes()
    hub = Hub({f"datasets/{POPE}": {"data/test-00000-of-00001.parquet": questions}})
    web = hub.start()
    call("fetch", "mine.yaml", "--to", "fetched", HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0")
    web.shutdown()
    web.server_close()
    r_bench(tmp_path / "r_bench")

    call("doctor", "--data", *(line[4:] for line in SWEEP.split("evaluation:")[0].splitlines()[2:]))
    call("launch", "mine.yaml", "--wait")

    runs = [path for path in (tmp_path / "results" / "runs").iterdir() if path.is_dir()]
    assert len(runs) == len(ROWS)
    for run in runs:
        assert list(run.glob("**/model/model.safetensors")), "a checkpoint in Hugging Face format"
        (metrics,) = run.glob("attempts/*/metrics.jsonl")
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert [step["step"] for step in steps] == [1, 2, 3]
        assert any(step["frac_zero_std"] < 1 for step in steps), "some group has two rewards"
        assert all(0 < step["grad_norm"] < 1e6 for step in steps if step["frac_zero_std"] < 1)
        assert ("auxiliary/ease" in steps[0]) == ("ease-" in run.name)
    for label in ("pope", "ours"):
        found = samples(tmp_path / "results", label)
        assert len(found) == len(ROWS)
        for answers in found.values():
            assert len(answers) == ASKED
            said = [answer["response"].endswith("\\boxed{yes}") for answer in answers]
            assert sum(said) >= ASKED / 2, "it answers as it was taught"
            right = [s and a["answer"] == "yes" for s, a in zip(said, answers, strict=True)]
            assert [bool(answer["correct"]) for answer in answers] == right

    printed = call("table", "mine.yaml", "--format", "csv")
    cells = {(row["row"], row["column"]): row for row in csv.DictReader(printed.splitlines())}
    for row in ROWS:
        published = load("ease/table1").row(row).values["pope"]
        cell = cells[row, "pope"]
        assert float(cell["published"]) == pytest.approx(published / 100)
        assert 0 < float(cell["mean"]) <= 0.5, "half of the questions have the answer yes"
    text = call("table", "mine.yaml")
    assert "89.5" in text
    assert "90.8" in text
