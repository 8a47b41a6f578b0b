"""A sweep whose runs are all finished, with curves, scores and kept answers, and no training.

Everything that a run, its data or its config names is hostile.
"""

from __future__ import annotations

import base64
import io
import json
import math
import zlib

from PIL import Image

from vexp.files import append_line, write_json, write_text
from vexp.runs.claim import acquire
from vexp.runs.evaluations import units
from vexp.runs.status import RESULT
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep

HOSTILE = "</script><img src=http://evil.test/x onerror=alert(1)>&amp;\"'`${1}\u2028{{ 7*7 }}$x_1$"
SWEEP = f"""
name: demo
description: {json.dumps(HOSTILE)}
base:
  - "+evaluator.diagnostics={{name: diagnostics, size: 10, points: 4}}"
  - "+evaluator.credit={{name: credit, size: 4}}"
rows:
  grpo: {{label: {json.dumps(HOSTILE)}}}
  dapo: {{label: DAPO, algorithm: dapo}}
axes:
  rl.learning_rate: [1e-5, 1e-4, 1e-3]
seeds: [1, 2]
table:
  title: {json.dumps("Demo " + HOSTILE)}
  baseline: grpo
  columns:
    - {{metric: accuracy, scale: percent}}
    - {{metric: evidence_mass, evaluator: diagnostics}}
"""
TOKENS = ["<think>", "red ", "<script>alert(1)</script>", "\u202eis", "\n", "5", "<|im_end|>"]
STEPS = 130


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), color).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def kept_picture(values):
    """A record in which token t looks at cell t % 4 alone."""
    data = bytes(255 * (t % 4 == cell) for t in range(len(TOKENS)) for cell in range(4))
    return {
        "image": png(),
        "boxes": [[0.5, 0.0, 1.0, 0.5]],
        "tokens": TOKENS,
        "values": values,
        "attention": {
            "layer": 4, "rows": 2, "columns": 2, "most": 1.0,
            "data": base64.b64encode(zlib.compress(data)).decode(),
        },
    }  # fmt: skip


def sample(number, correct=1.0, member=None, **fields):
    name = f"main/test/{number:06d}" + (f"#{member}" if member is not None else "")
    return {
        "id": name, "question": f"Question {number} {HOSTILE}", "answer": "5",
        "response": f"answer {HOSTILE}", "extracted": "<b>5</b>", "correct": correct,
        "tag": "single", "status": "ok", "length": len(TOKENS), "dataset": "main",
        "well_formed": True, "truncated": False,
    } | fields  # fmt: skip


def samples_of(evaluator, shift):
    if evaluator == "diagnostics":
        values = {"image effect": [0.1 * t for t in range(7)], "entropy": [0.0, *[None] * 6]}
        return [
            sample(n, correct=float((n + shift) % 2), gallery=kept_picture(values))
            for n in range(3)
        ] + [sample(3)]
    if evaluator == "credit":
        weights = [1.0, 2.0, -0.5, 1.0, 1.0, 1.5, 1.0]
        tokens = [list(pair) for pair in zip(TOKENS, weights, strict=True)]
        kept = kept_picture({"credit": weights})
        return [
            sample(n, member=m, tokens=tokens, **({"gallery": kept} if m == 0 else {}))
            for n in range(2)
            for m in range(8)
        ]
    return [sample(n) for n in range(12)]


def metrics_of(number):
    found = {"accuracy": 0.5 + number / 100, "evidence_mass": 0.3 + number / 100}
    found |= {"attention_kl/spearman": -0.2 + number / 50}
    found |= {f"wrong/kl_bin_{n}": n / 10 + number / 100 for n in range(1, 6)}
    found |= {f"attention/image/at_{n}": n / 100 + number / 1000 for n in range(1, 5)}
    return {name: {"value": v, "stderr": 0.01, "n": 100} for name, v in found.items()}


def metrics_row(step, number):
    row = {"step": step, "reward": math.sin(step / 20) + number, "accuracy": 0.5}
    return row | {"response_length": 12, "entropy": 2 / step, "entropy/grounded": 1 / step}


def finish(store, planned, number):
    """A finished run with all its evaluations."""
    run = planned.training.run
    claim = acquire(store.open(run, training_id(run)).folder)
    content = {"format": 1, "checkpoint": None, "checkpoint_hash": f"c{number}", "step": STEPS}
    write_json(claim.attempt_dir / RESULT, content)
    rows = [json.dumps(metrics_row(step, number)) for step in range(1, STEPS + 1)]
    write_text(claim.attempt_dir / "metrics.jsonl", "\n".join(rows) + "\n")
    append_line(claim.attempt_dir / "timings.jsonl", {"step": 1, "total_s": 2.0})
    claim.publish()
    home = store.find(training_id(run)).evaluations_dir
    for unit in units(run, f"c{number}"):
        folder = home / unit.folder_name
        folder.mkdir(parents=True)
        lines = map(json.dumps, samples_of(unit.evaluator.name, number))
        write_text(folder / "samples.jsonl", "\n".join(lines) + "\n")
        results = {
            "format": 1, "name": unit.label, "evaluator": unit.evaluator.name, "key": unit.key,
            "scorer": unit.evaluator.version, "checkpoint": f"c{number}",
            "protocol": unit.protocol, "metrics": metrics_of(number),
        }  # fmt: skip
        write_json(folder / "results.json", results)


def finished_sweep(folder, text=SWEEP):
    """The plan of the sweep in `folder` (the current one), all of whose runs are finished."""
    path = folder / "demo.yaml"
    path.write_text(text)
    store = RunStore(folder / "results")
    for number, planned in enumerate(make_plan(read_sweep(path)).runs):
        finish(store, planned, number)
    return make_plan(read_sweep(path))
