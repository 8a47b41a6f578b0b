"""How ends of runs are told apart and counted, without any cluster: a fake Slurm answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sweeps.conftest import ONE, Nobody
from vexp.launcher.base import Retry, Worker
from vexp.launcher.slurm import Slurm
from vexp.runs.claim import acquire, attempt_folder, read_marks
from vexp.sweeps import arrays, slurm
from vexp.sweeps import supervise as module
from vexp.sweeps.arrays import Batch
from vexp.sweeps.launch import launch
from vexp.sweeps.record_end import Aftermath
from vexp.sweeps.retry_policy import RetryPolicy, ends
from vexp.sweeps.supervise import Ended, Standstill, supervise
from vexp.sweeps.task import why_told


def ended(run, kind, count):
    for _ in range(count):
        claim = acquire(run.folder)
        record = attempt_folder(run.folder, claim.attempt) / "failure.json"
        record.write_text(json.dumps({"kind": kind}))
        claim.release("stopped")


def test_each_kind_is_counted_by_itself_and_only_since_the_last_retry(folder):
    _, run = folder
    policy = RetryPolicy(Retry(timeout=2, infra=1))
    ended(run, "timeout", 2)
    ended(run, "preempted", 5)
    acquire(run.folder).release("expired")  # left no record
    assert ends(run.folder) == ["timeout"] * 2 + ["preempted"] * 5 + ["infra"]
    assert policy.goes_on(run.folder, "timeout")
    assert policy.goes_on(run.folder, "infra")
    ended(run, "timeout", 1)
    assert not policy.goes_on(run.folder, "timeout")
    assert policy.goes_on(run.folder, "timeout", since=1)
    assert not RetryPolicy().goes_on(run.folder, "timeout") or Retry().timeout >= 3
    ended(run, "code", 1)
    assert not RetryPolicy().goes_on(run.folder, "code")


def test_the_policy_that_a_launch_writes_is_the_one_that_workers_read(plan):
    before = plan(ONE)
    launch(before, Nobody())
    launcher = before.points[0].run.launcher
    assert RetryPolicy.read(before.state.folder) == RetryPolicy.of(launcher)
    assert RetryPolicy.read(before.state.folder).stuck_after_s == 3600
    (before.state.folder / "policy.json").write_text("{torn")
    assert RetryPolicy.read(before.state.folder) == RetryPolicy()


def test_an_end_too_many_makes_a_failed_run_that_says_what_to_do(folder, plan):
    _, run = folder
    aftermath = Aftermath(run, RetryPolicy(Retry(oom=1)))
    for allowed in (True, False):
        first = read_marks(run.folder).next
        claim = acquire(run.folder)
        claim.release("stopped")
        assert aftermath.again("oom", "killed: out of memory", first) == allowed
    failure = plan(ONE).runs[0].status.failure
    assert failure.kind == "oom"
    assert "end number 2 of this kind" in failure.message
    assert "micro_batch_size" in failure.message


def test_ends_before_the_run_was_claimed_count_too(folder, plan):
    _, run = folder
    aftermath = Aftermath(run, RetryPolicy(Retry(infra=1)))
    found = [aftermath.again("infra", "no progress", read_marks(run.folder).next) for _ in range(2)]
    assert found == [True, False]
    assert run.status().state == "failed"


def test_an_attempt_that_failed_keeps_its_own_record(folder, fabricate, plan):
    _, run = folder
    first = read_marks(run.folder).next
    fabricate.failed(plan(ONE).runs[0].training.run, MemoryError("at step 3"))
    assert not Aftermath(run, RetryPolicy()).again("oom", "x", first)
    assert run.status().failure.message == "at step 3"
    assert run.status().attempts == 1


SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


FREEZES = """
import os, signal, sys
from pathlib import Path
from vexp.runs.claim import acquire
from vexp.runs.heartbeat import Timing
acquire(Path(sys.argv[1]), timing=Timing(0.05, float(sys.argv[2]), 0.02))
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def often(monkeypatch):
    """Who watches looks ten times as often."""
    monkeypatch.setattr(module, "_LOOK_S", 0.1)
    monkeypatch.setattr(module, "_DYING_S", 0.3)


def test_a_process_that_hangs_is_killed_when_its_claim_says_and_counts_as_infra(tmp_path, often):
    freezes = [sys.executable, "-c", FREEZES, str(tmp_path), "0.5"]
    found = supervise(freezes, tmp_path, stopping=lambda: False, stuck_after_s=3600)
    assert found.code == -signal.SIGKILL
    assert 0.5 <= found.hung_s < 1.5
    kind, message = found.seen()
    assert (kind, message[:24]) == ("infra", "killed: its process hung")


def test_a_process_that_even_sigkill_does_not_end_is_left_behind(tmp_path, often, monkeypatch):
    """One that waits for a dead mount: who watches must not wait with it."""
    freezes = [sys.executable, "-c", FREEZES, str(tmp_path), "0.2"]
    kill, kept = subprocess.Popen.kill, []
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: kept.append(self))
    try:
        assert supervise(freezes, tmp_path, stopping=lambda: False).code == -signal.SIGKILL
    finally:
        kill(kept[0])
        kept[0].wait()


def test_a_stuck_process_is_stopped_and_a_deaf_one_killed(tmp_path):
    found = supervise(SLEEP, tmp_path, stopping=lambda: False, stuck_after_s=0.5)
    assert found.seen() == ("infra", "stopped: no progress for 0 min")
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    begin = time.monotonic()
    found = supervise(
        [sys.executable, "-c", deaf], tmp_path, stopping=lambda: False, stuck_after_s=1.5
    )
    assert found.code == -signal.SIGKILL
    assert found.stuck_s is not None and not found.out_of_memory
    assert time.monotonic() - begin < 20


def test_a_process_that_gets_on_is_left_alone(tmp_path):
    work = (
        "import sys, time, pathlib\n"
        "home = pathlib.Path(sys.argv[1]) / 'attempts/0001'\n"
        "home.mkdir(parents=True)\n"
        "for n in range(8):\n"
        "    (home / 'progress.json').write_text(str(n)); time.sleep(0.5)\n"
    )
    found = supervise(
        [sys.executable, "-c", work, str(tmp_path)],
        tmp_path, stopping=lambda: False, stuck_after_s=3.0,
    )  # fmt: skip
    assert found == Ended(0)


def test_a_heartbeat_is_no_progress(tmp_path):
    home = tmp_path / "attempts/0001"
    home.mkdir(parents=True)
    clock = [0.0]
    still = Standstill(tmp_path, clock=lambda: clock[0])
    still.seconds()
    for second in range(1, 10):
        clock[0] = second
        (home / "heartbeat").write_text(str(second))
        assert still.seconds() == second
    (home / "metrics.jsonl").write_text("{}")
    clock[0] = 11
    assert still.seconds() == 0


def test_a_kill_counts_as_out_of_memory_where_there_is_evidence(tmp_path, monkeypatch):
    kill = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    found = supervise(kill, tmp_path, stopping=lambda: False)
    assert found.seen() == ("infra", "killed by SIGKILL, perhaps for memory")
    fill = "x = bytearray(300 << 20); x[::4096] = bytes([1]) * len(x[::4096])"
    big = f"import os; {fill}; os.kill(os.getpid(), 9)"
    found = supervise(
        [sys.executable, "-c", big], tmp_path, stopping=lambda: False, memory_bytes=300 << 20
    )
    assert found.seen() == ("oom", "killed: out of memory")
    counts = iter([1, 2])
    monkeypatch.setattr("vexp.sweeps.supervise.oom_kills", lambda: next(counts))
    assert supervise(kill, tmp_path, stopping=lambda: False).seen()[0] == "oom"


def test_helpers_of_a_run_do_not_die_of_slurms_warning(tmp_path):
    """SIGUSR2 reaches every process of a job; what a process says about it itself counts."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('alive')"
    assert supervise([sys.executable, "-c", code], tmp_path, stopping=lambda: False).code == 0


@pytest.mark.parametrize(
    ("number", "says", "kind"),
    [
        (signal.SIGUSR2, "JobState=RUNNING RunTime=00:09:00 TimeLimit=00:10:00", "timeout"),
        (signal.SIGUSR2, "JobState=RUNNING RunTime=00:01:00 TimeLimit=00:10:00", "preempted"),
        (signal.SIGUSR2, "JobState=RUNNING RunTime=1-00:00:00 TimeLimit=UNLIMITED", "preempted"),
        (
            signal.SIGTERM,
            "JobState=RUNNING PreemptTime=2026-01-01T00:00:00 RunTime=00:01:00 TimeLimit=01:00:00",
            "preempted",
        ),
        (signal.SIGTERM, "JobState=TIMEOUT PreemptTime=None", "timeout"),
        (signal.SIGTERM, "JobState=CANCELLED PreemptTime=None", "interrupted"),
        (signal.SIGTERM, "JobState=RUNNING PreemptTime=None", "interrupted"),
    ],
)
def test_why_a_task_was_told_to_end(fake, monkeypatch, number, says, kind):
    monkeypatch.setenv("VEXP_SIGNAL_DELAY_S", "60")
    fake("scontrol", f"JobId=7 {says}\n")
    assert why_told(number)[0] == kind


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("OUT_OF_MEMORY", ("failed", "oom")),
        ("TIMEOUT", ("stopped", "timeout")),
        ("CANCELLED by 0", ("stopped", "interrupted")),
        ("FAILED", ("stopped", "infra")),
        ("NODE_FAIL", ("running", None)),  # its processes may live: only silence tells
        ("RUNNING", ("running", None)),
    ],
)
def test_what_slurm_says_of_a_job_that_left_nothing(folder, fake, monkeypatch, state, outcome):
    sweep, run = folder
    _claimed_by_job(run, sweep, monkeypatch)
    fake("sacct", f"12_0|{state}\n")
    arrays.settle(sweep, [])
    status = run.status()
    record = attempt_folder(run.folder, 1) / "failure.json"
    found = json.loads(record.read_text())["kind"] if record.exists() else None
    assert (status.state, found) == outcome
    assert ends(run.folder) == ([] if found is None else [found])


def test_a_job_in_the_queue_is_never_settled(folder, fake, monkeypatch):
    sweep, run = folder
    _claimed_by_job(run, sweep, monkeypatch)
    fake("sacct", "12_0|OUT_OF_MEMORY\n")
    arrays.settle(sweep, [Worker("12_0", Path("log"), run.name)])
    assert run.status().state == "running"


def test_of_jobs_only_those_of_this_sweep_are_ours(folder, fake):
    sweep, run = folder
    Batch("aaa", (run.name,), "code", "12").write(sweep)
    fake(
        "squeue",
        "12_0|RUNNING|n1|None|vexp-aaa.small\n"
        "13_0|RUNNING|n1|None|vexp-bbb.small\n"
        "14|RUNNING|n1|None|notebook|with a bar\n",
    )
    assert [(w.name, w.run, w.node) for w in arrays.live(sweep)] == [("12_0", run.name, "n1")]
    assert [w.name for w in arrays.cancel(sweep)] == ["12_0"]
    assert "scancel --signal=TERM 12_0" in fake.calls.read_text()


def test_without_slurm_one_message_says_so(folder, monkeypatch, tmp_path):
    sweep, _ = folder
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.SlurmError, match="there is no Slurm on this machine"):
        Slurm().start(sweep.folder, 1)
    assert Slurm().alive(sweep.folder) == ()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-02:00:00", 1560), ("00:30:00", 30), ("10:30", 10.5), ("UNLIMITED", None), ("", None)],
)
def test_slurms_times(text, minutes):
    assert slurm.minutes(text) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("gpu:a100:4(S:0-1)", 4), ("gpu:2", 2), ("(null)", 0), ("gpu:a:1,gpu:b:8,nvme:3", 8)],
)
def test_whether_a_node_is_large_enough(gres, gpus):
    node = slurm.Partition("p", None, "8+", "4000+", gres, "3")
    assert node.fits(8, 4000, gpus)
    assert not node.fits(8, 4000, gpus + 1)
    assert not node.fits(9, 4000, 0)
    assert not node.fits(8, 4001, 0)


def test_composing_a_slurm_launcher_imports_neither_submitit_nor_torch():
    code = (
        "import sys\n"
        "from vexp.spec.resolve import resolve\n"
        "run = resolve(['launcher=slurm', 'launcher.partition=gpu', 'launcher.setup=[\"a b\"]'])\n"
        "assert run.launcher.setup == ('a b',)\n"
        "assert not {'submitit', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _claimed_by_job(run, sweep, monkeypatch):
    """As a process in job 12_0 on another machine left it."""
    Batch("aaa", (run.name,), "code", "12").write(sweep)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    claim = acquire(run.folder)
    claim.heartbeat.stop()
    path = run.folder / "claim-0001.json"
    path.write_text(path.read_text().replace(claim.owner.host, "n1"))
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert run.status().state == "running"
