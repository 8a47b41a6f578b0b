"""Ctrl-C and SIGTERM: save and stop, at once the second time, and leave handlers as they were."""

from __future__ import annotations

import os
import re
import signal
import threading

import pytest

from tests.runs.processes import kill, start, wait_for
from vexp.errors import Interrupted
from vexp.runs.stop import StopRequest

RUN = """
    import os, sys
    from tests.runs import stub_training
    stub_training.install()
    from tests.runs.conftest import STUBS, Recorder
    from vexp.spec.resolve import resolve
    from vexp.errors import Interrupted
    from vexp.runs.execute import execute
    from vexp.runs.store import RunStore

    class Prints(Recorder):
        def progress(self, stage, step, total, metrics):
            print(stage, step, flush=True)

    run = resolve([*STUBS, "rl.steps=2000", "checkpoint.every=1000"])
    try:
        execute(run, reporter=Prints(), store=RunStore(sys.argv[1]))
    except Interrupted as error:
        print(error)
        sys.exit(error.exit_code)
    """


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_and_stops(tmp_path, store, monkeypatch, number):
    monkeypatch.setenv("STUB_STEP_S", "0.01")
    process = start(RUN, store.root)
    for line in process.stdout:
        if line == "rl 5\n":
            break
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command goes on from here" in out
    assert "stopping before this step's updates or after them" in error and "Traceback" not in error
    (status,) = store.statuses()
    assert status.state == "stopped"
    last = int(re.search(r"stopped after step (\d+) of 2000", out)[1])
    assert last >= 5
    saved = [p.name for p in status.folder.glob("attempts/0001/checkpoints/*")]
    assert saved == [f"step-{last:06d}"]


def test_a_second_ctrl_c_stops_at_once(tmp_path, store, monkeypatch):
    monkeypatch.setenv("STUB_STEP_S", "600")
    process = start(RUN, store.root)
    wait_for(lambda: store.stages_dir.exists())
    wait_for(lambda: list(store.root.rglob("last")))
    process.send_signal(signal.SIGINT)
    assert (
        "stopping before this step's updates or after them"
        in process.stderr.readline() + process.stderr.readline()
    )
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT  # as Python ends by KeyboardInterrupt
    assert store.statuses()[0].state == "stopped"
    kill(process)


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught, StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.exit_code == 143
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send several
        raise Interrupted("stopped")
    assert caught.value.exit_code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_it_is_harmless():
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
