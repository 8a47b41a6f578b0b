"""Ownership: one process at a time, whatever happens to the processes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal

import pytest

from tests.runs.processes import kill, output, start, wait_for
from vexp.errors import ClaimLost, Interrupted
from vexp.runs.claim import Busy, acquire, attempt_folder, live_file, read_marks, read_owner
from vexp.runs.heartbeat import Timing, Watch, beat
from vexp.runs.process_id import Owner

QUICK = Timing(interval_s=0.05, expiry_s=0.6, poll_s=0.02)
OTHER_HOST = {"host": "elsewhere", "boot_id": "b", "pid_space": "", "pid": 7, "started": 1.0}


def foreign(attempt: int, token: str = "t") -> Owner:
    return Owner(attempt=attempt, token=token, **OTHER_HOST)


def claimed_elsewhere(folder, attempt: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    live_file(folder, attempt).write_text(json.dumps(foreign(attempt).to_dict()))
    attempt_folder(folder, attempt).mkdir(parents=True)


def test_a_claim_is_published_once(tmp_path):
    claim = acquire(tmp_path, timing=QUICK)
    (claim.attempt_dir / "weights").write_text("w")
    assert claim.attempt == 1 and claim.still_mine()
    claim.publish()
    assert acquire(tmp_path, timing=QUICK) is None
    assert json.loads((tmp_path / "done.json").read_text())["attempt"] == 1
    assert read_marks(tmp_path).live is None


def test_a_living_owner_is_named(tmp_path):
    claim = acquire(tmp_path, timing=QUICK)
    with pytest.raises(Busy, match=f"pid {os.getpid()} on .*, attempt 1") as caught:
        acquire(tmp_path, timing=QUICK)
    assert str(claim.attempt_dir / "log.txt") in str(caught.value)
    claim.release("stopped")


@pytest.mark.parametrize("ending", ["stopped", "failed"])
def test_a_released_claim_is_taken_as_the_next_attempt(tmp_path, ending):
    acquire(tmp_path, timing=QUICK).release(ending)
    claim = acquire(tmp_path, timing=QUICK)
    assert claim.attempt == 2
    assert read_marks(tmp_path).endings == {1: ending}
    claim.release(ending)


def test_an_owner_on_this_host_that_is_gone_is_replaced_at_once(tmp_path):
    process = start(
        """
        import sys, time
        from pathlib import Path
        from vexp.runs.claim import acquire
        acquire(Path(sys.argv[1]))
        print("mine", flush=True)
        time.sleep(600)
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "mine\n"
    kill(process)
    forever = Timing(interval_s=0.05, expiry_s=1e9, poll_s=0.02)
    claim = acquire(tmp_path, timing=forever, stopping=lambda: pytest.fail("it waited"))
    assert claim.attempt == 2
    assert read_marks(tmp_path).endings == {1: "expired"}
    claim.release("stopped")


def test_a_recycled_process_number_is_not_mistaken_for_the_owner(tmp_path):
    mine = Owner.here(1)
    assert not mine.gone()
    assert Owner(**(mine.to_dict() | {"started": mine.started - 1})).gone()


def test_nothing_is_concluded_from_process_numbers_of_another_host_or_container():
    mine = Owner.here(1).to_dict()
    dead = 2**22 + 1  # larger than any process number
    elsewhere = ({"host": "elsewhere"}, {"boot_id": "b", "machine": "m"}, {"pid_space": "pid:[1]"})
    for other in elsewhere:
        assert not Owner(**(mine | {"pid": dead} | other)).gone()
    assert Owner(**(mine | {"pid": dead})).gone()


@pytest.mark.parametrize("machine", ["", Owner.here(1).machine])
def test_no_process_outlives_a_restart_of_its_host(machine):
    mine = Owner.here(1).to_dict() | {"machine": machine}
    assert Owner(**(mine | {"boot_id": "of yesterday"})).gone()


def test_an_owner_before_a_restart_gets_three_heartbeats_for_copies_share_their_names(tmp_path):
    """Two machines from one image, on one file system: the twin's owner lives."""
    now = [0.0]
    twin = Owner(**(Owner.here(1).to_dict() | {"boot_id": "b", "interval_s": 2, "expiry_s": 60}))
    heartbeat = tmp_path / "heartbeat"
    watch = Watch(Timing(poll_s=0.5), clock=lambda: now[0])

    def verdicts(seconds: int, beats: bool) -> list[str]:
        found = []
        for count in range(2 * seconds):
            now[0] += 0.5
            if beats:
                beat(heartbeat, count)
            found.append(watch.judge(twin, heartbeat))
        return found

    assert set(verdicts(100, beats=True)[1:]) == {"alive"}
    assert verdicts(6, beats=False).index("dead") == 11


def test_an_owner_is_judged_by_what_its_claim_says(tmp_path):
    claim = acquire(tmp_path, timing=Timing(interval_s=0.05, expiry_s=7.0))
    owner = read_owner(tmp_path, 1)
    assert (owner.interval_s, owner.expiry_s) == (0.05, 7.0)
    claim.release("stopped")
    now = [0.0]
    watch = Watch(Timing(expiry_s=1e9, poll_s=0.25), clock=lambda: now[0])
    for _ in range(30):
        verdict = watch.judge(dataclasses.replace(owner, host="elsewhere"), tmp_path / "none")
        now[0] += 0.25
    assert verdict == "dead"


@pytest.mark.parametrize(
    "record",
    [{"expiry_s": "long"}, {"expiry_s": math.inf}, {"pid": "1"}, {"host": 3}, [], "x", None, {}],
)
def test_a_claim_with_nonsense_belongs_to_nobody_that_is_known(record):
    given = Owner.here(1).to_dict() | record if isinstance(record, dict) and record else record
    assert str(Owner.read(given, 3)) == "an unknown host"


def test_a_silent_owner_elsewhere_expires_and_a_moving_one_does_not(tmp_path):
    claimed_elsewhere(tmp_path)
    heartbeat = attempt_folder(tmp_path, 1) / "heartbeat"
    beats = iter(range(10**9))

    def beating() -> bool:
        beat(heartbeat, next(beats))
        return False

    with pytest.raises(Busy, match="pid 7 on elsewhere"):
        acquire(tmp_path, timing=QUICK, stopping=beating)
    claim = acquire(tmp_path, timing=QUICK)  # no beat any more
    assert claim.attempt == 2
    claim.release("stopped")


def test_a_damaged_claim_expires(tmp_path):
    live_file(tmp_path, 1).write_text("{torn")
    claim = acquire(tmp_path, timing=QUICK)
    assert claim.attempt == 2
    claim.release("stopped")


def test_waiting_ends_on_request(tmp_path):
    claimed_elsewhere(tmp_path)
    met = []
    with pytest.raises(Interrupted):
        acquire(tmp_path, timing=Timing(poll_s=0.01), told=met.append, stopping=lambda: bool(met))
    assert met == [foreign(1)]


def test_clocks_do_not_matter_and_a_frozen_watcher_expires_nobody(tmp_path):
    now = [1e9]
    watch = Watch(Timing(expiry_s=10, poll_s=0.25), clock=lambda: now[0])
    heartbeat = tmp_path / "heartbeat"
    beat(heartbeat, 1)
    os.utime(heartbeat, (0, 0))  # written in 1970, says the other host
    assert watch.judge(foreign(1), heartbeat) == "unknown"
    now[0] += 3600  # the watcher was stopped for an hour
    assert watch.judge(foreign(1), heartbeat) == "unknown"
    for _ in range(45):
        now[0] += 0.25
        verdict = watch.judge(foreign(1), heartbeat)
    assert verdict == "dead"
    assert watch.judge(foreign(1, token="another"), heartbeat) == "unknown"


def test_a_late_linker_does_not_reuse_an_ended_number(tmp_path, monkeypatch):
    """It looked when number 1 was free, and dawdled until number 1 had come and gone."""
    from vexp.runs import claim as module

    first = acquire(tmp_path, timing=QUICK)
    first.publish()
    assert module._take(tmp_path, 1, QUICK) is None
    assert not live_file(tmp_path, 1).exists()


def test_of_many_processes_exactly_one_wins(tmp_path):
    """50 processes fight for one folder; the winner publishes, and each other one sees it done."""
    code = """
        import sys, time
        from pathlib import Path
        from vexp.runs.claim import Busy, acquire
        from vexp.runs.heartbeat import Timing
        folder, go = Path(sys.argv[1]), Path(sys.argv[2])
        print("ready", flush=True)
        while not go.exists():
            time.sleep(0.001)
        try:
            claim = acquire(folder, timing=Timing(0.05, 20.0, 0.02))
        except Busy:
            print("busy")
        else:
            if claim is None:
                print("done")
            else:
                time.sleep(1)
                claim.publish()
                print("won", claim.attempt)
        """
    run, go = tmp_path / "run", tmp_path / "go"
    processes = [start(code, run, go) for _ in range(50)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    go.touch()
    said = [output(process, 120) for process in processes]
    assert said.count("won 1") == 1
    assert set(said) <= {"won 1", "busy", "done"}
    assert json.loads((run / "done.json").read_text())["attempt"] == 1
    assert not list(run.glob(".claim-*.tmp"))


def test_of_many_that_take_over_exactly_one_wins(tmp_path):
    """A dead owner; 20 processes notice at once."""
    claimed_elsewhere(tmp_path)
    code = """
        import sys, time
        from pathlib import Path
        from vexp.runs.claim import Busy, acquire
        from vexp.runs.heartbeat import Timing
        try:
            claim = acquire(Path(sys.argv[1]), timing=Timing(0.05, 3.0, 0.02))
            print(claim.attempt, flush=True)
            time.sleep(600)
        except Busy:
            print("busy")
        """
    processes = [start(code, tmp_path) for _ in range(20)]
    wait_for(lambda: sum(p.poll() is not None for p in processes) == 19, 60)
    (winner,) = [p for p in processes if p.poll() is None]
    assert winner.stdout.readline() == "2\n"
    assert read_marks(tmp_path).endings == {1: "expired"}
    assert {output(p) for p in processes if p is not winner} == {"busy"}
    kill(winner)


def test_a_sleeper_changes_nothing_after_it_was_replaced(tmp_path):
    """SIGSTOP past expiry, takeover, publication, SIGCONT: the sleeper gets ClaimLost."""
    code = """
        import sys, time
        from pathlib import Path
        from vexp.errors import ClaimLost
        from vexp.runs.claim import acquire
        from vexp.runs.heartbeat import Timing
        claim = acquire(Path(sys.argv[1]), timing=Timing(0.05, 0.5, 0.02))
        print("mine", flush=True)
        try:
            while True:
                claim.ensure()
                time.sleep(0.01)
        except ClaimLost as lost:
            print(lost.problem.what.partition(" while ")[0])
        try:
            claim.publish()
        except ClaimLost:
            print("publishes nothing")
        claim.release("failed")
        """
    sleeper = start(code, tmp_path)
    assert sleeper.stdout.readline() == "mine\n"
    sleeper.send_signal(signal.SIGSTOP)
    claim = acquire(tmp_path, timing=QUICK)
    assert claim.attempt == 2
    (claim.attempt_dir / "weights").write_text("right")
    claim.publish()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    sleeper.send_signal(signal.SIGCONT)
    assert output(sleeper) == "another process took this over\npublishes nothing"
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    own = attempt_folder(tmp_path, 1) / "heartbeat"  # the sleeper's heart beat until it knew
    assert {**after, own: b""} == {**before, own: b""}
    assert json.loads((tmp_path / "done.json").read_text())["attempt"] == 2


def test_publishing_after_a_takeover_is_refused(tmp_path):
    claim = acquire(tmp_path, timing=QUICK)
    live_file(tmp_path, 1).rename(tmp_path / "claim-0001.expired")
    assert not claim.still_mine()
    with pytest.raises(ClaimLost, match="took this over"):
        claim.publish()
    assert not (tmp_path / "done.json").exists()


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Exception, match="no hard links"):
        acquire(tmp_path, timing=QUICK)
