"""Processes of a run meet where strangers can neither listen nor speak."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from vexp import network
from vexp.runs import meeting

ROOT = Path(__file__).resolve().parents[2]
JOIN = """
import sys
from vexp.runs.meeting import joined
store = joined(sys.argv[1])
store.add("here", 1)
assert store.get("greeting") == b"hello"
"""


def listening_at() -> set[str]:
    """Where this process listens: host:port."""
    own = {
        os.stat(path).st_ino
        for path in Path("/proc/self/fd").iterdir()
        if path.exists() or os.path.islink(path)
        if os.readlink(path).startswith("socket:")
    }
    found = set()
    for line in Path("/proc/self/net/tcp").read_text().split("\n")[1:-1]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[9]) in own:
            address, port = fields[1].split(":")
            host = socket.inet_ntoa(int(address, 16).to_bytes(4, "little"))
            found.add(f"{host}:{int(port, 16)}")
    return found


def join(address, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", JOIN, address], check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, timeout=60,
    )  # fmt: skip


def test_on_one_machine_nothing_listens_and_only_this_user_gets_in(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    before = listening_at()
    with meeting.held(nodes=1) as met:
        assert listening_at() == before
        place = Path(met.near.removeprefix("file:"))
        met.store.set("greeting", "hello")
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700 and met.far is None
        assert os.environ["GLOO_SOCKET_IFNAME"] == network.loopback_interface()
        done = join(met.near)
        assert done.returncode == 0, done.stderr
        assert met.store.add("here", 0) == 1
    assert not place.parent.exists() and "GLOO_SOCKET_IFNAME" not in os.environ


@pytest.fixture
def nodes(monkeypatch):
    """A meeting of two nodes, both of which are this machine."""
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    with meeting.held(nodes=2) as met:
        met.store.set("greeting", "hello")
        yield met


def test_on_several_nodes_the_word_opens_the_gate(nodes):
    done = join(nodes.far, **nodes.environment)
    assert done.returncode == 0, done.stderr
    assert nodes.store.add("here", 0) == 1


def test_all_of_it_listens_at_one_address_each(nodes):
    assert {at.partition(":")[0] for at in listening_at()} == {"127.0.0.1"}


@pytest.mark.parametrize("said", [b"", b"x" * 32, b"\x00" * 200])
def test_a_stranger_is_not_let_in(nodes, said):
    """Who does not know the word gets nothing, whatever he sends: not even to torch's store."""
    host, _, port = nodes.far.removeprefix("gate:").rpartition(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.settimeout(10)
        assert len(stranger.recv(64)) == 32
        with contextlib.suppress(OSError):
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(64) == b""
    assert not nodes.store.check(["failed"])


def test_torchs_own_client_is_a_stranger(nodes, monkeypatch):
    from datetime import timedelta

    port = int(nodes.far.rpartition(":")[2])
    with pytest.raises(RuntimeError):
        TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=1)).set(
            "failed", "x"
        )
    assert not nodes.store.check(["failed"])


def test_another_word_is_none(nodes):
    with pytest.raises(OSError):
        network.way_through(nodes.far.removeprefix("gate:"), b"another")


def test_an_answer_is_worth_nothing_for_the_next_question(nodes):
    word = nodes.environment[meeting.WORD].encode()
    host, _, port = nodes.far.removeprefix("gate:").rpartition(":")
    with socket.create_connection((host, int(port))) as first:
        answer = network._answer(word, first.recv(32))
    with socket.create_connection((host, int(port))) as second:
        second.settimeout(10)
        second.recv(32)
        second.sendall(answer)
        assert second.recv(1) == b""


def test_silent_strangers_keep_nobody_waiting(nodes):
    host, _, port = nodes.far.removeprefix("gate:").rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(socket.create_connection((host, int(port))))
        began = time.monotonic()
        network.knock(f"{host}:{port}", nodes.environment[meeting.WORD].encode()).close()
        assert time.monotonic() - began < network._PATIENCE_S


def test_the_gate_closes_with_the_meeting(monkeypatch):
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    with meeting.held(nodes=2) as met:
        pass
    with pytest.raises(OSError):
        network.knock(met.far.removeprefix("gate:"), met.environment[meeting.WORD].encode())


def test_an_address_that_is_not_this_machines_is_passed_over(monkeypatch):
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "203.0.113.1")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    with network.node_listener() as listening:
        assert listening.getsockname()[0] == "0.0.0.0"
        assert network.call_address(listening).startswith(f"{socket.gethostname()}:")
