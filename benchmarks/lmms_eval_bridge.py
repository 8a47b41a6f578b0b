"""What an evaluation through the bridge costs beside asking the model class directly.

    python -m benchmarks.lmms_eval_bridge --python .venv-eval/bin/python

Both ask the same 500 questions of a local task, each with an image, of the same checkpoint, in a
process of their own. Directly: load lmms-eval's task, then one call of `generate_until`. Through
the bridge: what the evaluator `lmms_eval` does, scoring, watching and every file included. Each
side's imports are taken off it. CPU time, since it moves less on a busy machine.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe

LIMIT = 1.1
LENGTH = 128  # response tokens


def write_task(folder: Path, number: int) -> None:
    """A task file, its functions, and `number` questions about small images."""
    from PIL import Image

    folder.mkdir()
    rows = []
    for index in range(number):
        Image.new("RGB", (56, 56), (index % 256, 7, 99)).save(folder / f"{index}.png")
        rows.append(
            {"question": f"{index}: how red?", "image": f"{folder}/{index}.png", "gold": "7"}
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "functions.py").write_text(
        "from PIL import Image\n"
        "def text(doc, lmms_eval_specific_kwargs=None): return doc['question']\n"
        "def visual(doc): return [Image.open(doc['image']).convert('RGB')]\n"
        "def process(doc, results): return {'acc': float(results[0] == doc['gold'])}\n"
    )
    (folder / "redness.yaml").write_text(
        "task: redness\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: generate_until\n"
        "doc_to_text: !function functions.text\ndoc_to_visual: !function functions.visual\n"
        "doc_to_target: gold\nprocess_results: !function functions.process\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def direct(folder: Path) -> None:
    """The one side, within the Python that has lmms-eval: prints its times as JSON."""
    from vexp.backbone._imports import hide_broken_packages

    hide_broken_packages()
    import lmms_eval.evaluator
    import lmms_eval.tasks._task_utils.math_verify_utils
    from lmms_eval.tasks import TaskManager, get_task_dict

    from vexp.bridge.model import VexpModel

    ready = time.process_time()
    manager = TaskManager("ERROR", include_path=str(folder / "task"), include_defaults=False)
    task = get_task_dict(["redness"], manager, "chat")["redness"]
    task.build_all_requests(limit=None, rank=0, world_size=1)
    model = VexpModel(
        config=str(folder / "config.json"),
        checkpoint=str(folder / "model"),
        max_response_length=LENGTH,
    )
    model.task_dict["redness"] = task.dataset
    found = model.generate_until(task.instances)
    done = time.process_time()
    assert lmms_eval.evaluator and len(found) == len(task.instances)
    click.echo(json.dumps({"import": ready, "all": done}))


def bridge(folder: Path, python: str) -> dict[str, float]:
    """The other side: a whole evaluation, its process and what watches it."""
    from vexp.evaluator.base import EvaluationContext
    from vexp.evaluator.lmms_eval import LmmsEval

    evaluator = LmmsEval(
        task="redness", tasks_dir=str(folder / "task"), python=python, max_response_length=LENGTH
    )
    with tempfile.TemporaryDirectory() as work:
        desk = EvaluationContext(
            checkpoint=folder / "model",
            content="benchmark",
            work=Path(work),
            progress=lambda _done, _total: None,
            note=click.echo,
            ensure=lambda: None,
            stopping=lambda: False,
        )
        run = _run()
        start = _cpu()
        evaluator.score(run, desk)
        spent = _cpu() - start
        inside = json.loads((Path(work) / "result.json").read_text())["cpu_s"]
        return {"import": inside["import"], "worker": inside["all"], "all": spent}


def _cpu() -> float:
    """Of this process and of those that it waited for."""
    own, below = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime


def _run() -> Any:
    from vexp.spec.resolve import resolve

    return resolve(["compute.threads=1"])


def measure(python: str, questions: int, turns: int) -> dict[str, Any]:
    """Both sides in turn, as the JSON object that is printed."""
    from vexp.config.schema import to_dict

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder / "task", questions)
        run = _run()
        run.backbone.load().save(folder / "model")
        (folder / "config.json").write_text(json.dumps(to_dict(run)))
        pairs = []
        for _ in range(turns):
            command = [python, "-m", "benchmarks.lmms_eval_bridge", "--direct", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            alone = json.loads(done.stdout.strip().splitlines()[-1])
            pairs.append((alone, bridge(folder, python)))
    ratio = statistics.median(
        (through["all"] - through["import"]) / (alone["all"] - alone["import"])
        for alone, through in pairs
    )
    return {
        "name": "lmms_eval_bridge",
        "machine": describe(),
        "questions": questions,
        "cpu_s": [{"direct": alone, "bridge": through} for alone, through in pairs],
        "ratio": ratio,
        "ok": ratio <= LIMIT,
    }


@click.command(help=__doc__)
@click.option("--python", default=sys.executable, help="With lmms-eval and vexp.")
@click.option("--questions", default=500)
@click.option("--turns", default=3)
@click.option("--json", "as_json", is_flag=True)
@click.option("--direct", "only", type=click.Path(path_type=Path), hidden=True)
def main(python: str, questions: int, turns: int, as_json: bool, only: Path | None) -> None:
    """Measure, and exit 1 if it takes more than 1.1 times as long."""
    if only is not None:
        direct(only)
        return
    found = measure(python, questions, turns)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"{found['ratio']:.3f} x, wanted {LIMIT} x")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
