"""`vexp run experiment=faithful_mr1`, small: three stages, killed while anchoring, evaluated."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time

import pytest

from vexp.cli.main import main
from vexp.runs.store import RunStore

ARGUMENTS = [
    "experiment=faithful_mr1", "group_filter=none", "backbone.layers=2", "backbone.hidden_size=64",
    "backbone.heads=2", "backbone.vision_depth=1", "backbone.vision_hidden_size=32",
    "backbone.vision_heads=2", "warm_start.steps=2", "warm_start.batch_size=4", "anchor.steps=30",
    "anchor.batch_size=4", "rl.steps=2", "rl.prompts_per_step=2", "rollout.group_size=4",
    "rollout.max_response_length=6", "evaluator.heldout.size=6", "checkpoint.every=1",
    "compute.threads=1", "compute.device=cpu",
    "reward.terms.overlong={name: overlong, buffer: 5}",  # what an untrained policy varies in
]  # fmt: skip


def finished(root):
    """Digests of the models that the run's stages and the run itself ended in, and its samples."""
    (run,) = RunStore(root / "results").runs()
    model = run.model(run.result())
    (samples,) = run.evaluations_dir.glob("heldout-*/samples.jsonl")
    files = [*sorted((root / "results" / "stages").glob("[!.]*/model/*")), *sorted(model.iterdir())]
    digests = {
        f"{f.parent.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
    }
    return digests, samples.read_text()


def test_killed_while_anchoring_it_ends_as_if_nothing_had_happened(tmp_path, monkeypatch):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    parts.mkdir()
    whole.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "vexp", "run", *ARGUMENTS], cwd=parts)
    until = time.monotonic() + 300
    while not list(parts.glob("results/stages/.*anchor*/**/step-00000*/manifest.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(parts.glob("results/stages/anchor-*"))
    for root in (parts, whole):
        monkeypatch.chdir(root)
        with pytest.raises(SystemExit) as ended:
            main(["run", *ARGUMENTS])
        assert ended.value.code == 0
    digests, samples = finished(parts)
    assert (digests, samples) == finished(whole)
    assert len(samples.splitlines()) == 6
    names = {name.partition("-")[0] for name in digests}
    assert names == {"warm_start", "anchor", "step"}
    saved = {name.partition("-")[0] for name in digests if name.endswith("emits.json")}
    assert saved == {"anchor", "step"}
