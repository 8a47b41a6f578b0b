"""Every benchmark's task in lmms-eval's hands: run by the Python that has it; prints JSON.

The catalogue against the shipped task files; and the tasks of ours on rows in the published
layouts, answered by one that knows every answer and by one that knows none.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from pathlib import Path

from vexp.backbone._imports import hide_broken_packages

hide_broken_packages()
os.environ["OPENAI_API_KEY"] = "unused"

import lmms_eval.tasks._task_utils.math_verify_utils  # noqa: E402, F401
from datasets import Dataset, Features  # noqa: E402
from datasets import Image as Picture  # noqa: E402
from lmms_eval import evaluator  # noqa: E402
from lmms_eval.api.model import lmms  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402
from lmms_eval.utils import load_yaml_config  # noqa: E402
from PIL import Image  # noqa: E402

from vexp.bridge import tasks  # noqa: E402
from vexp.bridge.model import question  # noqa: E402
from vexp.bridge.unwrap import unwrapped  # noqa: E402
from vexp.bridge.worker import _ARGUMENTS  # noqa: E402
from vexp.evaluator.benchmarks import OWN, catalogue  # noqa: E402

PICTURE = Image.new("RGB", (28, 28), "red")


def shipped() -> dict[str, str]:
    """What the catalogue says of lmms-eval's own tasks and is not so."""
    wrong = {}
    for name, benchmark in catalogue().items():
        for task, (source, metric, _factor) in benchmark.runs.items():
            if source == OWN:
                continue
            path = tasks.shipped() / source
            if not path.is_file():
                wrong[name] = f"no file {source}"
                continue
            config = load_yaml_config(yaml_path=str(path), mode="simple")
            metrics = {entry["metric"] for entry in config["metric_list"]}
            filters = {entry["name"] for entry in config.get("filter_list") or [{"name": "none"}]}
            plain, _, filtered = metric.partition(",")
            if config["task"] != task or plain not in metrics or filtered not in filters:
                wrong[name] = f"{config['task']}, {metrics}, {filters}"
    return wrong


def bytes64() -> str:
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def mathverse(split: str) -> list[dict]:
    rows = [("A", "multi-choice"), ("\\frac{1}{2}", "free-form"), ("20", "free-form")]
    return [
        {"sample_index": str(i), "problem_index": str(i), "problem_version": split, "question": "q",
         "question_for_eval": "q", "question_type": kind, "answer": gold, "query_wo": "w",
         "query_cot": "c", "image": PICTURE}
        for i, (gold, kind) in enumerate(rows)
    ]  # fmt: skip


def hallusion() -> list[dict]:
    return [
        {"category": "VD", "subcategory": "chart", "set_id": "0", "figure_id": str(i % 2),
         "question_id": str(i // 2), "question": "Is it?", "gt_answer": str(i % 2),
         "gt_answer_details": "d", "image": PICTURE}
        for i in range(4)
    ]  # fmt: skip


def hrbench() -> list[dict]:
    options = dict(zip("ABCD", ("a red square", "a blue one", "a cat", "nothing"), strict=True))
    return [
        {"index": i, "question": "What?", **options, "answer": "ABCD"[i], "image": bytes64(),
         "category": ("single", "cross")[i % 2], "cycle_category": str(i % 2)}
        for i in range(4)
    ]  # fmt: skip


def wemath() -> list[dict]:
    return [
        {"ID": str(i), "split": "testmini", "knowledge concept": "k", "question": "q",
         "option": "A. 1; B. 2", "answer": "AB"[i % 2], "image_path": PICTURE, "key": "2steps_1",
         "question number": "1", "knowledge concept description": "d"}
        for i in range(4)
    ]  # fmt: skip


# Rows of each task of ours; those that have pictures of their own in the file, in the hub's layout.
ROWS = {
    **{
        f"mathverse_vision_{k}_rule": (mathverse(k), f"vision_{k}")
        for k in ("intensive", "dominant", "only")
    },
    "hallusion_bench_image_rule": (hallusion(), "image"),
    "hrbench4k_rule": (hrbench(), "hrbench_4k"),
    "hrbench8k_rule": (hrbench(), "hrbench_8k"),
    "wemath_testmini_accuracy": (wemath(), "testmini"),
    "mmk12": ([{"id": "1", "question": "<image>Which?\nA. 1\nB. 2", "answer": "B", "image": PICTURE,
                "subject": "math"}], "test"),
    "m3cot": ([{"id": "p-1", "question": "Which?", "choices": ["cat", "cow"], "context": "A farm.",
                "answer": "B", "image": PICTURE}], "test"),
    "geomath": ([{"id": "1", "question": "How far?", "answer": "12.5", "image": PICTURE},
                 {"id": "2", "question": "Which?", "answer": "C", "image": PICTURE}], "test"),
}  # fmt: skip


def files(home: Path) -> dict[str, str]:
    """Write everything; the place of each task's data."""
    places = {}
    for name, (rows, split) in ROWS.items():
        place = home / "data" / name
        place.mkdir(parents=True)
        kinds = {key: Picture() if value is PICTURE else None for key, value in rows[0].items()}
        if any(kinds.values()):
            plain = {key: [row[key] for row in rows] for key in rows[0]}
            features = Dataset.from_dict({k: v for k, v in plain.items() if not kinds[k]}).features
            features = Features({**features, **{k: v for k, v in kinds.items() if v}})
            Dataset.from_list(rows, features=features).to_parquet(str(place / f"{split}.parquet"))
        else:
            Dataset.from_list(rows).to_parquet(str(place / f"{split}.parquet"))
        places[name] = str(place / f"{split}.parquet")
    for name, text in (
        ("tallyqa", json.dumps([{"image": "p.png", "question": "How many?", "answer": n,
                                 "issimple": True, "question_id": n} for n in (0, 3)])),
        ("r_bench", "".join(json.dumps({"question_id": n, "image": "p.png", "text": "Is it so?",
                                        "label": label}) + "\n"
                            for n, label in enumerate(("yes", "no")))),
        ("superclevr_counting", json.dumps({"image_path": "./p.png", "question": "How many items?",
                                            "ground_truth": 4}) + "\n"),
    ):  # fmt: skip
        place = home / "data" / name
        place.mkdir(parents=True)
        (place / ("test.json" if name == "tallyqa" else "test_questions.jsonl")).write_text(text)
        PICTURE.save(place / "p.png")
        places[name] = str(place)
    return places


def gold(task: str, row: dict) -> str:
    if task.startswith("hallusion"):
        return "Yes" if row["gt_answer"] == "1" else "No"
    return str(next(row[key] for key in ("answer", "label", "ground_truth") if key in row))


class Knowing(lmms):
    """Answers by the gold answer, or never."""

    is_simple = False

    def __init__(self, knows: bool, unwrap: dict[str, str]) -> None:
        super().__init__()
        self.knows, self.unwrap, self.images = knows, unwrap, 0

    def clean(self) -> None:
        pass

    def generate_until(self, requests):
        found = []
        for request in requests:
            _, to_messages, _, document, task, split = request.args
            row = self.task_dict[task][split][document]
            asked = question(f"{task}/{document}", to_messages(row), keep_system=True)
            self.images += asked.item.image is not None
            wrong = "No" if gold(task, row).casefold() == "yes" else "Yes"
            said = gold(task, row) if self.knows else wrong
            text = f"<think>Perhaps \\boxed{{7}}.</think>\\boxed{{{said}}}"
            found.append(unwrapped(text, self.unwrap[task]))
        return found

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def scores(home: Path) -> dict:
    places = files(home)
    unwrap, metric = {}, {}
    for benchmark in catalogue().values():
        for task, (source, key, _factor) in benchmark.runs.items():
            if source == OWN:
                unwrap[task], metric[task] = benchmark.unwrap, key
    found = {}
    for name, place in places.items():
        os.environ["VEXP_BENCHMARK_DATA"] = place
        tasks.write(home / "tasks", {name: OWN}, place, own_instruction=name == "mmk12")
        manager = TaskManager(
            "ERROR", include_path=str(home / "tasks" / name), include_defaults=False
        )
        found[name] = []
        for knows in (True, False):
            model = Knowing(knows, unwrap)
            result = evaluator.simple_evaluate(
                model=model, tasks=[name], task_manager=manager, batch_size=1,
                bootstrap_iters=0, process_docs_parallel=1, cli_args=_ARGUMENTS,
            )  # fmt: skip
            asked = result["samples"][name][0]["arguments"][0]
            found[name].append([result["results"][name][metric[name]], model.images, asked])
    return {"metrics": sorted(metric), "found": found}


if __name__ == "__main__":
    home = Path(sys.argv[1])
    answer = {"wrong": shipped(), **scores(home)}
    (home / "answer.json").write_text(json.dumps(answer))
