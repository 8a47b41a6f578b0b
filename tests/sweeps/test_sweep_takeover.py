"""Nobody waits for the dead: owners, workers and lock holders that vanished or hang."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs.processes import end_all, kill, output, start
from tests.sweeps.conftest import Nobody, eventually
from vexp.annotate.folder import growing
from vexp.errors import StorageError
from vexp.files import read_json, write_json
from vexp.launcher.base import Worker
from vexp.launcher.local import Local
from vexp.runs import lock
from vexp.runs.claim import acquire, attempt_folder, end_lost, live_file, read_marks, read_owner
from vexp.runs.heartbeat import BEATS, DEFAULT, beat
from vexp.runs.process_id import Owner
from vexp.spec.identity import training_id
from vexp.sweeps.launch import launch
from vexp.sweeps.retry_policy import RetryPolicy
from vexp.sweeps.show import silent_lines, workers_lines
from vexp.sweeps.takeover import Takeover
from vexp.sweeps.watch import watch
from vexp.sweeps.worker import next_entry
from vexp.sweeps.worker_slots import Slot, held_slots

ONE = "rows: {a: {stages: [rl]}}"
PROMPT_S = BEATS * DEFAULT.interval_s  # beyond what a state file says, nobody waits longer
OWNER = """
import os, signal, sys, time
from pathlib import Path
from vexp.runs.claim import acquire
from vexp.runs.heartbeat import Timing
acquire(Path(sys.argv[1]), timing=Timing(0.05, float(sys.argv[2]), 0.02))
print("mine", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    end_all()


def claimed(store, run, **owner) -> Path:
    """The heartbeat of a run that a process of another host is at."""
    folder = store.open(run, training_id(run)).folder
    attempt = read_marks(folder).next
    home = attempt_folder(folder, attempt)
    home.mkdir(parents=True)
    known = Owner.here(attempt, interval_s=2.0, expiry_s=60.0).to_dict()
    write_json(live_file(folder, attempt), known | {"host": "elsewhere", "pid": 7} | owner)
    beat(home / "heartbeat", 1)
    return home / "heartbeat"


class Clocked:
    """A takeover under a clock of its own, that is asked every second."""

    def __init__(self, plan, launcher=None, workers=()):
        self.plan, self.now, self.lines, self.workers = plan, 0.0, [], workers
        note = self.lines.append
        self.takeover = Takeover(launcher or Nobody(), note, clock=lambda: self.now)

    def wait(self, seconds: int, each=lambda second: None) -> float | None:
        """When it has taken over; None if it has not."""
        for second in range(seconds):
            self.now += 1.0
            each(second)
            if self.takeover.look(self.plan(ONE), self.workers):
                return self.now
        return None


@pytest.mark.parametrize("mtime_offset_s", [0, -7200, 7200])
def test_a_silent_owner_elsewhere_is_taken_over_whatever_the_clocks_say(
    plan, store, mtime_offset_s
):
    heartbeat = claimed(store, plan(ONE).runs[0].training.run)
    os.utime(heartbeat, (time.time() + mtime_offset_s,) * 2)
    clocked = Clocked(plan)
    assert 60 <= clocked.wait(100) <= 60 + PROMPT_S
    assert clocked.wait(10) is None
    assert clocked.lines == ["a: pid 7 on elsewhere gave no heartbeat for 60 s; taken over"]
    assert plan(ONE).runs[0].state == "stopped"  # the next worker begins it
    assert next_entry(plan(ONE).state).run == heartbeat.parents[2].name
    assert read_json(heartbeat.with_name("failure.json"))["kind"] == "infra"


def test_an_owner_whose_clock_is_ahead_keeps_its_run_while_its_heart_beats(plan, store):
    heartbeat = claimed(store, plan(ONE).runs[0].training.run)

    def beats_late(second):  # a slow file system: one beat in fifty seconds
        if second % 50 == 0:
            beat(heartbeat, second)
        os.utime(heartbeat, (time.time() + 7200,) * 2)

    assert Clocked(plan).wait(300, beats_late) is None


class Ends(Nobody):
    """A launcher that notes which jobs it is to end."""

    def __init__(self):
        self.ended = []

    def end(self, worker):
        self.ended.append(worker.name)


def test_of_a_job_that_hangs_its_task_is_first_to_see_to_it_and_then_who_waits(plan, store):
    claimed(store, plan(ONE).runs[0].training.run, job="12_0")
    launcher, job = Ends(), Worker("12_0", Path("log"), "x")
    assert 60 < Clocked(plan, launcher, [job]).wait(100) <= 60 + PROMPT_S + 1
    assert launcher.ended == ["12_0"]


def test_a_job_that_slurm_has_suspended_only_sleeps(plan, store):
    claimed(store, plan(ONE).runs[0].training.run, job="12_0")
    launcher, job = Ends(), Worker("12_0", Path("log"), "x", state="suspended")
    assert Clocked(plan, launcher, [job]).wait(100) is None
    assert launcher.ended == []


def test_an_owner_whose_job_is_gone_is_judged_as_any_other(plan, store):
    claimed(store, plan(ONE).runs[0].training.run, job="12_0")
    others = [Worker("12_1", Path("log"), "x")]
    assert 60 <= Clocked(plan, workers=others).wait(100) <= 60 + PROMPT_S


def test_the_fourth_time_it_is_a_failed_run(plan, store):
    launch(plan(ONE), Nobody())
    for attempt in (1, 2, 3, 4):
        claimed(store, plan(ONE).runs[0].training.run)
        assert plan(ONE).runs[0].state == "running"
        Clocked(plan).wait(100)
        expected = "stopped" if attempt <= RetryPolicy().retry.infra else "failed"
        assert plan(ONE).runs[0].state == expected
    failure = plan(ONE).runs[0].status.failure
    assert failure.message.startswith("pid 7 on elsewhere gave no heartbeat for 60 s; this was")


def test_what_was_lost_is_started_again_once_and_what_was_stopped_is_not(plan, fabricate, store):
    run = plan(ONE).runs[0].training.run
    fabricate.stopped(run)  # by `vexp cancel`
    assert Clocked(plan).wait(3) is None
    process = start(OWNER, store.open(run, training_id(run)).folder, 60)
    assert process.stdout.readline() == "mine\n"
    kill(process)
    clocked = Clocked(plan)
    assert clocked.wait(3) == 1.0
    assert clocked.lines == ["a: its process is gone; started again"]
    assert clocked.wait(20) is None  # nobody came: the watcher gives up


def test_status_and_launch_name_the_silent_and_what_follows(plan, store, local):
    run = plan(ONE).runs[0].training.run
    heartbeat = claimed(store, run)
    assert launch(plan(ONE), local(workers=1), dry_run=True).pending == 0
    for offset_s, words in (
        (-240, "silent for 4m00s"),
        (3600, "with a heartbeat 1h00m ahead of this machine's clock"),
    ):
        os.utime(heartbeat, (time.time() + offset_s + 0.1,) * 2)
        (line,) = silent_lines(plan(ONE))
        assert line == (
            f"a is claimed by pid 7 on elsewhere, {words}: the next launch watches it, and takes "
            "it over when no heartbeat comes for 1m00s"
        )
        assert launch(plan(ONE), local(workers=1), dry_run=True).pending == 1
    heartbeat.unlink()  # whoever died before the first one
    os.utime(live_file(heartbeat.parents[2], 1), (time.time() - 100,) * 2)
    assert launch(plan(ONE), local(workers=1), dry_run=True).pending == 1


@pytest.mark.survival
@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
def test_waiting_goes_on_when_a_container_is_gone(plan, store, local, end):
    """For real: an owner in a container (process numbers and a host name of its own), stopped or
    killed; its claim grants it two seconds.
    """
    run = plan(ONE).runs[0].training.run
    folder = store.open(run, training_id(run)).folder
    inside = 'hostname box && exec "$0" "$@"'
    command = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c", inside]
    container = subprocess.Popen(
        [*command, sys.executable, "-c", OWNER, str(folder), "2"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if container.stdout.readline() != "mine\n":
        pytest.skip("namespaces need root")
    owner = read_owner(folder, 1)
    assert owner.host == "box" and not owner.gone()
    (child,) = subprocess.check_output(["pgrep", "-P", str(container.pid)], text=True).split()
    launcher, text, began = local(workers=1), io.StringIO(), time.monotonic()
    try:
        os.kill(int(child), end)
        launch(plan(ONE), launcher)
        takeover = Takeover(launcher, text.write)
        done = watch(plan(ONE), launcher, Console(file=text), interval_s=0.2, takeover=takeover)
        assert time.monotonic() - began < 2 + PROMPT_S + 4  # for the worker and its run to start
    finally:
        container.kill()
        container.communicate()
    assert done.complete
    assert "on box gave no heartbeat for 2 s; taken over" in text.getvalue()
    assert read_json(folder / "done.json")["attempt"] == 2


HOLDER = """
import os, signal, sys, time
from pathlib import Path
from vexp.sweeps.worker_slots import Slot
with Slot(Path(sys.argv[1]), 1).held() as hold:
    print(hold is not None, flush=True)
    while hold is not None and hold.mine():
        time.sleep(0.01)
print("left")
"""


@pytest.fixture(params=["locks", "no locks"])
def locks(request, monkeypatch):
    """With and without flock, in this process and those of `start`."""
    if request.param == "no locks":
        _without_locks(monkeypatch, errno.ENOLCK)
    return request.param == "locks"


def _without_locks(monkeypatch, code: int) -> None:
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def _code(text: str, locks: bool) -> str:
    if locks:
        return text
    return f"""
import fcntl
def refuse(*_): raise OSError({errno.ENOLCK}, "No locks available")
fcntl.flock = refuse
{text}"""


def test_a_slot_is_one_workers_and_free_when_that_is_killed(tmp_path, locks):
    slot = Slot(tmp_path, 1)
    process = start(_code(HOLDER, locks), tmp_path)
    assert process.stdout.readline() == "True\n"
    assert slot.holder().owner.pid == process.pid
    with slot.held() as hold:
        assert hold is None
    kill(process)
    assert slot.holder() is None and held_slots(tmp_path) == []
    with slot.held() as hold:
        hold.at("a")
        assert hold.mine() and slot.holder().run == "a"
    assert slot.holder() is None


def test_the_slot_of_a_frozen_worker_is_given_to_another_and_the_sleeper_sees_it(
    plan, tmp_path, locks
):
    launch(plan(ONE), Nobody())
    workers = plan(ONE).state.workers.resolve()
    process, slot = start(_code(HOLDER, locks), workers), Slot(workers, 1)
    assert process.stdout.readline() == "True\n"
    process.send_signal(signal.SIGSTOP)
    clocked = Clocked(plan)
    assert 60 <= clocked.wait(100) <= 60 + PROMPT_S
    (line,) = clocked.lines
    assert line.endswith(f"({slot_owner(process)}) gave no heartbeat for 60 s")
    assert slot.holder() is None
    with slot.held() as hold:
        assert hold.mine()
        process.send_signal(signal.SIGCONT)
        assert output(process) == "left"
        assert hold.mine() and slot.holder().owner.pid == os.getpid()


def slot_owner(process) -> str:
    return f"pid {process.pid} on {os.uname().nodename}"


def test_a_worker_that_freezes_with_its_run_is_watched_together_with_it(plan, store):
    """Both are replaced after one silence, not after two."""
    heartbeat = claimed(store, plan(ONE).runs[0].training.run)
    workers = plan(ONE).state.workers.resolve()
    process = start(HOLDER.replace("while hold", f"hold.at({_name(heartbeat)!r})\n    while hold"),
                    workers)  # fmt: skip
    assert process.stdout.readline() == "True\n"
    eventually(lambda: Slot(workers, 1).holder().run)
    process.send_signal(signal.SIGSTOP)
    clocked = Clocked(plan)
    assert clocked.wait(100) <= 60 + PROMPT_S
    assert clocked.wait(100) <= 60 + PROMPT_S
    assert [line.partition(" ")[0] for line in clocked.lines] == ["a:", "worker"]
    assert Slot(workers, 1).holder() is None
    kill(process)


def test_the_place_of_a_silent_worker_is_kept_while_its_run_goes_on(plan, store):
    heartbeat = claimed(store, plan(ONE).runs[0].training.run)
    workers = plan(ONE).state.workers.resolve()
    process = start(HOLDER.replace("while hold", f"hold.at({_name(heartbeat)!r})\n    while hold"),
                    workers)  # fmt: skip
    assert process.stdout.readline() == "True\n"
    eventually(lambda: Slot(workers, 1).holder().run)
    process.send_signal(signal.SIGSTOP)
    assert Clocked(plan).wait(100, lambda second: beat(heartbeat, second)) is None
    kill(process)


def _name(heartbeat: Path) -> str:
    return heartbeat.parents[2].name


def test_a_launch_that_does_not_wait_sends_a_worker_to_watch_a_silent_one(
    plan, local, monkeypatch, tmp_path
):
    launch(plan(ONE), Nobody())
    workers = plan(ONE).state.workers.resolve()
    process, slot = start(HOLDER, workers), Slot(workers, 1)
    assert process.stdout.readline() == "True\n"
    assert Local(workers=1).alive(workers.parent)[0].state == "running"
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    os.utime(slot.heartbeat, (time.time() - 239.9,) * 2)
    (worker,) = Local(workers=1).alive(workers.parent)
    assert workers_lines([worker], {}) == [
        f"worker {slot.name} ({slot_owner(process)}, silent for 4m00s): another takes its place at "
        "the next launch, when no heartbeat comes for 1m00s"
    ]
    spawned = []
    monkeypatch.setattr(Local, "_spawn", lambda self, state, number, log: spawned.append(number))
    Local(workers=1).start(workers.parent, 1)
    assert spawned == [1]
    # What that worker does, after its minute: here the claim says half a second.
    content = json.loads(slot.path.read_text())
    content["owner"]["expiry_s"] = 0.5
    slot.path.write_text(json.dumps(content))
    with slot.held() as hold:
        assert hold is not None
    kill(process)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_sweep_is_done_where_files_cannot_be_locked(plan, local, store, monkeypatch, code):
    _without_locks(monkeypatch, code)
    with lock.turn(store.root / "x.lock", 5.0) as held:
        assert held is False
    site = store.root.parent / "sitecustomize.py"  # for the workers
    site.write_text(_code("", locks=False).replace(str(errno.ENOLCK), str(code)))
    monkeypatch.setenv("PYTHONPATH", f"{site.parent}:{os.environ['PYTHONPATH']}")
    launch(plan(ONE), local(workers=1))
    eventually(lambda: plan(ONE).complete)
    logs = [path.read_text() for path in plan(ONE).state.workers.glob("*.log")]
    assert logs and "Traceback" not in "".join(logs)


def test_the_frozen_holder_of_a_lock_is_named_and_gone_around(tmp_path, capfd):
    path = tmp_path / "choosing.lock"
    code = """
        import sys, time
        from pathlib import Path
        from vexp.runs.lock import turn
        with turn(Path(sys.argv[1]), 6.0) as held:
            print(held, flush=True)
            time.sleep(600)
        """
    process = start(code, path)
    assert process.stdout.readline() == "True\n"
    process.send_signal(signal.SIGSTOP)
    for patience_s, at_most_s in ((0.3, 0.5), (10.0, 0.1)):  # it is waited for once
        began = time.monotonic()
        with lock.turn(path, patience_s) as held:
            assert not held
        assert time.monotonic() - began < at_most_s
    said = capfd.readouterr().err
    assert f"{path} has been held by {slot_owner(process)} since 2" in said
    assert said.endswith("longer than 0 s: going on without it\n") and said.count("\n") == 1
    assert json.loads(path.read_text())["owner"]["expiry_s"] == 6.0  # so long others wait
    kill(process)
    with lock.turn(path, 10.0) as held:
        assert held


def test_an_annotation_is_refused_by_one_message_where_nothing_keeps_two_apart(
    tmp_path, monkeypatch
):
    """Its journal is written by one process; there a lock is more than a courtesy."""
    _without_locks(monkeypatch, errno.ENOSYS)
    with pytest.raises(StorageError, match="no locks"), growing(tmp_path / "evidence"):
        pass


def test_a_worker_that_waits_for_a_lock_can_be_stopped(tmp_path):
    path = tmp_path / "choosing.lock"
    with lock.turn(path, 1.0), lock.turn(path, 1e9, stopping=lambda: True) as held:
        assert not held


def test_looking_only_reads(plan, fabricate, monkeypatch):
    """As on a read-only file system: nothing is opened for writing."""
    launch(plan(ONE), Nobody())
    workers = plan(ONE).state.workers.resolve()
    process = start(HOLDER, workers)
    assert process.stdout.readline() == "True\n"
    opened = os.open
    opening = io.open

    def only_read(path, mode="r", *more, **named):
        assert set(mode) <= set("rbt"), f"{path} is opened for {mode}"
        return opening(path, mode, *more, **named)

    def flags(path, flags, *more, **named):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return opened(path, flags, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", flags)
        patched.setattr(io, "open", only_read)
        assert len(Local().alive(workers.parent)) == 1
        launch(plan(ONE), Local(), dry_run=True)
    kill(process)


def test_only_one_of_many_that_evict_frees_the_place_of_the_frozen_one(tmp_path):
    """Whoever comes late meets the next worker's file, and puts it back."""
    slot = Slot(tmp_path, 1)
    with slot.held() as hold:
        former = Owner.here(attempt=0)  # the one that was judged, gone since
        slot.evict(former)
        assert hold.mine() and slot.holder().owner.token != former.token
        slot.evict(slot.holder().owner)
        assert not hold.mine()


def test_a_stage_or_a_run_by_hand_waits_no_longer_than_the_claim_says(tmp_path):
    """`vexp run` beside a frozen owner: the claim grants it half a second."""
    process = start(OWNER, tmp_path, 0.5)
    assert process.stdout.readline() == "mine\n"
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    claim = acquire(tmp_path, wait=True)
    assert 0.5 <= time.monotonic() - began < 0.5 + PROMPT_S
    assert claim.attempt == 2 and not end_lost(tmp_path, 1)
    claim.release("stopped")
    kill(process)
