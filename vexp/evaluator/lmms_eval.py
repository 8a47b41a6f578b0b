"""A benchmark of lmms-eval, scored by lmms-eval itself in a process of its own."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vexp.config.types import UNHASHED, Between, Count, NonNegative, Positive, PositiveInt
from vexp.errors import Problem
from vexp.evaluator.base import EvaluationContext, EvaluationScores, Sample, SeparateEvaluator
from vexp.evaluator.benchmarks import Benchmark, Unwrap, catalogue, unknown
from vexp.evaluator.heldout import mean
from vexp.paths import expanded
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.hub import Repository
    from vexp.spec.run import RunSpec

MAIN = "score"  # the metric that is the benchmark's result


@register("evaluator", "lmms_eval")
@dataclass(frozen=True, kw_only=True)
class LmmsEval(SeparateEvaluator):
    """One benchmark by lmms-eval 0.7.3, in a process of its own, with every response kept.

    `benchmark` is a name of the catalogue (`vexp list benchmarks`); for any other task of lmms-eval
    name the `task`, whose first metric then counts. Decoding and lengths are set here and not by
    the task. The metric `score` is the benchmark's; of several seeds it is the mean: avg@k.
    Beside it are accuracy (of samples that have a verdict of their own), length and truncated.
    """

    task: str = ""  # instead of a benchmark: any task of lmms-eval
    tasks_dir: Annotated[str, UNHASHED] = ""  # folder with tasks of your own, as lmms-eval has them
    data: Annotated[str, UNHASHED] = ""  # file or folder with the questions; empty: the hub's
    # the run's system message and instruction, or the system message of the task
    prompt: Literal["run", "task"] = "run"  # whose words stand around the question
    # auto: as the catalogue says, and for other tasks `answer`
    unwrap: Literal["auto", "none", "thoughts", "answer"] = "auto"  # what of a response is scored
    limit: PositiveInt | None = None  # the first questions only, of each task
    max_response_length: PositiveInt | None = None  # tokens; null: as in training
    temperature: NonNegative = 0.0  # 0: greedy
    top_p: Annotated[Positive, Between(0, 1)] = 1.0  # share of the probability drawn from
    seed: Count = 0  # of the draws
    k: PositiveInt = 1  # seeds from `seed` on, each of which asks every question
    batch_size: Annotated[PositiveInt, UNHASHED] = 16  # questions per generation batch
    python: Annotated[str, UNHASHED] = ""  # with lmms-eval and vexp; empty: this one
    offline: Annotated[bool, UNHASHED] = True  # nothing is asked of the hub

    def __post_init__(self) -> None:
        for name in ("data", "tasks_dir"):  # the worker is started elsewhere
            if path := getattr(self, name):
                object.__setattr__(self, name, str(expanded(path).absolute()))

    @property
    def of_benchmark(self) -> str:
        return "" if self.limit else self.benchmark or self.task

    @property
    def known(self) -> Benchmark | None:
        """What the catalogue says of the benchmark."""
        return catalogue().get(self.benchmark)

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if bool(self.benchmark) == bool(self.task):
            what = "a benchmark and a task are named" if self.task else "no benchmark is named"
            yield Problem(what, where="benchmark and task", accepted="one of the two")
        elif self.benchmark and self.known is None:
            yield unknown(self.benchmark, "benchmark")
        elif self.known and self.known.whole and self.limit:
            yield Problem(f"a part of {self.known.label} has no score", where="limit")
        elif self.known and self.known.needs_data and not self.data:
            yield Problem(
                f"where the questions of {self.known.label} are has to be said: lmms-eval does not "
                "have them",
                where="data",
                remedy="set data= to the folder with the published files",
            )
        if self.k > 1 and not self.temperature:
            yield Problem(
                f"greedy answers are the same for all {self.k} seeds",
                where="k and temperature",
                remedy="set temperature=1, or k=1",
            )

    def unknown(self) -> Iterator[Problem]:
        for name in ("data", "tasks_dir"):
            path = getattr(self, name)
            if path and not Path(path).exists():
                yield Problem(f"there is no file or folder {path!r}", where=f"evaluator: {name}")

    def repositories(self) -> Iterator[Repository]:
        from vexp.evaluator._lmms_tasks import datasets

        if not self.data and (self.known or self.task):
            yield from datasets(self._sources, self.tasks_dir, self.python)

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        from vexp.config.hashing import plain

        sampled = {"temperature": self.temperature, "top_p": self.top_p}
        known = self.known
        return {
            "benchmark": self.benchmark,
            "task": self.task,
            "runs": {name: list(entry) for name, entry in known.runs.items()} if known else {},
            "tasks": _manifest(self.tasks_dir),
            "data": _manifest(self.data),
            "prompt": plain(run.prompt) if self.prompt == "run" else "task",
            "unwrap": self.unwrap_as,
            "unwrap_chosen": self.unwrap != "auto",
            "limit": self.limit,
            "engine": plain(run.engine),
            "compute": plain(run.compute),
            "max_response_length": self._limit(run),
            "decoding": self._decoding,
            "drawn": {**sampled, "seed": self.seed, "k": self.k},
        }

    @property
    def unwrap_as(self) -> Unwrap:
        """What of a response its scorer is given."""
        if self.unwrap != "auto":
            return self.unwrap
        return self.known.unwrap if self.known else "answer"

    def metrics(self, samples: list[Sample]) -> dict[str, dict[str, float | None]]:
        if not samples:
            return {}
        found = {
            "length": mean([float(sample.length) for sample in samples]),
            "truncated": mean([float(sample.truncated) for sample in samples]),
        }
        if judged := [sample.correct for sample in samples if sample.status == "ok"]:
            found["accuracy"] = mean(judged)
        return found

    def score(self, run: RunSpec, desk: EvaluationContext) -> EvaluationScores:
        from vexp.evaluator._lmms_worker import work

        found = work(self.python, self.offline, self._job(run, desk), desk)
        samples = [sample for seed in found["seeds"] for sample in self._samples(seed)]
        scores = [self._score(seed) for seed in found["seeds"]]
        value = math.fsum(scores) / len(scores)
        metrics: dict[str, Mapping[str, float | None]] = {
            MAIN: {
                "value": value,
                "stderr": self._stderr(found["seeds"], samples),
                "n": len(samples),
            },
            **self.metrics(samples),
        }
        if len(scores) > 1:
            spread = math.sqrt(math.fsum((s - value) ** 2 for s in scores) / (len(scores) - 1))
            metrics["run_std"] = {"value": spread, "stderr": None, "n": len(scores)}
        metrics |= self._further(found["seeds"])
        about = {
            **({"benchmark": self.of_benchmark, "main_metric": MAIN} if self.of_benchmark else {}),
            "version": self._version(found["seeds"][0]),
            "lmms_eval": {
                "version": found["lmms_eval"],
                "task_hashes": found["seeds"][0]["task_hashes"],
                "generated": found["generated"],
                "known": found["known"],
            },
        }
        return EvaluationScores(samples, metrics, about, {"log.txt": desk.work / "log.txt"})

    def _job(self, run: RunSpec, desk: EvaluationContext) -> dict[str, Any]:
        from vexp.config.schema import to_dict

        return {
            "config": to_dict(run),
            "checkpoint": str(desk.checkpoint.absolute()) if desk.checkpoint else None,
            "weights": desk.content,
            "sources": self._sources,
            "tasks_dir": self.tasks_dir,
            "data": self.data,
            "limit": self.limit,
            "seeds": list(range(self.seed, self.seed + self.k)),
            "model": {
                "prompt": self.prompt,
                "unwrap": self.unwrap_as,
                "max_response_length": self._limit(run),
                "temperature": self.temperature,
                "top_p": self.top_p,
                "batch_size": self.batch_size,
            },
        }

    @property
    def _sources(self) -> dict[str, str]:
        """Task -> `own`, its file below lmms-eval's tasks, or nothing: to be looked up."""
        known = self.known
        return {name: entry[0] for name, entry in known.runs.items()} if known else {self.task: ""}

    def _samples(self, seed: Mapping[str, Any]) -> Iterator[Sample]:
        for task, rows in seed["samples"].items():
            main = self._metric(task, seed).partition(",")[0]
            for row in rows:
                verdict = row["scores"].get(main)
                judged = verdict is not None and 0 <= verdict <= 1
                place = f"#{seed['seed'] - self.seed}" if self.k > 1 else ""
                yield Sample(
                    id=f"{task}/{row['document']}{place}",
                    question=row["question"],
                    answer=row["answer"],
                    response=row["response"],
                    extracted=row["scored"],
                    correct=float(verdict) if judged else 0.0,
                    tag="",
                    status="ok"
                    if judged
                    else "unscored",  # such metrics are of all samples at once
                    length=row["tokens"],
                    dataset=task,
                    truncated=row["truncated"],
                    values=row["scores"],
                )

    def _score(self, seed: Mapping[str, Any]) -> float:
        """The benchmark's score of one seed: the mean over its tasks."""
        values = [self._value(task, scores) for task, scores in self._results(seed).items()]
        return math.fsum(values) / len(values)

    def _value(self, task: str, scores: Mapping[str, Any]) -> float:
        metric = self._metric(task, {"results": {task: scores}})
        factor = self.known.runs[task][2] if self.known else 1.0
        return _number(scores.get(metric), f"{metric} of {task}") * (
            1.0 if factor is None else factor
        )

    def _results(self, seed: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        names = self.known.runs if self.known else (self.task,)
        return {name: seed["results"][name] for name in names}

    def _metric(self, task: str, seed: Mapping[str, Any]) -> str:
        if self.known:
            return str(self.known.runs[task][1])
        names = (name for name, value in seed["results"][task].items() if _is_metric(name, value))
        return next(names, "")

    def _further(self, seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
        """All that lmms-eval says, as it says it: `<task>/<metric>`."""
        found: dict[str, dict[str, float | None]] = {}
        for task, scores in seeds[0]["results"].items():
            for name, value in scores.items():
                if _is_metric(name, value):
                    every = [seed["results"][task].get(name) for seed in seeds]
                    numbers = [float(one) for one in every if isinstance(one, int | float)]
                    key = f"{task}/{name.removesuffix(',none')}"
                    center = math.fsum(numbers) / len(numbers)
                    found[key] = {
                        "value": center,
                        "stderr": None,
                        "n": len(seeds[0]["samples"][task]),
                    }
        return found

    def _stderr(self, seeds: Sequence[Mapping[str, Any]], samples: list[Sample]) -> float | None:
        """Over questions, where the score is the mean of their verdicts; else lmms-eval's."""
        by_question: dict[str, list[float]] = {}
        for sample in samples:
            question = sample.id.rpartition("#")[0] if self.k > 1 else sample.id
            by_question.setdefault(question, []).append(sample.correct)
        means = [math.fsum(each) / len(each) for each in by_question.values()]
        scores = [self._score(seed) for seed in seeds]
        plain = mean(means)["value"]
        is_mean = plain is not None and math.isclose(plain, sum(scores) / len(scores), abs_tol=1e-6)
        judged = all(sample.status == "ok" for sample in samples)
        return mean(means)["stderr"] if judged and is_mean else None

    def _version(self, seed: Mapping[str, Any]) -> str:
        """As `vexp import` has it of lmms-eval's own results, and what else differs from those."""
        parts = [
            f"{task} {seed['versions'].get(task, '?')} {self._metric(task, seed)}"
            for task in self._results(seed)
        ]
        if self.prompt == "run":
            parts.append("prompt of the run")
        if self.limit:
            parts.append(f"first {self.limit} questions")
        if self.unwrap != "auto":
            parts.append(f"unwrap {self.unwrap}")
        return "; ".join(parts)

    @property
    def _decoding(self) -> str:
        if not self.temperature:
            return "greedy"
        found = f"sampled at temperature {self.temperature:g}"
        return f"{found}, mean of {self.k}" if self.k > 1 else found

    def _limit(self, run: RunSpec) -> int:
        return self.max_response_length or run.rollout.max_response_length


def _is_metric(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and "," in name and "_stderr" not in name


def _number(value: Any, what: str) -> float:
    from vexp.errors import RunError

    text = value.strip().removesuffix("%") if isinstance(value, str) else value  # We-Math: "34.50%"
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RunError(
            f"lmms-eval scored {what} as {value!r}, which is no number",
            remedy="look at the responses in the evaluation's work folder",
        )
    return number


def _manifest(path: str) -> str:
    """Hash of names and sizes below a path: tens of gigabytes are not read to plan a sweep."""
    if not path or not Path(path).exists():
        return ""
    top = Path(path)
    every = [top] if top.is_file() else [file for file in top.rglob("*") if file.is_file()]
    listed = sorted(
        (file.relative_to(top.parent if top.is_file() else top).as_posix(), os.stat(file).st_size)  # noqa: PTH116
        for file in every
        if "__pycache__" not in file.parts and not file.name.startswith(".")
    )
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
