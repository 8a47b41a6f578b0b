"""Slurm that hangs or lies, and jobs that die before vexp begins: a fake Slurm answers."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from tests.runs.processes import end_all, start
from tests.sweeps.conftest import ONE, eventually
from vexp.errors import ClaimLost
from vexp.launcher.base import Worker
from vexp.launcher.slurm import Slurm
from vexp.runs.claim import end_lost
from vexp.runs.heartbeat import BEATS, DEFAULT
from vexp.runs.process_id import _process
from vexp.sweeps import arrays, sbatch, slurm
from vexp.sweeps.batch import Batch
from vexp.sweeps.plan import refreshed
from vexp.sweeps.retry_policy import RetryPolicy, ends
from vexp.sweeps.settle import settle
from vexp.sweeps.status import failures, progress


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    monkeypatch.setattr(arrays, "_answers", {})
    monkeypatch.setattr(arrays.snapshot, "take", lambda folder, plugins: folder / "c0de")
    yield
    end_all()


@pytest.fixture
def quick(monkeypatch):
    """Commands of Slurm get a third of a second."""
    monkeypatch.setattr(slurm, "LIMIT_S", 0.3)


def hangs(fake, name: str, *first: str) -> None:
    """A command that does something, and then nothing any more, nor do those it started."""
    path = fake.calls.with_name(name)
    lines = [
        "#!/bin/sh",
        f'echo "{name} $*" >> {fake.calls}',
        *first,
        f"sleep 600 & echo $! > {path}.pid",
        "wait",
    ]
    path.write_text("\n".join(lines) + "\n")


class Submitting:
    """The launcher's side of a submission, with the real sbatch of PATH."""

    workers, successor = 4, "submit"

    def asking(self, resources):
        return self

    def check(self, logs):
        pass

    def submit(self, logs, name, code, work, count):
        made = sbatch.executor(logs, {"job_name": name, "array_parallelism": 4}, {})
        return made.submit_tasks("true", count)


@pytest.mark.parametrize("command", slurm.COMMANDS)
def test_a_command_that_hangs_is_ended_with_all_it_started(fake, quick, command, folder):
    hangs(fake, command)
    began = time.monotonic()
    with pytest.raises(slurm.Unanswered, match=f"`{command}` did not end in 0 s"):
        slurm.ask(command)
    assert time.monotonic() - began < 1.0
    pid = int(fake.calls.with_name(f"{command}.pid").read_text())
    eventually(lambda: _process(pid) is None, 5)


def test_what_a_hanging_sbatch_did_submit_is_found_by_its_name(fake, quick, folder):
    state, run = folder
    says = fake.calls.with_name("squeue.says")
    name = "$(sed -n 's/^#SBATCH --job-name=//p' $1)"
    hangs(fake, "sbatch", f'echo "77_0|PENDING||None|{name}" > {says}')
    (worker,) = arrays.submit_missing(state, Submitting())
    assert (worker.name, worker.run) == ("77_0", run.name)
    assert arrays.submit_missing(state, Submitting()) == []
    assert fake.calls.read_text().count("sbatch ") == 1


def test_one_that_did_submit_although_it_failed_as_well(fake, folder):
    state, _ = folder
    says = fake.calls.with_name("squeue.says")
    fake("sbatch", code=1)
    path = fake.calls.with_name("sbatch")
    name = "$(sed -n 's/^#SBATCH --job-name=//p' $1)"
    lines = [f'echo "77_0|PENDING||None|{name}" > {says}', "echo 'Socket timed out' >&2", "exit 1"]
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    assert [worker.name for worker in arrays.submit_missing(state, Submitting())] == ["77_0"]


def test_one_of_which_nobody_knows_is_one_message_and_found_later(fake, quick, folder):
    state, run = folder
    hangs(fake, "sbatch")
    with pytest.raises(slurm.SlurmError, match="`sbatch` did not end"):
        arrays.submit_missing(state, Submitting())
    (batch,) = arrays.batches(state)
    assert batch.job is None
    fake("squeue", f"78_0|RUNNING|n1|None|vexp-{batch.name}.small\n")  # the controller was slow
    assert arrays.submit_missing(state, Submitting()) == []
    assert next(arrays.batches(state)).job == "78"
    fake("squeue")  # it has died since, and that is seen, too
    fake("sacct", "78_0|FAILED\n")
    settle(state, [])
    assert ends(run.folder) == ["infra"]


SUBMITS = """
import sys, time
from pathlib import Path
from vexp.sweeps.arrays import submitting
from vexp.sweeps.state import SweepState
with submitting(SweepState(Path(sys.argv[1]))):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_a_second_launch_says_for_whom_it_waits_and_goes_on_within_its_time(
    fake, folder, monkeypatch, capfd
):
    """The first one lives, its heart beats, and it does not get on."""
    state, _ = folder
    process = start(SUBMITS, state.folder.resolve())
    assert process.stdout.readline() == "mine\n"
    monkeypatch.setattr(arrays, "_TURN_S", 2.5)
    fake("sbatch", "Submitted batch job 79\n")
    began = time.monotonic()
    assert len(arrays.submit_missing(state, Submitting())) == 1
    assert 2.5 < time.monotonic() - began < 2.5 + BEATS * DEFAULT.interval_s
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(f"waiting for pid {process.pid} on ")
    assert second.endswith("did not get on for 2s: going on without it")


def test_a_submitter_that_was_thought_dead_submits_nothing(fake, folder):
    state, _ = folder
    fake("sbatch", "Submitted batch job 79\n")
    with arrays.submitting(state) as turn:
        end_lost(turn.folder, turn.attempt)  # by another one
        with pytest.raises(ClaimLost):
            arrays.submit(state, Submitting(), state.queue(), Path("code"), turn)
    assert not fake.calls.exists() or "sbatch" not in fake.calls.read_text()


def test_who_watches_does_not_hang_with_squeue(fake, folder, monkeypatch):
    state, run = folder
    Batch("aaa", (run.name,), "code", "12").write(state)
    fake("squeue", "12_0|RUNNING|n1|None|vexp-aaa.small\n")
    assert [worker.name for worker in Slurm().alive(state.folder)] == ["12_0"]
    hangs(fake, "squeue")
    monkeypatch.setattr(arrays, "_FRESH_S", 0.0)
    monkeypatch.setattr(arrays, "_GLANCE_S", 0.1)
    for _ in range(3):
        began = time.monotonic()
        assert len(Slurm().alive(state.folder)) == 1
        assert time.monotonic() - began < 0.5
    assert fake.calls.read_text().count("squeue") == 2  # one question at a time
    monkeypatch.setattr(arrays, "_PATIENCE_S", 0.0)
    with pytest.raises(slurm.Unanswered):
        Slurm().alive(state.folder)


def test_where_nothing_answers_nothing_is_concluded(fake, quick, folder):
    state, run = folder
    Batch("aaa", (run.name,), "code", "12").write(state)
    hangs(fake, "sacct")
    hangs(fake, "scontrol")
    began = time.monotonic()
    settle(state, [])
    assert run.status().state == "new"
    assert time.monotonic() - began < 1.5  # not once for each job


@pytest.mark.parametrize(
    ("sacct", "scontrol", "counted"),
    [
        ("12_0|FAILED", "", ["infra"]),
        ("12_0|COMPLETED", "", ["infra"]),  # `exit 0` in a line of setup
        ("12_0|OUT_OF_MEMORY", "", ["oom", "oom"]),  # never again: the second one says so
        ("12_0|CANCELLED by 0", "", []),
        ("12_0|PENDING", "", []),
        ("12_0|NODE_FAIL", "", []),
        (None, "JobId=12 JobState=FAILED", ["infra"]),  # without accounting
        (None, "JobId=12 JobState=RUNNING", []),
        (None, "", []),  # it answers, and says nothing
        (None, "error: slurm_load_jobs error: Invalid job id specified", ["infra"]),
        (None, "error: Unable to contact slurm controller", []),
    ],
)
def test_a_job_that_ended_before_vexp_began_counts(fake, folder, sacct, scontrol, counted):
    state, run = folder
    Batch("aaa", (run.name,), "code", "12").write(state)
    fake("sacct", sacct or "", code=int(sacct is None))
    fake("scontrol", scontrol)
    if scontrol.startswith("error"):
        path = fake.calls.with_name("scontrol")
        path.write_text(f"#!/bin/sh\necho {shlex.quote(scontrol)} >&2\nexit 1\n")
    for _ in range(3):  # each task once, however often somebody looks
        settle(state, [])
    assert ends(run.folder) == counted
    assert not list(run.folder.glob("claim-*.json"))


def test_jobs_that_nobody_asked_about_are_left_alone(fake, folder):
    state, run = folder
    Batch("aaa", (run.name,), "code", "12").write(state)
    fake("sacct", "77_0|FAILED\n12_0|FAILED\n78_0|FAILED\n")
    settle(state, [])
    assert ends(run.folder) == ["infra"]


def test_a_task_that_came_as_far_as_vexp_or_was_cancelled_does_not(fake, folder):
    state, run = folder
    fake("sacct", "12_0|FAILED\n13_0|FAILED\n")
    Batch("aaa", (run.name,), "code", "12").write(state)
    Batch.read(state, "aaa").began(state, 0)  # a held sweep: it had nothing to do
    Batch("bbb", (run.name,), "code", "13").write(state)
    fake("squeue", "13_0|PENDING||Priority|vexp-bbb.small\n")
    arrays.cancel(state)
    settle(state, [])
    assert ends(run.folder) == []
    Batch("ccc", (run.name,), "code", "14").write(state)
    settle(state, [Worker("14_0", Path("log"))])  # in the queue
    assert ends(run.folder) == []


def test_after_the_retries_it_is_a_failed_run_that_names_job_and_log(fake, folder, plan):
    state, run = folder
    for number in range(1, RetryPolicy().retry.infra + 2):
        batch = Batch(f"b{number}", (run.name,), "code", str(number))
        batch.write(state)
        log = batch.log(state, f"{number}_0")
        log.parent.mkdir()
        log.write_text("env: '/no/such/python': No such file or directory\n\n")
        fake("sacct", f"{number}_0|FAILED\n")
        settle(state, [])
        (row,) = progress(refreshed(plan(ONE)))
        says = (
            f"job {number}_0 ended in Slurm as FAILED before vexp began; the last line of its log: "
            f"env: '/no/such/python': No such file or directory ({log})"
        )
        assert (row.lost or row.remark).startswith(says)
        expected = "failed" if number == 4 else "stopped"
        assert row.run.state == expected
    (group,) = failures(refreshed(plan(ONE)).runs)
    assert group.kind == "infra"
    assert "before vexp began" in group.traceback[-1]
    assert group.traceback[0] == "env: '/no/such/python': No such file or directory"
    assert arrays.missing(state, []) == []  # no endless submission


@pytest.mark.parametrize("name", ["a%j", "100%", "it's 50%A", "with space", "%%", '"', "ä"])
def test_logs_are_written_into_folders_of_any_name(tmp_path, name):
    made = sbatch.executor(tmp_path / name, {"job_name": "x", "stderr_to_stdout": True}, {})
    made.parameters["map_count"] = 2
    text = made._make_submission_file_text("true", "")
    (line,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
    (path,) = shlex.split(line.removeprefix("#SBATCH --output="))
    assert path == f"{tmp_path}/{name.replace('%', '%%')}/%A_%a_0_log.out"
    srun = next(line for line in text.splitlines() if line.startswith("srun "))
    assert shlex.split(srun)[3] == f"{tmp_path}/{name.replace('%', '%%')}/%A_%a_%t_log.out"


@pytest.mark.parametrize(
    ("name", "what"),
    [("a\\b", "a backslash"), ("a\nb", "a line break"), ("a:b", "a colon")],
)
def test_folders_in_which_jobs_cannot_work_are_refused(fake, tmp_path, name, what):
    with pytest.raises(slurm.SlurmError, match=f"{what} in its name") as caught:
        Slurm().check(tmp_path / name)
    assert "choose another results_dir" in str(caught.value)
