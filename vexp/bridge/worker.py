"""One evaluation by lmms-eval, in a process of its own: `python -m vexp.bridge.worker job.json`.

It ends with 0 only when `result.json` is there, with 3 after a message in `error.json`, and with 1
after anything else. (lmms-eval's own command ends with 0 whatever happens.) It also ends when its
standard input closes, which it does when whoever started it is gone.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import RunError, VexpError
from vexp.files import write_json

if TYPE_CHECKING:
    from vexp.bridge.model import VexpModel
    from vexp.spec.run import RunSpec

JOURNAL, RESULT, ERROR, TOTAL = "responses.jsonl", "result.json", "error.json", "total.json"
TASK_FILES = "tasks"
MESSAGE = 3  # exit code
# What lmms-eval asks its command line for. It unwraps nothing: vexp.bridge.unwrap does.
_ARGUMENTS = Namespace(reasoning_tags="none", process_with_media=False, output_path=".")
_NUMBERS = (
    "score",
    "correct",
    "acc",
    "acc_score",
    "gpt_score",
    "hit",
)  # in a sample's own record of a metric


def main(path: str | None = None) -> None:
    """Do the job described in a file; see `vexp.evaluator.lmms_eval` for what it holds."""
    from vexp.backbone._imports import hide_broken_packages
    from vexp.runs.rank import end_with_input

    job_file = Path(path or sys.argv[1])
    work = job_file.parent
    end_with_input()
    hide_broken_packages()  # before transformers is imported
    try:
        job = json.loads(job_file.read_text("utf-8"))
        write_json(work / RESULT, evaluated(job, work))
        _leave()
    except VexpError as error:
        problem = error.problem
        parts = {k: getattr(problem, k) for k in ("what", "where", "accepted", "remedy")}
        write_json(work / ERROR, {"kind": type(error).__name__, **parts})
        sys.exit(MESSAGE)
    except Exception as error:  # noqa: BLE001  (the log has it, and who waits is told)
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        write_json(work / ERROR, {"kind": "", "what": what[:2000]})
        sys.exit(1)


def _leave() -> None:
    """End at once: taking all that lmms-eval has imported apart takes seconds."""
    from vexp.verifier.pool import close_all

    close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run_of(config: Mapping[str, Any]) -> RunSpec:
    """The run that a config describes; its plugins are loaded."""
    from vexp.config.schema import build
    from vexp.registry import REGISTRY
    from vexp.spec.run import RunSpec

    REGISTRY.load_plugins(config.get("plugins", ()))
    return build(RunSpec, config)


def evaluated(job: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """What each seed's evaluation found, with every sample."""
    # Replaces math_verify's time limit, which works in the main thread only: elsewhere it raises,
    # lmms-eval swallows that, and right answers count as wrong.
    import lmms_eval.tasks._task_utils.math_verify_utils
    from lmms_eval import evaluator as _evaluator  # noqa: F401
    from lmms_eval.tasks import TaskManager

    from vexp.bridge import tasks
    from vexp.bridge.model import VexpModel

    imported = time.process_time()
    model = VexpModel(
        run=run_of(job["config"]),
        checkpoint=job["checkpoint"] or "",
        journal=str(work / JOURNAL),
        weights=job["weights"],
        **job["model"],
    )
    sources = dict(job["sources"])
    for name, source in sources.items():
        sources[name] = source or tasks.find(name, job["tasks_dir"])
    own = job["model"]["prompt"] == "task"
    names = tasks.write(work / TASK_FILES, sources, job["data"], own_instruction=own)
    manager = TaskManager("ERROR", include_path=str(work / TASK_FILES), include_defaults=False)
    total = 0

    def asked(number: int) -> None:
        nonlocal total
        total += number
        write_json(work / TOTAL, {"questions": total * len(job["seeds"])})

    model.asked = asked
    found = []
    for seed in job["seeds"]:
        model.seed = seed
        found.append(_one(model, names, manager, job["limit"], seed))
        model.asked = lambda _number: None
    import lmms_eval

    return {
        "lmms_eval": _version(lmms_eval.__name__),
        "generated": model.generated,
        "known": model.journal.known,
        "cpu_s": {"import": imported, "all": time.process_time()},
        "seeds": found,
    }


def _one(
    model: VexpModel, names: Sequence[str], manager: Any, limit: int | None, seed: int
) -> dict[str, Any]:
    from lmms_eval import evaluator

    from vexp.bridge import tasks

    try:
        results = evaluator.simple_evaluate(
            model=model,
            tasks=list(names),
            task_manager=manager,
            batch_size=model.batch_size,
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,  # standard errors are taken from the samples
            process_docs_parallel=1,  # its threads break math_verify's time limit
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            cli_args=_ARGUMENTS,
        )
    except Exception as error:
        config = {"task": ", ".join(names)}
        problem = tasks.missing_data(error, config)
        if problem is None:
            raise
        raise RunError(problem.what, where=problem.where, remedy=problem.remedy) from error
    return {
        "seed": seed,
        "results": _finite(results["results"]),
        "versions": _finite(results["versions"]),
        "n_samples": results["n-samples"],
        "task_hashes": results.get("task_hashes") or {},
        "samples": {
            name: [_sample(model, name, row) for row in rows]
            for name, rows in results["samples"].items()
        },
    }


def _sample(model: VexpModel, task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    response = model.response(task, row["doc_id"])
    if response is None:
        raise RunError(f"question {row['doc_id']} of {task} was scored and never answered")
    scores = {name: _score(value) for name, value in row.items() if name not in _FIXED}
    return {
        "document": str(row["doc_id"]),
        "question": next((a for a in row["arguments"] if isinstance(a, str)), ""),
        "answer": str(row["target"]),
        "response": response.text,
        "scored": str(row["filtered_resps"][0]),
        "tokens": response.tokens,
        "truncated": response.truncated,
        "scores": {name: score for name, score in scores.items() if score is not None},
    }


# Keys of a logged sample that are no metrics.
_FIXED = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts",
          "doc_hash", "input_media"}  # fmt: skip


def _score(value: Any) -> float | None:
    """A sample's number for one metric; None where the metric has numbers of all samples only."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in _NUMBERS if name in value), None)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def _finite(value: Any) -> Any:
    """JSON without NaN: what is no number becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # numpy
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main()
