"""The commands about sweeps, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.sweeps.conftest import SMALL
from vexp.cli.main import main
from vexp.sweeps.launch import launch

LAUNCH = "vexp.cli.launch.launcher_of"


@pytest.fixture
def vexp(capsys):
    """A function from arguments to exit code, standard output and standard error."""

    def call(*args):
        with pytest.raises(SystemExit) as caught:
            main(list(args))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


@pytest.fixture
def measured(sweep, plan, fabricate):
    """A sweep file of four runs, of which three are finished."""
    values = (0.5, 0.54, 0.7)
    for run, value in zip(plan(SMALL).runs, values, strict=False):
        fabricate.done(run.training.run, {"accuracy": value, "accuracy/single": value / 2})
    return sweep()


def test_plan_shows_states_and_what_comes_next(vexp, measured):
    code, out, _ = vexp("plan", "small.yaml")
    assert code == 0
    assert "trainings    4 declared: 3 done, 1 new" in out
    assert "evaluations  4 declared: 3 done, 1 new" in out
    assert "new      two seed=2  dapo-digits_vqa-s2-" in out
    assert "1 run of tiny_qwen2_5_vl" in out
    assert "measured on 3 finished runs like them" in out
    assert out.endswith("next: vexp launch small.yaml\n")
    code, out, _ = vexp("plan", "small.yaml", "--json")
    data = json.loads(out)
    assert data["trainings"] == {
        "declared": 4, "done": 3, "running": 0, "failed": 0, "stopped": 0, "new": 1, "orphaned": 0,
    }  # fmt: skip
    assert data["runs"][3]["points"][0]["seed"] == 2


def test_what_no_launch_can_mend_is_not_launched_again(vexp, measured, plan, fabricate):
    fabricate.done(plan(SMALL).runs[3].training.run, {"accuracy": 0.6, "accuracy/single": 0.3})
    (plan(SMALL).runs[0].status.folder / "run.json").write_text("[1]")
    for command in ("plan", "status"):
        code, out, error = vexp(command, "small.yaml")
        assert "damaged: run grpo" in error
        assert out.endswith("next: vexp table small.yaml\n")
    code, out, error = vexp("launch", "small.yaml", "--wait")
    assert code == 1 and "1 damaged" in out
    assert out.endswith("next: vexp table small.yaml\n")


def test_status_shows_progress_failures_and_what_comes_next(vexp, measured, plan, fabricate):
    fabricate.failed(plan(SMALL).runs[3].training.run, RuntimeError("bad luck"), "the traceback\n")
    code, out, _ = vexp("status", "small.yaml")
    assert code == 0
    assert "1 run failed (code): RuntimeError: bad luck" in out
    assert "| the traceback" in out
    assert out.endswith("next: vexp retry small.yaml\n")
    data = json.loads(vexp("status", "small.yaml", "--json")[1])
    assert [run["state"] for run in data["runs"]] == ["done", "done", "done", "failed"]
    assert data["failures"][0]["runs"] == ["two seed=2"]


def test_table_is_printed_and_written_as_markdown(vexp, measured, project):
    code, out, _ = vexp("table", "small.yaml")
    assert code == 0
    assert "52.0 ± 2.8 (n=2)" in out
    assert "35.0 (1/2)" in out
    written = project / "results" / "tables" / "small.md"
    assert "| Row one | 52.0 ± 2.8 (n=2) | 26.0 ± 1.4 (n=2) |" in written.read_text()
    before = written.read_bytes()
    vexp("table", "small.yaml")
    assert written.read_bytes() == before


def test_table_formats_go_to_the_standard_output_or_to_a_folder(vexp, measured, project):
    code, out, err = vexp("table", "small.yaml", "--format", "json")
    assert json.loads(out)["rows"][0]["cells"][0]["n"] == 2
    assert "written: results/tables/small.md" in err
    code, out, _ = vexp("table", "small.yaml", "--format", "csv,json", "--output", "there")
    assert sorted(path.name for path in (project / "there").iterdir()) == [
        "small.csv",
        "small.json",
    ]
    code, _, err = vexp("table", "small.yaml", "--format", "csv,docx")
    assert code == 2
    assert "unknown format 'docx'" in err


def test_an_empty_table_overwrites_nothing(vexp, sweep, project):
    sweep()
    kept = project / "results" / "tables" / "small.md"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    code, out, err = vexp("table", "small.yaml")
    assert code == 0
    assert "0/2" in out
    assert "nothing is evaluated yet" in err
    assert kept.read_text() == "kept"


def test_a_sweep_without_a_table_says_what_to_add(vexp, sweep):
    sweep("rows: {a: []}")
    code, _, err = vexp("table", "small.yaml")
    assert code == 2
    assert "declares no table" in err
    assert "add e.g." in err


def test_launch_and_retry_report_what_they_did(vexp, measured, plan, fabricate, local, monkeypatch):
    fabricate.failed(plan(SMALL).runs[3].training.run, RuntimeError("bad luck"))
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: local(workers=2))
    code, out, _ = vexp("launch", "small.yaml")
    assert code == 0
    assert "small: 4 declared: 3 done, 1 failed" in out
    assert "1 failed; `vexp retry small.yaml` runs them again" in out
    assert out.endswith("next: vexp status small.yaml\n")
    assert "started" not in out
    code, out, _ = vexp("retry", "small.yaml", "--dry-run")
    assert "would leave 1 runs to workers; nothing was done" in out
    code, out, _ = vexp("retry", "small.yaml", "--wait")
    assert code == 0
    assert "started 1 worker, logs in" in out
    assert "two seed=2: done" in out
    assert out.endswith("all runs are done; next: vexp table small.yaml\n")
    code, out, _ = vexp("launch", "small.yaml", "--json")
    assert json.loads(out)["pending"] == 0


def test_waiting_for_a_failing_sweep_exits_1(vexp, sweep, local, monkeypatch):
    sweep("rows: {a: {stages: [rl]}}")
    monkeypatch.setenv("FAKE_1", "fails")
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: local(workers=1))
    code, out, _ = vexp("launch", "small.yaml", "--wait")
    assert code == 1
    assert "1 run failed (code): RuntimeError: no luck" in out
    assert out.endswith("next: vexp retry small.yaml\n")


def test_control_c_ends_the_waiting_not_the_runs(vexp, sweep, local, monkeypatch):
    sweep("rows: {a: {stages: [rl]}}")
    launcher = local(workers=1)
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: launcher)

    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("vexp.sweeps.watch.watch", interrupted)
    code, out, _ = vexp("launch", "small.yaml", "--wait")
    assert code == 130
    assert "no longer waiting; the runs go on" in out
    assert "vexp status small.yaml --live" in out
    assert "vexp cancel small.yaml" in out


def test_cancel_without_workers_says_so(vexp, sweep):
    sweep()
    code, out, _ = vexp("cancel", "small.yaml")
    assert code == 0
    assert "asked 0 workers to stop" in out


def test_mistakes_are_messages_with_exit_code_2(vexp, sweep):
    code, _, err = vexp("plan", "quikstart")
    assert (code, "did you mean 'quickstart'?" in err) == (2, True)
    sweep("rows:\n  a: [rl.stepz=3]\n  b: [algorithm=grp]\n")
    code, _, err = vexp("launch", "small.yaml")
    assert code == 2
    assert "2 problems in this configuration" in err
    assert "small.yaml:2 (row 'a')" in err
    assert "Traceback" not in err


def test_plan_status_and_table_import_no_torch(measured):
    for command in ("plan", "status", "table"):
        script = (
            "import sys\nfrom vexp.cli.main import main\n"
            f"try: main([{command!r}, 'small.yaml'])\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "assert 'torch' not in sys.modules\n"
        )
        subprocess.run(
            [sys.executable, "-c", script], check=True, env=None, stdout=subprocess.DEVNULL
        )


def test_a_held_sweep_says_so_everywhere_and_release_or_retry_end_it(
    vexp, sweep, plan, fabricate, local, monkeypatch
):
    text = "rows: {a: {stages: [rl]}}\nseeds: [1, 2, 3, 4]"
    for run in plan(text).runs[:3]:
        fabricate.failed(run.training.run, RuntimeError("bad luck"))
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: local(workers=1))
    for command in ("plan", "status", "launch"):
        code, out, _ = vexp(command, "small.yaml")
        assert code == 0
        assert "held: the first 3 runs all failed with 'RuntimeError: bad luck" in out
        assert "1 more are held back" in out
        assert "`vexp launch small.yaml --release`" in out
    assert "bad luck" in json.loads(vexp("status", "small.yaml", "--json")[1])["held"]
    assert "bad luck" in json.loads(vexp("plan", "small.yaml", "--json")[1])["held"]
    code, out, _ = vexp("launch", "small.yaml", "--release", "--wait")
    assert "a seed=4: done" in out
    assert plan(text).counts()["failed"] == 3


def test_retry_of_a_kind_or_a_signature(vexp, sweep, plan, fabricate, local, monkeypatch):
    text = "rows: {a: {stages: [rl]}}\nseeds: [1, 2]"
    first, second = (run.training.run for run in plan(text).runs)
    fabricate.failed(first, MemoryError("out of memory"))
    fabricate.failed(second, ValueError("no good"))
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: local(workers=1))
    code, _, err = vexp("retry", "small.yaml", "--kind", "diverged")
    assert code == 2
    assert "oom: MemoryError" in err
    code, out, _ = vexp("retry", "small.yaml", "--kind", "oom", "--json")
    assert json.loads(out)["pending"] == 1
    code, out, _ = vexp("retry", "small.yaml", "--signature", "no good", "--json")
    assert json.loads(out)["pending"] == 1


def test_plan_says_what_is_shared_orphaned_and_needed(vexp, sweep, plan, fabricate, local):
    for run in plan(SMALL).runs[:2]:
        fabricate.done(run.training.run)
    sweep("rows: {one: [algorithm=grpo]}\nseeds: [1, 2]", "other")
    sweep(SMALL)
    launch(plan(SMALL), local(), dry_run=False)
    _, out, _ = vexp("plan", "other.yaml")
    assert "2 of these runs are of sweep small, too: they are not run again" in out
    data = json.loads(vexp("plan", "small.yaml", "--json")[1])
    assert data["evaluations"]["declared"] == 4
    assert data["evaluations"]["orphaned"] == 0
    assert {"backbone", "runs", "bytes_each", "basis"} == data["disk"][0].keys()
