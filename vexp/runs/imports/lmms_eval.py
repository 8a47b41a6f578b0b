"""Results folders written by lmms-eval itself: `<stamp>_results.json` and its sample files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vexp.errors import RunError
from vexp.evaluator.benchmarks import catalogue
from vexp.runs.imports.measured import Foreign
from vexp.runs.imports.reading import json_of, lines_of, safe_name, shaped, shown, text_of

ENDING = "_results.json"
_KEYS = {"results", "configs", "versions", "n-samples", "config"}
_NO_SCORE = (None, "", " ", "N/A")  # and lists: what was written for a server to score
_NOUN = "results file of lmms-eval"
_SHOWN_LINES = 5


class _Task(msgspec.Struct):
    generation_kwargs: dict[str, Any] | None = None


class _Model(msgspec.Struct):
    model: str | None = None
    model_args: str | dict[str, Any] | None = None
    gen_kwargs: str | dict[str, Any] | None = None


_Samples = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _Count(msgspec.Struct):
    original: _Samples | None = None
    effective: _Samples | None = None


class _Content(msgspec.Struct):
    """What is read of a results file; lmms-eval writes more."""

    results: dict[str, dict[str, Any]]
    configs: dict[str, _Task]
    versions: dict[str, str | int | float | None]
    counts: dict[str, _Count] = msgspec.field(name="n-samples")
    config: _Model
    lmms_eval_version: str | None = None
    git_hash: str | None = None
    task_hashes: dict[str, str | None] | None = None
    date: str | int | float | None = None


@dataclass(frozen=True)
class _File:
    """A results file, with what has to be said of what was left out of it."""

    path: Path
    content: _Content
    remarks: list[str] = field(default_factory=list)


def files(source: Path) -> list[Path]:
    """The results files at or below `source`."""
    if source.is_dir():
        return sorted(source.rglob(f"*{ENDING}"))
    return [source] if source.name.endswith(ENDING) else []


def read(source: Path) -> tuple[list[Foreign], list[str]]:
    """All benchmark results at or below `source`, and what was left out.

    Raises:
        RunError: for a file that is damaged or half-written or has no score at all, a score that is
            no number, a part of a benchmark only, and a task that stands in two files.
    """
    results: list[Foreign] = []
    remarks: list[str] = []
    seen: dict[tuple[str, str], Path] = {}
    for path in files(source):
        file = _File(path, _content(path))
        for result in _read(file):
            key = (result.benchmark, str(result.about.get("model")))
            if key in seen:
                raise RunError(
                    f"{result.benchmark!r} stands in two results files of one model",
                    where=f"{seen[key]} and {path}",
                    remedy="import the one file that should count by its path",
                )
            seen[key] = path
            results.append(result)
        remarks += file.remarks
    return results, remarks


def _read(file: _File) -> Iterator[Foreign]:
    unscored = []
    for task, scores in file.content.results.items():
        safe_name(task, "a task", file.path)
        known = [
            (name, *benchmark.tasks[task])
            for name, benchmark in catalogue().items()
            if task in benchmark.tasks and _has(scores, benchmark.tasks[task][0])
        ]
        metric = _main(scores)
        if not known and metric is None:
            unscored.append(task)
        for name, key, factor in known or ([(task, metric, 1.0)] if metric else []):
            yield _one(file, task, name, key, 1.0 if factor is None else factor)
    if unscored and len(unscored) == len(file.content.results):
        raise RunError(
            f"{', '.join(unscored)} {'have' if len(unscored) > 1 else 'has'} no score",
            where=str(file.path),
            remedy="nothing of this file was taken; have its submission files scored first",
        )
    if unscored:
        file.remarks.append(
            f"without a score, so left out: {', '.join(unscored)} (a group, or for a server to "
            f"score), in {file.path}"
        )
    yield from _means(file)


def _means(file: _File) -> Iterator[Foreign]:
    """Benchmarks that are the mean of several tasks and have no score of their own."""
    scores = file.content.results
    for name, benchmark in catalogue().items():
        metric = next((key for key, _ in benchmark.tasks.values()), "")
        own = any(_has(scores.get(task, {}), metric) for task in benchmark.tasks)
        parted = all(_has(scores.get(task, {}), metric) for task in benchmark.mean_of)
        if own or not benchmark.mean_of or not parted:
            continue
        parts = [_one(file, task, name, metric, 1.0) for task in benchmark.mean_of]
        yield Foreign(
            benchmark=name,
            metric=metric,
            value=math.fsum(part.value for part in parts) / len(parts),
            stderr=None,
            n=sum(part.n or 0 for part in parts),
            version="; ".join(part.version for part in parts),
            decoding=parts[0].decoding,
            run=None,
            source=file.path,
            about=parts[0].about,
        )


def _one(file: _File, task: str, name: str, metric: str, factor: float) -> Foreign:
    content, path = file.content, file.path
    scores = content.results[task]
    plain, _, filtered = metric.partition(",")
    value = _number(scores.get(metric), f"{metric} of {task}", path)
    stderr = scores.get(f"{plain}_stderr,{filtered}")
    count = content.counts.get(task, _Count())
    if count.effective is not None and count.effective < (count.original or 0):
        raise RunError(
            f"{task} was evaluated on {count.effective} of its {count.original} items (--limit)",
            where=str(path),
            remedy="evaluate the whole benchmark; a part of it is another measurement",
        )
    config = content.configs.get(task, _Task())
    return Foreign(
        benchmark=name,
        metric=metric,
        value=value * factor,
        stderr=stderr * factor if isinstance(stderr, float) and math.isfinite(stderr) else None,
        n=count.effective,
        version=f"{task} {content.versions.get(task, '?')} {metric}",
        decoding=_decoding(config, content.config),
        run=None,
        source=path,
        about={
            "tool": "lmms-eval",
            "tool_version": content.lmms_eval_version,
            "git_hash": content.git_hash,
            "task": task,
            "task_hash": (content.task_hashes or {}).get(task),
            "model": content.config.model_args,
            "generation": _generation(config, content.config),
            "date": content.date,
        },
        verdicts=tuple(_verdicts(file, task, plain)),
    )


def _content(path: Path) -> _Content:
    try:
        content = json_of(text_of(path, noun=_NOUN))
    except ValueError as error:
        raise RunError(
            f"this {_NOUN} is damaged or half-written: {error}",
            where=str(path),
            remedy="evaluate again, or move the file away; nothing of it was taken",
        ) from error
    missing = _KEYS - content.keys() if isinstance(content, dict) else _KEYS
    if missing:
        raise RunError(
            f"this is no {_NOUN}: it lacks {', '.join(sorted(missing))}",
            where=str(path),
            accepted="<stamp>_results.json as lmms-eval 0.7 writes it",
        )
    return shaped(content, _Content, f"this {_NOUN}", path)


def _number(value: Any, what: str, path: Path) -> float:
    if isinstance(value, str) and value.strip().endswith("%"):  # We-Math writes "34.50%"
        value = value.strip()[:-1]
    number = as_float(value)
    if number is None or not math.isfinite(number):
        raise RunError(
            f"{what} is {shown(value)}, which is no score",
            where=str(path),
            remedy="look at its samples and evaluate again; nothing of this file was taken",
        )
    return number


def as_float(value: Any) -> float | None:
    """A number, or a text that is one; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _main(scores: Mapping[str, Any]) -> str | None:
    """The first metric of a task that has a value; None for a group, or for a submission."""
    for key, value in scores.items():
        if "," in key and "_stderr" not in key and _is_number(value):
            return key
    return None


def _has(scores: Mapping[str, Any], metric: str) -> bool:
    """Whether a task has this score, or something in its place that is wrong."""
    value = scores.get(metric)
    return not isinstance(value, list) and value not in _NO_SCORE


def _is_number(value: object) -> bool:
    return (isinstance(value, float | int) and not isinstance(value, bool)) or _is_percentage(value)


def _is_percentage(value: object) -> bool:
    return isinstance(value, str) and as_float(value.strip().removesuffix("%")) is not None


def _generation(task: _Task, model: _Model) -> dict[str, Any]:
    """Settings of generation: the task's, and over them those of the command line."""
    given = dict(task.generation_kwargs or {})
    if isinstance(model.gen_kwargs, dict):
        return given | model.gen_kwargs
    for part in (model.gen_kwargs or "").split(","):
        key, equals, value = part.partition("=")
        if equals:
            given[key.strip()] = value.strip()
    return given


def _decoding(task: _Task, model: _Model) -> str:
    """How the answers were drawn.

    Above temperature 0, lmms-eval's models sample, unless `do_sample` says not to; its Qwen models
    go by the temperature alone, whatever `do_sample` says. Without a temperature they are greedy.
    """
    given = _generation(task, model)
    temperature = as_float(given.get("temperature")) or 0.0
    declined = str(given.get("do_sample")).lower() in ("false", "0")
    if temperature <= 0 or (declined and not (model.model or "").startswith("qwen")):
        return "greedy"
    return f"sampled at temperature {temperature:g}"


def _verdicts(file: _File, task: str, metric: str) -> Iterator[Mapping[str, Any]]:
    """The samples whose score is a plain number, from the file beside the results."""
    stamp = file.path.name.removesuffix(ENDING)
    samples = file.path.with_name(f"{stamp}_samples_{task}.jsonl")
    if not samples.is_file():
        return
    unusable: list[int] = []
    for number, line in lines_of(text_of(samples, noun="sample file of lmms-eval")):
        row = _sample(line, f"{samples}:{number}")
        score = row.get(metric, row.get("score"))
        if not isinstance(score, float | int):
            if metric in row or "score" in row:
                unusable.append(number)
            continue
        value = as_float(float(score) if isinstance(score, bool) else score)
        if value is None or not math.isfinite(value):
            unusable.append(number)
            continue
        yield {"id": f"{task}/{row['doc_id']}", "dataset": task, "correct": value}
    if unusable:
        shown = ", ".join(map(str, unusable[:_SHOWN_LINES]))
        more = f" and {len(unusable) - _SHOWN_LINES} more" if len(unusable) > _SHOWN_LINES else ""
        file.remarks.append(
            f"a verdict that is no finite number, so no sample: {samples}, line {shown}{more}"
        )


def _sample(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json_of(line)
        if not isinstance(row, dict):
            raise ValueError("it is no object")
        if type(row.get("doc_id")) not in (int, str):
            raise ValueError("it has no doc_id that is a number or text")
    except ValueError as error:
        raise RunError(
            f"this line of a sample file of lmms-eval is damaged: {error}",
            where=where,
            remedy="evaluate again, or move the sample file away; nothing was imported",
        ) from error
    return row
