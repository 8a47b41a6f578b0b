"""Results folders written by lmms-eval itself: `<stamp>_results.json` and its sample files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import RunError
from vexp.evaluator.benchmarks import catalogue
from vexp.runs.imports.measured import Foreign

ENDING = "_results.json"
_KEYS = {"results", "configs", "versions", "n-samples", "config"}


def files(source: Path) -> list[Path]:
    """The results files at or below `source`."""
    if source.is_dir():
        return sorted(source.rglob(f"*{ENDING}"))
    return [source] if source.name.endswith(ENDING) else []


def read(source: Path) -> list[Foreign]:
    """All benchmark results at or below `source`.

    Raises:
        RunError: for a file that is damaged or half-written, a score that is no number, a part of
            a benchmark only, and a task that stands in two files.
    """
    found: list[Foreign] = []
    seen: dict[tuple[str, str], Path] = {}
    for path in files(source):
        for result in _read(path):
            key = (result.benchmark, str(result.about.get("model")))
            if key in seen:
                raise RunError(
                    f"{result.benchmark!r} stands in two results files of one model",
                    where=f"{seen[key]} and {path}",
                    remedy="import the one file that should count by its path",
                )
            seen[key] = path
            found.append(result)
    return found


def _read(path: Path) -> Iterator[Foreign]:
    content = _content(path)
    for task, scores in content["results"].items():
        known = [
            (name, *benchmark.tasks[task])
            for name, benchmark in catalogue().items()
            if task in benchmark.tasks and benchmark.tasks[task][0] in scores
        ]
        for name, metric, factor in known or [(task, _main(scores, path, task), 1.0)]:
            yield _one(content, path, task, name, metric, 1.0 if factor is None else factor)
    yield from _means(content, path)


def _means(content: Mapping[str, Any], path: Path) -> Iterator[Foreign]:
    """Benchmarks that are the mean of several tasks and have no score of their own."""
    for name, benchmark in catalogue().items():
        metric = next((key for key, _ in benchmark.tasks.values()), "")
        scores = content["results"]
        own = any(metric in scores.get(task, {}) for task in benchmark.tasks)
        if own or not benchmark.mean_of or not set(benchmark.mean_of) <= scores.keys():
            continue
        parts = [_one(content, path, task, name, metric, 1.0) for task in benchmark.mean_of]
        yield Foreign(
            benchmark=name,
            metric=metric,
            value=math.fsum(part.value for part in parts) / len(parts),
            stderr=None,
            n=sum(part.n or 0 for part in parts),
            version="; ".join(part.version for part in parts),
            decoding=parts[0].decoding,
            run=None,
            source=path,
            about=parts[0].about,
        )


def _one(
    content: Mapping[str, Any], path: Path, task: str, name: str, metric: str, factor: float
) -> Foreign:
    scores = content["results"][task]
    plain, _, filtered = metric.partition(",")
    value = _number(scores.get(metric), f"{metric} of {task}", path)
    stderr = scores.get(f"{plain}_stderr,{filtered}")
    counts = content["n-samples"].get(task, {})
    n, whole = counts.get("effective"), counts.get("original")
    if n is not None and whole is not None and n < whole:
        raise RunError(
            f"{task} was evaluated on {n} of its {whole} items (--limit)",
            where=str(path),
            remedy="evaluate the whole benchmark; a part of it is another measurement",
        )
    config, model = content["configs"].get(task, {}), content["config"]
    return Foreign(
        benchmark=name,
        metric=metric,
        value=value * factor,
        stderr=stderr * factor if isinstance(stderr, float) and math.isfinite(stderr) else None,
        n=n,
        version=f"{task} {content['versions'].get(task, '?')} {metric}",
        decoding=_decoding(config, model),
        run=None,
        source=path,
        about={
            "tool": "lmms-eval",
            "tool_version": content.get("lmms_eval_version"),
            "git_hash": content.get("git_hash"),
            "task": task,
            "task_hash": content.get("task_hashes", {}).get(task),
            "model": model.get("model_args"),
            "generation": config.get("generation_kwargs"),
            "date": content.get("date"),
        },
        verdicts=tuple(_verdicts(path, task, plain)),
    )


def _content(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            "this results file of lmms-eval is damaged or half-written",
            where=str(path),
            remedy="evaluate again, or move the file away; nothing of it was taken",
        ) from error
    missing = _KEYS - found.keys() if isinstance(found, dict) else _KEYS
    if missing:
        raise RunError(
            f"this is no results file of lmms-eval: it lacks {', '.join(sorted(missing))}",
            where=str(path),
            accepted="<stamp>_results.json as lmms-eval 0.7 writes it",
        )
    return found  # type: ignore[no-any-return]


def _number(value: Any, what: str, path: Path) -> float:
    if isinstance(value, str) and value.strip().endswith("%"):  # We-Math writes "34.50%"
        value = value.strip()[:-1]
    number = _float(value)
    if number is None or not math.isfinite(number):
        raise RunError(
            f"{what} is {value!r}, which is no score",
            where=str(path),
            remedy="look at its samples and evaluate again; nothing of this file was taken",
        )
    return number


def _float(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _main(scores: Mapping[str, Any], path: Path, task: str) -> str:
    """The first metric of a task that no paper uses."""
    for key, value in scores.items():
        if "," in key and "_stderr" not in key and isinstance(value, float | int):
            return key
    raise RunError(f"{task} has no score", where=str(path), remedy="leave this task out")


def _decoding(task: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    given = dict(task.get("generation_kwargs") or {})
    for part in str(model.get("gen_kwargs") or "").split(","):
        key, equals, value = part.partition("=")
        if equals:
            given[key.strip()] = value.strip()
    temperature = _float(given.get("temperature")) or 0.0
    sampled = str(given.get("do_sample", "false")).lower() in ("true", "1") and temperature > 0
    return f"sampled at temperature {temperature:g}" if sampled else "greedy"


def _verdicts(path: Path, task: str, metric: str) -> Iterator[Mapping[str, Any]]:
    """The samples whose score is a plain number, from the file beside the results."""
    stamp = path.name.removesuffix(ENDING)
    samples = path.with_name(f"{stamp}_samples_{task}.jsonl")
    if not samples.is_file():
        return
    for line in samples.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunError(
                "this sample file of lmms-eval is damaged", where=str(samples)
            ) from error
        score = row.get(metric, row.get("score"))
        if isinstance(score, float | int):
            yield {"id": f"{task}/{row['doc_id']}", "dataset": task, "correct": float(score)}
