"""What one attempt writes, and what it takes over from former ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.conftest import Recorder
from vexp.errors import ClaimLost
from vexp.runs.claim import acquire, live_file
from vexp.runs.stop import StopRequest
from vexp.runs.workspace import RunWorkspace, carried_metrics
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve


def rows(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "reward": step / 3}) + "\n" for step in steps)


@pytest.fixture
def attempt(store, timing):
    """A function that starts the next attempt at one run, the former ones given up."""
    run = resolve([])
    folder = store.open(run, training_id(run))
    claims = []

    def begin(clock=None) -> RunWorkspace:
        for claim in claims:
            claim.release("stopped")
        claims.append(acquire(folder.folder, timing=timing))
        extra = {"clock": clock} if clock else {}
        return RunWorkspace(
            folder, claims[-1], store.stages_dir, Recorder(), StopRequest(), timing, **extra
        )

    yield begin
    for claim in claims:
        claim.release("stopped")


def test_metrics_are_cut_back_to_the_step_training_goes_on_from(attempt):
    first = attempt()
    first.resumed(0)
    for step in range(1, 6):
        first.log_metrics(step, {"reward": step / 3})
        first.log_timing(step, {"total_s": 0.5})
    second = attempt()
    second.resumed(3)
    second.log_metrics(4, {"reward": 4 / 3})
    assert (second.folder / "metrics.jsonl").read_text() == rows(1, 2, 3, 4)
    assert (first.folder / "metrics.jsonl").read_text() == rows(1, 2, 3, 4, 5)
    assert not (second.folder / "timings.jsonl").exists()
    assert second.reporter.notes == []


def test_attempts_that_died_before_training_lose_no_metrics(attempt):
    first = attempt()
    first.resumed(0)
    first.log_metrics(1, {"reward": 1 / 3})
    attempt()  # killed before it called `resumed`
    third = attempt()
    third.resumed(1)
    assert (third.folder / "metrics.jsonl").read_text() == rows(1)
    assert [d.parent.name for d in third.checkpoint_dirs] == ["0003", "0002", "0001"]


def test_a_torn_last_line_is_passed_over_and_said(attempt):
    first = attempt()
    (first.folder / "metrics.jsonl").write_text(rows(1, 2) + '{"step": 3, "rew')
    second = attempt()
    second.resumed(2)
    assert (second.folder / "metrics.jsonl").read_text() == rows(1, 2)
    (note,) = second.reporter.notes
    assert "line 3 is damaged" in note and str(first.folder / "metrics.jsonl") in note
    assert "line 3 is damaged" in (second.folder / "log.txt").read_text()


def test_a_damaged_line_is_taken_from_another_attempt_or_missed_aloud(tmp_path):
    newer, older = tmp_path / "newer", tmp_path / "older"
    newer.write_text(rows(1) + "\x00\x00\n" + rows(3, 4))
    older.write_text(rows(1, 2))
    notes: list[str] = []
    assert "".join(carried_metrics([newer, older], 4, notes.append)) == rows(1, 2, 3, 4)
    assert len(notes) == 1
    notes.clear()
    assert "".join(carried_metrics([newer], 4, notes.append)) == rows(1, 3, 4)
    assert notes[-1] == "no metrics are left of 1 step(s): 2"


@given(st.integers(0, 12), st.integers(0, 12), st.data())
def test_cut_anywhere_what_is_left_is_a_prefix(tmp_path_factory, written, step, data):
    """A file cut at any byte gives the steps that are whole in it, to the byte."""
    text = rows(*range(1, written + 1))
    cut = data.draw(st.integers(0, len(text)))
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    path.write_text(text[:cut])
    whole = sum(len(rows(*range(1, n + 1))) - 1 <= cut for n in range(1, written + 1))
    kept = carried_metrics([path], step, lambda text: None)
    assert "".join(kept) == rows(*range(1, min(whole, step) + 1))


def test_nothing_is_written_after_the_claim_is_lost(attempt):
    workspace = attempt()
    workspace.resumed(0)
    live_file(workspace.run.folder, 1).rename(workspace.run.folder / "claim-0001.expired")
    for write in (
        lambda: workspace.log_metrics(1, {}),
        lambda: workspace.log_timing(1, {}),
        lambda: workspace.progress("rl", 1, 2, {}),
        lambda: workspace.resumed(0),
    ):
        with pytest.raises(ClaimLost):
            write()
    assert (workspace.folder / "metrics.jsonl").read_text() == ""


def test_progress_is_written_now_and_then_and_at_the_end(attempt):
    now = [0.0]
    workspace = attempt(clock=lambda: now[0])
    path = workspace.folder / "progress.json"
    workspace.progress("rl", 1, 3, {"reward": 0.5})
    assert json.loads(path.read_text())["step"] == 1
    now[0] = 0.5
    workspace.progress("rl", 2, 3, {})
    assert json.loads(path.read_text())["step"] == 1
    workspace.progress("rl", 3, 3, {})
    found = json.loads(path.read_text())
    assert (found["stage"], found["step"], found["total"]) == ("rl", 3, 3)
    assert workspace.reporter.steps == [("rl", 1), ("rl", 2), ("rl", 3)]


def test_a_metric_that_is_not_a_number_is_refused(attempt):
    workspace = attempt()
    with pytest.raises(ValueError, match="JSON"):
        workspace.log_metrics(1, {"loss": float("nan")})
