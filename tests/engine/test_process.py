"""An engine's process: frames both ways, a bounded wait, and no orphan. A child that echoes.

All of it for a process beside this one and for one "on another node", for which `srun` is a script
that starts it here; `tests/slurm` has it with Slurm's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from vexp.engine import _process
from vexp.engine._process import EngineDied, EngineSilent, Process, RemoteProcess

CHILD = """
import sys, time
from pathlib import Path
from vexp.engine._process import ALIVE, Mailbox
inbox = Mailbox(Path(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else None)
print("printed by a library", flush=True)
for tensors, plain in inbox:
    for _ in range(plain.get("alive", 0)):
        time.sleep(0.2)
        inbox.reply(ALIVE)
    if plain.get("die"):
        print("the kernel is gone", file=sys.stderr, flush=True)
        raise SystemExit(3)
    inbox.reply(plain, tensors)
"""


SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A stand-in for Slurm's on the path: it becomes what it is to start."""
    script = tmp_path / "bin" / "srun"
    script.parent.mkdir()
    script.write_text(SRUN)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_LAUNCH_NODE_IPADDR", raising=False)


@pytest.fixture(params=["near", "far"])
def start(request, home, srun):
    """A function that starts the child."""
    command = [sys.executable, "-c", CHILD, str(home)]
    if request.param == "near":
        return lambda: Process(command, home, 60.0)
    return lambda: RemoteProcess(command, home, 60.0, node=1)


@pytest.fixture
def process(start):
    found = start()
    yield found
    found.end()


def test_what_is_sent_comes_back(process):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor([0.5, torch.inf])}
    process.send({"text": "ä"}, tensors)
    found, plain = process.receive()
    assert plain == {"text": "ä"}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_large_messages_pass_in_both_directions_at_once(process):
    """Far more than a pipe holds: neither side may wait for the other to listen."""
    large = torch.randint(0, 255, (5_000_000,), dtype=torch.uint8)
    for number in range(3):
        process.send({"number": number}, {"large": large})
    for number in range(3):
        found, plain = process.receive()
        assert plain == {"number": number} and torch.equal(found["large"], large)


def test_a_sign_of_life_extends_the_wait(process):
    process.send({})
    process.receive()
    process.patience_s = 1.5
    process.send({"alive": 15})
    began = time.monotonic()
    assert process.receive()[1] == {"alive": 15}
    assert time.monotonic() - began > 2.5


def test_one_that_is_killed_is_gone(process):
    process.send({})
    process.receive()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="killed by SIGKILL"):
        process.send({})
        process.receive()


def test_one_that_ends_says_what_it_last_said(process):
    process.send({"die": True})
    with pytest.raises(EngineDied, match="exit code 3; it last said: the kernel is gone"):
        process.receive()


@pytest.mark.parametrize("size", [1, 5_000_000], ids=["receiving", "sending"])
def test_one_that_hangs_is_ended_when_patience_is(process, size):
    process.send({})
    process.receive()
    os.kill(process.pid, signal.SIGSTOP)
    process.patience_s = 0.5
    with pytest.raises(EngineSilent, match=r"no sign of life for 0\.5 s"):
        process.send({}, {"large": torch.zeros(size)})
        process.receive()
    assert not psutil.pid_exists(process.pid)


_PARENT = f"""
import sys
from pathlib import Path
from vexp.engine._process import RemoteProcess, Process
home, far = Path(sys.argv[1]), sys.argv[2:]
command = [sys.executable, "-c", {CHILD!r}, str(home)]
process = RemoteProcess(command, home, 60.0, node=1) if far else Process(command, home, 60.0)
process.send({{}})
process.receive()
print(process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("far", [[], ["far"]], ids=["near", "far"])
def test_when_its_parent_is_killed_it_goes_and_clears_away(home, srun, far):
    command = [sys.executable, "-c", _PARENT, str(home), *far]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        child.wait(20)
    assert not Path(home).exists()


def test_ending_it_ends_it(process):
    process.send({})
    process.receive()
    child = psutil.Process(process.pid)
    process.end()
    assert not child.is_running()


def test_nobody_else_on_the_network_is_taken_for_it(home, srun, monkeypatch):
    """Strangers come first: one with a wrong word, one without any, one that says nothing."""
    plain, strangers = socket.create_server, []
    monkeypatch.setattr(_process, "_LEAVING_S", 0.3)

    def served(*arguments, **settings):
        listener = plain(*arguments, **settings)
        for said in (b"0" * 32, b"", None):
            stranger = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
            strangers.append(stranger)
            if said is not None:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
        return listener

    monkeypatch.setattr(socket, "create_server", served)
    process = RemoteProcess([sys.executable, "-c", CHILD, str(home)], home, 60.0, node=1)
    process.send({"for": "the child"})
    assert process.receive()[1] == {"for": "the child"}
    process.end()
    assert len(strangers) == 3
    for stranger in strangers:
        stranger.close()


def test_one_that_never_connects_is_ended(home, srun):
    began = time.monotonic()
    with pytest.raises(EngineSilent, match=r"no sign of life for 0\.5 s"):
        RemoteProcess(["sh", "-c", "exec sleep 600"], home, 0.5, node=1)
    assert time.monotonic() - began < 15


def test_one_that_ends_before_it_connects_says_why(home, srun):
    child = [sys.executable, "-c", "import sys; sys.exit('there is no such module')"]
    with pytest.raises(EngineDied, match="exit code 1; it last said: there is no such module"):
        RemoteProcess(child, home, 60.0, node=1)


def test_what_slurm_tells_all_steps_is_not_for_it(home, srun):
    """A warning ahead of a time limit, a cancelled job: the run saves first, and may need it."""
    process = RemoteProcess([sys.executable, "-c", CHILD, str(home)], home, 60.0, node=1)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    process.send({"still": "there"})
    assert process.receive()[1] == {"still": "there"}
    process.end()
