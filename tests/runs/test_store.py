"""Run folders: found by hash, created once, listed fast, refused when they cannot be trusted."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from tests.runs.processes import ROOT, output, start
from vexp import records
from vexp.config.schema import to_dict
from vexp.errors import RunError
from vexp.runs.claim import acquire, attempt_folder
from vexp.runs.record import check_same_science, flattened
from vexp.runs.store import RunFolder, RunStore
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

HERE = [f"seed={seed}" for seed in range(3)]


@pytest.fixture
def run():
    return resolve([])


def test_a_folder_holds_the_resolved_config_and_gives_the_run_back(store, run):
    folder = store.open(run, training_id(run))
    assert folder.name == training_id(run).name
    record = json.loads((folder.folder / "run.json").read_text())
    assert record["format"] == 1
    assert record["config"]["rl"]["steps"] == run.rl.steps
    assert to_dict(store.load(folder.name).spec()) == to_dict(run)


def test_a_run_is_found_by_its_hash_whatever_its_slug(store, run):
    identity = training_id(run)
    folder = store.open(run, identity)
    renamed = folder.folder.with_name(f"another-slug-{identity.hash}")
    folder.folder.rename(renamed)
    assert store.open(run, identity).folder == renamed
    assert [r.name for r in store.runs()] == [renamed.name]


def test_a_folder_with_another_run_s_record_is_not_that_run(store, monkeypatch):
    one, other = (
        store.open(run, training_id(run)).folder for run in map(resolve, ([], ["seed=2"]))
    )
    (one / "run.json").write_bytes((other / "run.json").read_bytes())
    for reference in (one.name, one, one.name.rpartition("-")[2]):
        with pytest.raises(RunError, match="is of another run"):
            store.load(reference)
    monkeypatch.chdir(other)
    assert store.load(".").spec().seed == 2


def test_references(store):
    runs = [resolve([override]) for override in HERE]
    names = [store.open(run, training_id(run)).name for run in runs]
    for name in names:
        hash_ = name.rpartition("-")[2]
        for reference in (name, hash_, hash_[:8], store.runs_dir / name):
            assert store.load(reference).name == name
    with pytest.raises(RunError, match="there is no run 'nothing'"):
        store.load("nothing")
    with pytest.raises(RunError, match="there is no run ''"):
        store.load("")
    (store.runs_dir / "x-00aa").mkdir()
    (store.runs_dir / "y-00bb").mkdir()
    with pytest.raises(RunError, match="start of several") as caught:
        store.load("00")
    assert "x-00aa, y-00bb" in str(caught.value)


def test_a_close_name_is_suggested(store, run):
    name = store.open(run, training_id(run)).name
    with pytest.raises(RunError, match="did you mean"):
        store.load(name[:-1] + "x")


def test_two_creators_at_once_leave_one_folder(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from vexp.spec.resolve import resolve
        from vexp.spec.identity import training_id
        from vexp.runs.store import RunStore
        run = resolve([])
        identity = training_id(run)
        print("ready", flush=True)
        while not Path(sys.argv[2]).exists():
            pass
        print(RunStore(sys.argv[1]).open(run, identity).name)
        """
    processes = [start(code, tmp_path / "results", tmp_path / "go") for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert len({output(process) for process in processes}) == 1
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert RunFolder(folder).config["seed"] == 1


def test_states_are_read_from_names(store, timing):
    def make(seed: int):
        run = resolve([f"seed={seed}"])
        return store.open(run, training_id(run)).folder

    folders = [make(seed) for seed in range(5)]
    acquire(folders[1], timing=timing).release("stopped")
    acquire(folders[2], timing=timing).release("failed")
    (attempt_folder(folders[2], 1) / "failure.json").write_text('{"kind": "oom"}')
    done = acquire(folders[3], timing=timing)
    (done.attempt_dir / "result.json").write_text('{"checkpoint": null, "checkpoint_hash": "c"}')
    done.publish()
    claim = acquire(folders[4], timing=timing)
    (claim.attempt_dir / "progress.json").write_text('{"step": 3}')
    found = {status.folder: status for status in store.statuses()}
    states = [found[folder].state for folder in folders]
    assert states == ["new", "stopped", "failed", "done", "running"]
    assert [found[folder].attempts for folder in folders] == [0, 1, 1, 1, 1]
    assert found[folders[2]].failure == records.FailureRecord(kind="oom")
    assert found[folders[4]].progress == records.ProgressRecord(step=3)
    assert found[folders[4]].owner == claim.owner
    assert found[folders[4]].silent_s < 60
    claim.release("stopped")


def test_a_run_whose_process_died_is_stopped_not_running(store, run, timing):
    folder = store.open(run, training_id(run)).folder
    claim = acquire(folder, timing=timing)
    claim.heartbeat.stop()
    dead = dict(claim.owner.to_dict()) | {"pid": 2**22 + 1}
    (folder / "claim-0001.json").write_text(json.dumps(dead))
    assert store.statuses()[0].state == "stopped"


def test_stray_files_are_no_runs(store, run):
    store.open(run, training_id(run))
    (store.runs_dir / "notes.txt").write_text("mine")
    (store.runs_dir / "a folder of mine").mkdir()
    (store.runs_dir / ".x.abc.tmp").mkdir()
    (store.runs_dir / training_id(run).name / "notes.txt").write_text("mine")
    assert len(store.statuses()) == len(store.runs()) == 1
    assert RunStore(store.root / "nowhere").statuses() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{torn", "run.json is damaged"),
        ("[]", "run.json is damaged"),
        ('{"format": 1}', "run.json is damaged"),
        ('{"format": 2, "vexp": "9.0", "config": {}, "science": {}}', r"newer vexp \(9.0\)"),
    ],
)
def test_records_that_cannot_be_used(store, run, content, message):
    folder = store.open(run, training_id(run))
    (folder.folder / "run.json").write_text(content)
    with pytest.raises(RunError, match=message) as caught:
        store.open(run, training_id(run))
    assert str(folder.folder) in str(caught.value)
    with pytest.raises(RunError, match=message):
        store.load(folder.name)


def test_differing_keys_are_named_with_both_values(store, run):
    identity = training_id(run)
    folder = store.open(run, identity)
    inputs = json.loads(json.dumps(identity.inputs))
    del inputs["rollout"]["top_p"]
    inputs["algorithm"]["name"] = "dapo"
    inputs["seed"] = 1.0
    with pytest.raises(RunError) as caught:
        check_same_science(folder.folder, dataclasses.replace(identity, inputs=inputs))
    text = str(caught.value)
    assert 'algorithm.name: "grpo" there, "dapo" here' in text
    assert "rollout.top_p: 1.0 there, not set here" in text
    assert "seed: 1 there, 1.0 here" in text  # the hash tells them apart, so does this


def test_flattened():
    tree = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}
    assert flattened(tree) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
    assert flattened({}) == {}


def test_ten_thousand_folders_are_listed_in_seconds_and_without_torch(tmp_path):
    """States come from names; a done run is not even opened."""
    runs = tmp_path / "runs"
    for number in range(2_000):
        folder = runs / f"grpo-digits-s{number}-{number:012x}"
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
        (folder / "done.json").touch()
    code = f"""
import sys, time
from vexp.runs.store import RunStore
start = time.perf_counter()
assert len(RunStore({str(tmp_path)!r}).statuses()) == 2_000
print(time.perf_counter() - start)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0  # ten thousand in two seconds would be 0.4 on an idle machine


@pytest.mark.parametrize(
    "module",
    ["store", "claim", "rows", "exchange", "clean", "execute", "evaluations", "workspace"],
)
def test_nothing_here_imports_torch(module):
    code = f"import sys, vexp.runs.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
