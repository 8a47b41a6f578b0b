"""Shared folders are built once, whoever needs them and whoever dies."""

from __future__ import annotations

import signal

import pytest

from tests.runs.processes import kill, output, start, wait_for
from vexp.errors import ClaimLost, Interrupted
from vexp.runs.build_once import build_once, work_area
from vexp.runs.claim import acquire
from vexp.runs.heartbeat import Timing

BUILDER = """
    import sys, time
    from pathlib import Path
    from vexp.runs.build_once import build_once
    from vexp.runs.heartbeat import Timing

    def build(work, output, ensure):
        with (work / "log").open("a") as file:
            file.write(f"{sys.argv[2]}\\n")
        print("building", flush=True)
        time.sleep(float(sys.argv[3]))
        ensure()
        (output / "by").write_text(sys.argv[2])
        (output / "log").write_text((work / "log").read_text())

    def note(text):
        print("note", text, flush=True)

    timing = Timing(0.05, 0.8, 0.02)
    what = "the stage warm_start"
    target = build_once(Path(sys.argv[1]), build, what=what, note=note, timing=timing)
    print("got", (target / "by").read_text())
    """


def write(text: str):
    return lambda work, output, ensure: (output / "text").write_text(text)


def test_what_exists_is_not_built_again(tmp_path):
    target = tmp_path / "stages" / "x"
    for text in ("first", "second"):
        assert build_once(target, write(text), what="x", note=pytest.fail) == target
    assert (target / "text").read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_of_many_processes_one_builds_and_the_others_wait_and_say_so(tmp_path):
    target = tmp_path / "stages" / "x"
    processes = [start(BUILDER, target, n, 1.5) for n in range(8)]
    said = [output(p).splitlines() for p in processes]
    assert sum(lines.count("building") for lines in said) == 1
    assert len({lines[-1] for lines in said}) == 1
    (builder,) = [lines for lines in said if "building" in lines]
    waiting = [line for lines in said for line in lines if line.startswith("note")]
    assert waiting and all(
        line.startswith("note waiting for the stage warm_start, which pid ") for line in waiting
    )
    assert not any(line.startswith("note") for line in builder)
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_waiter_takes_over_from_a_killed_builder_and_inherits_its_work(tmp_path):
    target = tmp_path / "x"
    first = start(BUILDER, target, "first", 600)
    assert first.stdout.readline() == "building\n"
    second = start(BUILDER, target, "second", 0)
    assert second.stdout.readline().startswith("note waiting for")
    kill(first)
    assert output(second).endswith("got second")
    assert (target / "log").read_text() == "first\nsecond\n"


def test_a_sleeping_builder_publishes_nothing_and_uses_what_the_other_built(tmp_path):
    target = tmp_path / "x"
    sleeper = start(BUILDER, target, "sleeper", 0.5)
    assert sleeper.stdout.readline() == "building\n"
    sleeper.send_signal(signal.SIGSTOP)
    assert output(start(BUILDER, target, "other", 0)).endswith("got other")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    sleeper.send_signal(signal.SIGCONT)
    assert output(sleeper).endswith("got other")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_error_publishes_nothing_and_keeps_the_work(tmp_path):
    target = tmp_path / "x"

    def fails(work, output, ensure):
        (work / "half").write_text("half")
        (output / "half").write_text("half")
        raise ValueError("a bug")

    def succeeds(work, output, ensure):
        assert not any(output.iterdir())
        (output / "whole").write_text((work / "half").read_text())

    with pytest.raises(ValueError, match="a bug"):
        build_once(target, fails, what="x", note=pytest.fail)
    assert not target.exists()
    build_once(target, succeeds, what="x", note=pytest.fail)
    assert [p.name for p in target.iterdir()] == ["whole"]


def test_killed_between_publishing_and_renaming(tmp_path):
    """The next one finishes what the killed publisher left."""
    target = tmp_path / "x"
    claim = acquire(work_area(target))
    (claim.attempt_dir / "output").mkdir()
    (claim.attempt_dir / "output" / "text").write_text("whole")
    claim.publish()
    build_once(target, write("again"), what="x", note=pytest.fail)
    assert (target / "text").read_text() == "whole"
    assert not work_area(target).exists()


def test_a_deleted_target_is_built_again(tmp_path):
    """Even if the work area was left behind, published, by a process killed before tidying up."""
    target = tmp_path / "x"
    acquire(work_area(target)).publish()
    build_once(target, write("again"), what="x", note=pytest.fail)
    assert (target / "text").read_text() == "again"


def test_waiting_ends_when_a_stop_is_requested(tmp_path):
    target, notes = tmp_path / "x", []
    claim = acquire(work_area(target), timing=Timing(interval_s=0.05))
    with pytest.raises(Interrupted):
        build_once(
            target, write("x"), what="x", note=notes.append, stopping=lambda: bool(notes),
            timing=Timing(poll_s=0.01),
        )  # fmt: skip
    assert len(notes) == 1
    claim.release("stopped")
    wait_for(lambda: not claim.still_mine())


def test_losing_what_the_build_is_for_ends_it(tmp_path):
    """A run that is taken over while it builds a shared stage must not build it again and again."""
    builds = []

    def build(work, output, ensure):
        builds.append(1)
        raise ClaimLost("another process took the run over", where=str(tmp_path / "run"))

    with pytest.raises(ClaimLost, match="took the run over"):
        build_once(tmp_path / "x", build, what="x", note=pytest.fail)
    assert builds == [1]
    build_once(tmp_path / "x", write("by the new owner"), what="x", note=pytest.fail)
