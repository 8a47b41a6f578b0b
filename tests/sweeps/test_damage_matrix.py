"""Each kind of damage to one of eight finished runs, under every command that reads results.

No traceback, the other seven shown, the damaged one named. The commands run in this process, on
runs that never trained; the sweep is composed once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.sweeps.conftest import Nobody
from tests.sweeps.damage import DAMAGES, Damage, forbidden
from vexp.cli.main import main
from vexp.files import write_json, write_text
from vexp.launcher.local import Local
from vexp.runs.claim import acquire
from vexp.runs.evaluations import units
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.sweeps import plan as plans
from vexp.sweeps.plan import make_plan, refreshed
from vexp.sweeps.reader import read_sweep

SWEEP = """
axes:
  rl.learning_rate: [1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 7e-6, 8e-6]
rows: {grpo: {label: GRPO}}
seeds: [1]
table: {columns: [{metric: accuracy, scale: percent}]}
"""
SCORES = [0.111, 0.222, 0.333, 0.444, 0.555, 0.666, 0.777, 0.888]
BROKEN = 3  # the one of the eight that is damaged
READERS = {"status", "status --json", "plan", "plan --json", "launch", "launch --dry-run", "table",
           "table csv", "retry", "report", "export"}  # fmt: skip
# Commands that have to name the damaged run, by what of it is damaged.
NAMING = {
    "run": READERS | {"clean"},
    "evaluation": READERS,
    "samples": {"export", "report"},
    "progress": {"status"},
}


@dataclass
class Results:
    """Eight finished runs, and what a command says about them."""

    root: Path
    names: list[str]
    calls: int = 0
    aside: Path = field(default=Path())

    @property
    def broken(self) -> Path:
        return self.root / "results" / "runs" / self.names[BROKEN]

    @property
    def whole(self) -> list[str]:
        return [name for place, name in enumerate(self.names) if place != BROKEN]

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error; whatever is no message is raised."""
        self.calls += 1
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(arguments))
            except SystemExit as ended:
                code = int(ended.code or 0)
        return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("matrix")
    before, once = Path.cwd(), pytest.MonkeyPatch()
    os.chdir(root)
    (root / "demo.yaml").write_text(SWEEP)
    once.setattr(os, "fsync", lambda _: None)
    once.setattr(Local, "start", Nobody().start)
    composed = make_plan(read_sweep(root / "demo.yaml"))
    store = RunStore(root / "results")
    for run, score in zip(composed.runs, SCORES, strict=True):
        finish(store, run.training.run, score)
    once.setattr(plans, "make_plan", lambda sweep, config_dirs=(): refreshed(composed))
    found = Results(root, [run.name for run in composed.runs])
    found.call("launch", "demo.yaml")
    found.aside = root / "aside"
    shutil.copytree(found.broken, found.aside)
    yield found
    once.undo()
    os.chdir(before)


def finish(store: RunStore, run, score: float) -> None:
    """Leave what a run that has trained and was evaluated leaves, but for its weights."""
    folder, content = store.open(run, training_id(run)), f"c-{score}"
    claim = acquire(folder.folder)
    own = claim.attempt_dir
    result = {"format": 1, "checkpoint": None, "checkpoint_hash": content, "step": 2}
    write_json(own / "result.json", result)
    write_json(own / "provenance.json", {"format": 1, "seeds": {"seed": 1}})
    write_json(own / "stages.json", [])
    progress = {"stage": "rl", "step": 2, "total": 2, "metrics": {"reward": 0.5}}
    write_json(own / "progress.json", progress)
    rows = "".join(json.dumps({"step": n, "reward": n / 2, "total_s": 1.0}) + "\n" for n in (1, 2))
    write_text(own / "metrics.jsonl", rows)
    write_text(own / "timings.jsonl", rows)
    (own / "checkpoints" / "step-000002").mkdir(parents=True)
    claim.publish()
    (unit,) = units(run, content)
    home = folder.evaluations_dir / unit.folder_name
    sample = {
        "id": "main/test/1", "question": "How many?", "answer": "5", "response": "5", "tag": "",
        "correct": 1.0, "status": "ok", "length": 1, "dataset": "main", "extracted": "5",
        "tokens": [["5", 1.0]],
    }  # fmt: skip
    samples = "".join(json.dumps(sample | {"id": f"main/test/{n}"}) + "\n" for n in range(3))
    write_text(home / "samples.jsonl", samples)
    write_json(
        home / "results.json",
        {
            "format": 1, "name": unit.label, "evaluator": "credit", "key": unit.key,
            "checkpoint": content, "protocol": {"credit": {"name": "vicra"}}, "samples": 3,
            "metrics": {"accuracy": {"value": score, "stderr": 0.01, "n": 3}}, "scorer": "1",
        },
    )  # fmt: skip


def test_all_is_well_without_damage(results):
    for name, arguments in commands(results).items():
        code, out, err = results.call(*arguments)
        assert code == 0, (name, err)
        assert "is damaged" not in out + err, name


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_the_others_are_shown_and_the_damaged_one_is_named(results, damage: Damage):
    shutil.rmtree(results.root / "out", ignore_errors=True)
    with damaged(results, damage):
        for name, arguments in commands(results).items():
            code, out, err = results.call(*arguments)
            check(results, damage, name, code, out, err)


def test_the_matrix_is_large(results):
    assert len(DAMAGES) * len(commands(results)) >= 900


@contextlib.contextmanager
def damaged(results: Results, damage: Damage):
    try:
        damage.do(results.broken)
        with forbidden(damage.forbids and results.broken / damage.forbids):
            yield
    finally:
        if results.broken.is_symlink() or results.broken.is_file():
            results.broken.unlink()
        shutil.rmtree(results.broken, ignore_errors=True)
        shutil.copytree(results.aside, results.broken)


def commands(results: Results) -> dict[str, list[str]]:
    """Name -> arguments of each command that reads results."""
    one, other = results.whole[:2]
    return {
        "status": ["status", "demo.yaml"],
        "status --json": ["status", "demo.yaml", "--json"],
        "plan": ["plan", "demo.yaml"],
        "plan --json": ["plan", "demo.yaml", "--json"],
        "launch": ["launch", "demo.yaml"],
        "launch --dry-run": ["launch", "demo.yaml", "--dry-run"],
        "retry": ["retry", "demo.yaml", "--dry-run"],
        "cancel": ["cancel", "demo.yaml", "--dry-run"],
        "table": ["table", "demo.yaml"],
        "table csv": ["table", "demo.yaml", "--format", "csv"],
        "report": ["report", "demo.yaml", "-o", "out/demo.html"],
        "export": ["export", "out/all"],
        "clean": ["clean"],
        "diff": ["diff", one, other],
        "tokens": ["tokens", one],
        "show": ["show", one],
    }


def check(results: Results, damage: Damage, name: str, code: int, out: str, err: str) -> None:
    """What a command has to say about damage."""
    text = out + err
    assert "Traceback" not in text, text
    broken = results.names[BROKEN]
    naming = name in NAMING.get(damage.level, ())
    assert code == (1 if name == "export" and naming else 0), (name, code, text)
    if naming:
        assert broken in text, f"{name} does not name the damaged run:\n{text}"
        assert broken in err or "--json" in name, (name, err)
    for run in results.whole:
        assert name not in ("plan", "plan --json", "status --json") or run in out
    others = [score for place, score in enumerate(SCORES) if place != BROKEN]
    if name == "table":
        assert all(f"{100 * score:.1f}" in out for score in others), out
    if name == "table csv":
        assert all(f",{score}," in out for score in others), out
    if name == "report":
        page = (results.root / "out" / "demo.html").read_text()
        assert all(f"{100 * score:.1f}" in page for score in others)
    if name == "export":
        index = json.loads((results.root / "out" / "all" / "export.json").read_text())
        assert set(index["runs"]) >= set(results.whole)
    if name.startswith("launch") and damage.level == "run":
        assert "7 done" in out
