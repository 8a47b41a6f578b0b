"""An engine's process: frames both ways, a bounded wait, and no orphan. A child that echoes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from vexp.engine._process import Gone, Process, Silent

CHILD = """
import sys, time
from pathlib import Path
from vexp.engine._process import ALIVE, Inbox
inbox = Inbox(Path(sys.argv[1]))
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


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def process(home):
    found = Process([sys.executable, "-c", CHILD, str(home)], home, 60.0)
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
    with pytest.raises(Gone, match="killed by SIGKILL"):
        process.send({})
        process.receive()


def test_one_that_ends_says_what_it_last_said(process):
    process.send({"die": True})
    with pytest.raises(Gone, match="exit code 3; it last said: the kernel is gone"):
        process.receive()


@pytest.mark.parametrize("size", [1, 5_000_000], ids=["receiving", "sending"])
def test_one_that_hangs_is_ended_when_patience_is(process, size):
    process.send({})
    process.receive()
    os.kill(process.pid, signal.SIGSTOP)
    process.patience_s = 0.5
    with pytest.raises(Silent, match=r"no sign of life for 0\.5 s"):
        process.send({}, {"large": torch.zeros(size)})
        process.receive()
    assert not psutil.pid_exists(process.pid)


_PARENT = f"""
import sys
from pathlib import Path
from vexp.engine._process import Process
home = Path(sys.argv[1])
process = Process([sys.executable, "-c", {CHILD!r}, str(home)], home, 60.0)
process.send({{}})
process.receive()
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_when_its_parent_is_killed_it_goes_and_clears_away(home):
    command = [sys.executable, "-c", _PARENT, str(home)]
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
