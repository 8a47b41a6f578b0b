"""Progress, remarks and grouped failures."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from vexp.cli.status import SHOWN, command
from vexp.files import write_json
from vexp.records import FailureRecord
from vexp.runs.heartbeat import duration
from vexp.sweeps import status
from vexp.sweeps.show import failures_text, progress_data, progress_table, size
from vexp.sweeps.status import failures, foremost, progress, signature

FIVE = "rows: {a: []}\nseeds: [1, 2, 3, 4, 5]"


def test_progress_of_a_running_run_has_step_metrics_and_time_left(plan, fabricate):
    fabricate.running(plan(FIVE).runs[0].training.run, step=4, total=10, reward=0.5, accuracy=0.25)
    row = progress(plan(FIVE))[0]
    assert (row.stage, row.step, row.total) == ("rl", 4, 10)
    assert row.left_s == pytest.approx(6 * 2.0)
    console = Console(record=True, width=150)
    console.print(progress_table(plan(FIVE), [row]))
    for shown in ("a seed=1", "running", "4/10", "0.500", "0.250", "12s"):
        assert shown in console.export_text(clear=False)
    data = json.loads(json.dumps(progress_data(row)))
    assert data["metrics"] == {"reward": 0.5, "accuracy": 0.25}


def test_a_finished_runs_accuracy_is_that_of_the_table(plan, fabricate):
    """And not the one that the last of its evaluations reported while it was at it."""
    text = f"{FIVE}\nevaluation: {{diagnostics: {{name: diagnostics}}}}"
    run = plan(text).runs[0].training.run
    assert list(run.evaluator) == ["heldout", "diagnostics"]
    fabricate.done(run, {"accuracy": 0.625})
    attempt = plan(text).runs[0].status.folder / "attempts" / "0001"
    write_json(attempt / "progress.json", {"stage": "diagnostics", "metrics": {"accuracy": 0.1}})
    row = progress(plan(text))[0]
    assert row.accuracy == 0.625
    console = Console(record=True, width=150)
    console.print(progress_table(plan(text), [row]))
    assert "0.625" in console.export_text(clear=False)
    assert "0.100" not in console.export_text()
    fabricate.done(plan(text).runs[1].training.run, evaluate=False)
    assert progress(plan(text))[1].accuracy is None


def test_the_supervised_stage_has_a_pace_too(plan, fabricate):
    fabricate.running(plan(FIVE).runs[0].training.run)
    attempt = plan(FIVE).runs[0].status.folder / "attempts" / "0001"
    times = {"started": "2030-01-01T00:00:00+00:00", "updated": "2030-01-01T00:00:30+00:00"}
    at = {"stage": "warm_start", "step": 10, "total": 50, "metrics": {"loss": 1.0}} | times
    write_json(attempt / "progress.json", at)
    assert progress(plan(FIVE))[0].left_s == pytest.approx(120)


def test_a_long_table_shows_what_needs_attention(plan, fabricate):
    runs = [run.training.run for run in plan(FIVE).runs]
    fabricate.done(runs[0])
    fabricate.done(runs[1], evaluate=False)
    fabricate.failed(runs[4], RuntimeError("no"))
    now = plan(FIVE)
    ranked = [run.training.label for run in foremost(now.runs, 4)]
    assert ranked == ["a seed=5", "a seed=3", "a seed=4", "a seed=2"]  # failed, new, not evaluated
    assert foremost(now.runs, 5) is foremost(now.runs, None) is now.runs  # as declared
    console = Console(record=True, width=100)
    console.print(progress_table(now, progress(now, foremost(now.runs, 2)), "; hint"))
    text = console.export_text()
    assert "a seed=5" in text
    assert "a seed=1" not in text
    assert "… 3 more; hint" in text


def test_status_shows_a_hundred_runs_unless_all_are_wanted(sweep, monkeypatch):
    path = sweep(f"rows: {{a: []}}\nseeds: {list(range(1, 104))}")
    looked_at = []
    real = status._progress
    monkeypatch.setattr(status, "_progress", lambda *a: looked_at.append(a) or real(*a))
    shown = CliRunner().invoke(command, [str(path)], catch_exceptions=False).output
    assert len(looked_at) == SHOWN == 100
    assert "… 3 more; --all shows them" in shown
    assert "a seed=103" not in shown
    every = CliRunner().invoke(command, [str(path), "--all"], catch_exceptions=False).output
    assert "a seed=103" in every
    assert "more" not in every
    data = CliRunner().invoke(command, [str(path), "--json"], catch_exceptions=False).output
    assert len(json.loads(data)["runs"]) == 103


def test_a_run_without_a_folder_has_no_progress(plan):
    row = progress(plan(FIVE))[0]
    assert (row.step, row.left_s, row.remark) == (None, None, "")


def test_failures_are_grouped_by_what_they_have_in_common(plan, fabricate):
    runs = [run.training.run for run in plan(FIVE).runs]

    def explode(number):
        raise ValueError(f"tensor {number} has {number * 1.5} rows at 0x7f{number:03d}")

    for number, run in enumerate(runs[:3]):
        try:
            explode(number)
        except ValueError as error:
            fabricate.failed(run, error, traceback=f"Traceback\n  a line\nValueError: {number}\n")
    fabricate.failed(runs[3], RuntimeError("CUDA out of memory"))
    big, small = failures(plan(FIVE).runs)
    assert big.runs == ("a seed=1", "a seed=2", "a seed=3")
    assert "ValueError at test_sweep_status.py" in big.signature
    assert "tensor # has # rows at #" in big.signature
    assert big.traceback == ("Traceback", "  a line", "ValueError: 0")
    assert big.log.read_text().startswith("Traceback")
    assert small.kind == "oom"
    text = failures_text([big, small]).plain
    assert "3 runs failed (code)" in text
    assert "1 run failed (oom)" in text
    assert str(big.log) in text


def test_different_messages_at_one_place_stay_apart():
    def of(message):
        return signature(FailureRecord(signature="ValueError at x.py:3", message=message))

    assert of("3 rows") == of("14 rows")
    assert of("3 rows") != of("3 columns")


def test_remarks_say_what_the_state_does_not(plan, fabricate):
    runs = [run.training.run for run in plan(FIVE).runs]
    fabricate.done(runs[0], evaluate=False)
    fabricate.stopped(runs[1])
    fabricate.failed(runs[2], RuntimeError("first line\nsecond line"))
    plan(FIVE).state.event({"event": "ended", "run": plan(FIVE).runs[1].name, "exit_code": -9})
    remarks = [row.remark for row in progress(plan(FIVE))]
    assert remarks[:4] == [
        "not evaluated yet: heldout",
        "goes on at the next launch (killed by SIGKILL)",
        "first line",
        "",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (190, "3m10s"),
        (7500, "2h05m"),
        (273600, "3d04h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (3_400_000, "3.4 MB"), (2e15, "2000.0 TB")]
)
def test_sizes(count, text):
    assert size(count) == text
