"""Evaluations as units of their own: one checkpoint, one benchmark, scored once.

    evaluations/<label>-<key>/   samples.jsonl, results.json, provenance.json
    evaluations/.<label>-<key>.work/   the samples scored so far, while it is in progress

The key covers the checkpoint's content, the evaluator, its protocol and its scorer's version. So a
benchmark added to a finished run trains nothing, and equal evaluations are done once.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp import __version__, masking, records
from vexp.errors import CheckpointError, Damaged, Interrupted
from vexp.evaluator.base import (
    EvaluationContext,
    EvaluationScores,
    Evaluator,
    Sample,
    SeparateEvaluator,
)
from vexp.files import (
    append_line,
    names_in,
    read,
    read_bytes,
    read_lines,
    unreadable,
    write_json,
    write_text,
)
from vexp.names import file_name
from vexp.record_json import as_plain
from vexp.runs import provenance
from vexp.runs.build_once import build_once
from vexp.runs.heartbeat import DEFAULT, Timing
from vexp.runs.stop import StopRequest
from vexp.runs.workspace import Reporter, now
from vexp.train import manifest

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec

FORMAT = records.Results.newest
RESULTS, SAMPLES = "results.json", "samples.jsonl"


@dataclass(frozen=True)
class EvaluationUnit:
    """One evaluation of one checkpoint, done or not."""

    label: str  # its name in the config: `evaluator.<label>`
    evaluator: Evaluator
    checkpoint: str  # hash of the checkpoint's content
    protocol: Mapping[str, Any]
    key: str

    @property
    def folder_name(self) -> str:
        return f"{file_name(self.label)}-{self.key}"


def units(run: RunSpec, checkpoint: str) -> list[EvaluationUnit]:
    """The evaluations that a run declares for the checkpoint with this content hash."""
    from vexp.spec.identity import evaluation_key

    found: list[EvaluationUnit] = []
    for label, evaluator in run.evaluator.items():
        protocol, text = _protocol(evaluator, run)
        key = evaluation_key(checkpoint, evaluator.name, protocol, evaluator.version, text)
        found.append(EvaluationUnit(label, evaluator, checkpoint, protocol, key))
    return found


def _protocol(evaluator: Evaluator, run: RunSpec) -> tuple[Mapping[str, Any], str]:
    """The protocol as JSON would bring it back, and its text; the evaluator remembers it."""
    from vexp.config.hashing import written
    from vexp.spec.section_cache import SectionCache

    def asked(run: RunSpec) -> tuple[Mapping[str, Any], str]:
        protocol = json.loads(json.dumps(dict(evaluator.protocol(run))))
        return protocol, written(protocol)

    remembered: dict[str, Any] = getattr(evaluator, "__dict__", {})
    ask: SectionCache[tuple[Mapping[str, Any], str]]
    ask = remembered.setdefault("protocol by what it reads", SectionCache(asked))
    return ask(run)


def find(home: Path, key: str) -> Path | None:
    """The finished evaluation with this key below `home`, whatever its label."""
    names = names_in(home)
    ending = f"-{key}"
    return next((home / n for n in sorted(names) if n.endswith(ending) and n[0] != "."), None)


def missing(run: RunSpec, checkpoint: str, home: Path) -> list[EvaluationUnit]:
    """The declared evaluations of a checkpoint that are not finished; imports no torch."""
    return [unit for unit in units(run, checkpoint) if find(home, unit.key) is None]


def read_results(folder: Path | str) -> records.Results:
    """An evaluation's results.json.

    Raises:
        Damaged: if it is missing, damaged or of a newer format.
    """
    found = read(f"{folder}/{RESULTS}", records.Results)
    if found is None:
        raise Damaged(
            f"{RESULTS} of an evaluation is missing",
            where=str(folder),
            remedy=records.Results.remedy,
        )
    return found


def read_content(folder: Path) -> dict[str, Any]:
    """The same with all that its evaluator wrote into it.

    Raises:
        Damaged: as `read_results`.
    """
    read_results(folder)
    path = folder / RESULTS
    return as_plain(read_bytes(path), records.Results, path)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The scored samples of a finished evaluation; imported ones hold verdicts, no responses.

    Raises:
        Damaged: if a line is, or if there are more or fewer than results.json says.
    """
    path, results = folder / SAMPLES, read_results(folder)
    # Of an imported result there are as many verdicts as its source has, often none.
    expected = None if results.evaluator == "imported" else results.samples
    try:
        lines = [line for line in read_bytes(path).split(b"\n") if line]
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise unreadable(error, path) from error
    rows = [_sample(line, number, path) for number, line in enumerate(lines, start=1)]
    if expected is not None and len(rows) != expected:
        raise _samples_damaged(f"it has {len(rows)} samples, {RESULTS} says {expected}", path)
    return rows


def _sample(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        return as_plain(line, records.SampleRecord, path)
    except Damaged as error:
        raise _samples_damaged(f"line {number}: {error.fault}", path) from error


def _samples_damaged(fault: str, path: Path) -> Damaged:
    return Damaged(f"{SAMPLES} is damaged: {fault}", where=str(path), remedy=records.Results.remedy)


def checkpoint_hash(folder: Path) -> str:
    """Hash of a checkpoint's model files: their names and content, not where they lie.

    `folder` is a model in Hugging Face format, or a checkpoint of ours that holds one.

    Raises:
        CheckpointError: if there is no model.
    """
    model = model_folder(folder)
    return manifest.hash_of(
        {
            path.relative_to(model).as_posix(): manifest.sha256(path)
            for path in model.rglob("*")
            if path.is_file() and manifest.counts(path.name)
        }
    )


def model_folder(folder: Path) -> Path:
    """The folder in Hugging Face format at or below `folder`.

    Raises:
        CheckpointError: if there is none.
    """
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(
        "there is no model here" if folder.is_dir() else "there is no such folder",
        where=str(folder),
        accepted="a folder in Hugging Face format (config.json, weights), or a run's checkpoint",
    )


@dataclass
class Evaluation:
    """Scores units of one checkpoint; the policy is loaded when the first unit needs it."""

    run: RunSpec
    checkpoint: Path | None  # None: the backbone as the run starts it
    home: Path
    reporter: Reporter
    stop: StopRequest
    timing: Timing = DEFAULT
    content: str | None = None  # the checkpoint has to have; None: it was hashed a moment ago
    _loaded: Policy | None = dataclasses.field(default=None, init=False, repr=False)

    def results(self, unit: EvaluationUnit) -> Mapping[str, Any]:
        """The results of one unit, scored now unless they are there.

        Raises:
            Interrupted: on a stop request; what is scored is kept.
        """
        target = find(self.home, unit.key)
        if target is None:
            target = build_once(
                self.home / unit.folder_name,
                functools.partial(self._score, unit),
                what=f"the evaluation {unit.label}",
                note=self.reporter.note,
                stopping=lambda: bool(self.stop),
                timing=self.timing,
            )
        return read_content(target)

    def _score(
        self, unit: EvaluationUnit, work: Path, output: Path, ensure: Callable[[], None]
    ) -> None:
        if self.checkpoint is not None and self.content is not None:
            manifest.check(model_folder(self.checkpoint), self.content)
            self.content = None  # once for all units
        if isinstance(unit.evaluator, SeparateEvaluator):
            return self._score_apart(unit, unit.evaluator, work, output, ensure)
        return self._score_here(unit, work, output, ensure)

    def _score_apart(
        self,
        unit: EvaluationUnit,
        evaluator: SeparateEvaluator,
        work: Path,
        output: Path,
        ensure: Callable[[], None],
    ) -> None:
        """By a process of its own, which needs the memory that a policy here would hold."""
        self._forget_policy()
        started = now()

        def progress(done: int, total: int | None) -> None:
            self.reporter.progress(f"evaluate {unit.label}", done, total, {})

        scored = evaluator.score(
            self.run,
            EvaluationContext(
                checkpoint=self.checkpoint and model_folder(self.checkpoint),
                content=unit.checkpoint,
                work=work,
                progress=progress,
                note=self.reporter.note,
                ensure=ensure,
                stopping=lambda: bool(self.stop),
            ),
        )
        ensure()
        for name, path in scored.files.items():
            shutil.copyfile(path, output / name)
        self._write(unit, scored, output, started)

    def _score_here(
        self, unit: EvaluationUnit, work: Path, output: Path, ensure: Callable[[], None]
    ) -> None:
        started, total = now(), unit.protocol.get("size")
        samples = self._kept(work / SAMPLES)
        correct = sum(sample.correct for sample in samples)
        with self._arithmetic() as device:
            scored = unit.evaluator.samples(self._policy(device), self.run, len(samples))
            for sample in scored:
                ensure()
                append_line(work / SAMPLES, sample.row())
                samples.append(sample)
                correct += sample.correct
                self.reporter.progress(
                    f"evaluate {unit.label}",
                    len(samples),
                    total if isinstance(total, int) else None,
                    {"accuracy": correct / len(samples)},
                )
                if self.stop:
                    raise Interrupted("stopped on request; scored samples are kept")
        metrics = unit.evaluator.metrics(samples)
        self._write(unit, EvaluationScores(samples, metrics), output, started)

    def _kept(self, path: Path) -> list[Sample]:
        """What a former attempt scored; the lines from a damaged one on are scored again."""
        rows, damaged = read_lines(path)
        samples: list[Sample] = []
        for number, row in enumerate(rows, start=1):
            try:
                samples.append(Sample(**row))
            except TypeError:  # a line of another version, or half of one
                damaged = number
                break
        if damaged is not None:
            self.reporter.note(
                f"{path}: line {damaged} is damaged; going on after the {len(samples)} before it"
            )
        if path.exists():
            write_text(path, "".join(map(_line, samples)))
        if samples:
            self.reporter.note(f"going on after {len(samples)} samples that are scored already")
        return samples

    def _arithmetic(self) -> Any:
        from vexp.train.device import arithmetic

        return arithmetic(self.run.compute)

    def _policy(self, device: str) -> Policy:
        if self._loaded is None:
            compute = self.run.compute
            self._loaded = self.run.backbone.load(
                self.checkpoint and model_folder(self.checkpoint),
                device=device,
                precision=compute.precision,
                attention=compute.attention,
            )
        return self._loaded

    def _forget_policy(self) -> None:
        if self._loaded is not None:
            import torch

            self._loaded = None
            gc.collect()
            torch.cuda.empty_cache()

    def _write(
        self, unit: EvaluationUnit, scored: EvaluationScores, output: Path, started: str
    ) -> None:
        from vexp.config.schema import to_dict

        write_text(output / SAMPLES, "".join(map(_line, scored.samples)))
        provenance.record(output, to_dict(self.run), started, diffs=False)
        write_json(
            output / RESULTS,
            {
                "format": FORMAT,
                "name": unit.label,
                "evaluator": unit.evaluator.name,
                "key": unit.key,
                "checkpoint": unit.checkpoint,
                "protocol": masking.stored(unit.protocol),
                "scorer": unit.evaluator.version,
                "vexp": __version__,
                "samples": len(scored.samples),
                "metrics": scored.metrics,
                **scored.about,
            },
        )


def _line(sample: Sample) -> str:
    return json.dumps(sample.row(), ensure_ascii=False, allow_nan=False) + "\n"
