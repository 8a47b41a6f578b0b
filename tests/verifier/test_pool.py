"""Judging in worker processes: real hangs, real crashes, order, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from vexp.errors import VexpError
from vexp.registry import REGISTRY
from vexp.verifier.base import Verdict
from vexp.verifier.exact import Exact
from vexp.verifier.math_verify import MathVerify
from vexp.verifier.pool import close_all, judge, parent

PLUGIN = '''
"""A verifier that does whatever the response says."""
import os, re, sys, time
from dataclasses import dataclass
from vexp.registry import register
from vexp.verifier.base import Verdict, Verifier

@register("verifier", "NAME")
@dataclass(frozen=True, kw_only=True)
class Obedient(Verifier):
    time_limit_s: float = 1.0
    word: str = "right"

    def prepare(self):
        if self.word == "broken":
            raise RuntimeError("no such word")

    def verdict(self, response, gold):
        print("noise on standard output")
        if response == "sleep":
            time.sleep(1000)
        if response == "spin":
            re.match(r"(a+)+$", "a" * 40 + "b")  # holds the interpreter lock all the while
        if response == "die":
            os._exit(3)
        if response == "raise":
            raise KeyError("oops")
        if response == "hoard":
            bytearray(8 * 2**30)
        if response == "pid":
            return Verdict(1.0, str(os.getpid()))
        if response == "torch":
            return Verdict(1.0, str("torch" in sys.modules))
        return Verdict(float(gold == self.word), response)
'''


@pytest.fixture
def obedient(tmp_path, registry):
    """The plugin's class, loaded from a file as a user's would be."""
    file = tmp_path / "obedient.py"
    file.write_text(PLUGIN.replace("NAME", f"obedient_{tmp_path.name}"))
    registry.load_plugins([file])
    yield registry.get("verifier", f"obedient_{tmp_path.name}")
    close_all()


def children() -> list[int]:
    return [p.pid for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]


def gone(pids, within: float) -> bool:
    end = time.monotonic() + within
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def test_verifiers_without_a_limit_judge_in_process() -> None:
    before = children()
    verdicts = judge(Exact(), ["\\boxed{1}", "\\boxed{2}", "3"], ["1", "1", "1"])
    assert [v.correct for v in verdicts] == [1.0, 0.0, 0.0]
    assert verdicts[2].status == "no_answer"
    assert children() == before
    assert judge(MathVerify(), [], []) == []
    with pytest.raises(ValueError, match="zip"):
        judge(Exact(), ["a"], [])


def test_order_is_kept_and_settings_reach_the_worker(obedient) -> None:
    responses = [f"r{n}" for n in range(50)]
    golds = ["ja" if n % 3 else "nein" for n in range(50)]
    verdicts = judge(obedient(word="ja"), responses, golds)
    assert [v.extracted for v in verdicts] == responses
    assert [v.correct for v in verdicts] == [float(bool(n % 3)) for n in range(50)]


def test_workers_stay_for_the_next_call_and_import_no_torch(obedient) -> None:
    pids = {judge(obedient(), ["pid"], [""])[0].extracted for _ in range(4)}
    assert len(pids) == 1
    assert str(os.getpid()) not in pids
    assert judge(obedient(), ["torch"], [""])[0].extracted == "False"


@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_a_hanging_verdict_is_a_timeout_and_the_rest_goes_on(obedient, how: str) -> None:
    judge(obedient(), ["warm"], [""])
    start = time.monotonic()
    verdicts = judge(obedient(), ["a", how, "b", "c"], ["right"] * 4)
    assert verdicts[1] == Verdict(0.0, None, "timeout")
    assert [v.correct for v in verdicts] == [1.0, 0.0, 1.0, 1.0]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("how", ["die", "raise", "hoard"])
def test_a_crash_is_a_verdict_and_the_rest_goes_on(obedient, how: str) -> None:
    verdicts = judge(obedient(time_limit_s=20.0), ["a", how, "b", how, "c"], ["right"] * 5)
    assert [v.status for v in verdicts] == ["ok", "crashed", "ok", "crashed", "ok"]
    assert [v.correct for v in verdicts] == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_a_worker_killed_while_idle_is_replaced(obedient) -> None:
    pid = int(judge(obedient(), ["pid"], [""])[0].extracted)
    os.kill(pid, signal.SIGKILL)
    assert gone([], 0)
    time.sleep(0.2)
    assert judge(obedient(), ["a"], ["right"]) == [Verdict(1.0, "a")]


def test_a_verifier_that_cannot_start_says_why(obedient) -> None:
    with pytest.raises(VexpError) as caught:
        judge(obedient(word="broken"), ["a"], ["b"])
    assert "cannot start: RuntimeError: no such word" in str(caught.value)
    assert "obedient.py" in str(caught.value)


def test_a_verifier_whose_workers_die_at_once_says_so(obedient, monkeypatch) -> None:
    monkeypatch.setattr(parent, "_START", "import sys; sys.exit(7)")
    with pytest.raises(VexpError, match="exit status 7"):
        judge(obedient(), ["a"], ["b"])


def test_any_answer_gets_a_verdict_from_math_verify() -> None:
    """A tower of powers fills time and memory."""
    verifier = MathVerify(time_limit_s=2.0)
    answers = ["\\frac{1}{2}", "9^{9^{9^{9}}}", "\\frac{", "??", "\\x" * 50, "0.5"]
    verdicts = judge(verifier, [f"\\boxed{{{a}}}" for a in answers], ["0.5"] * len(answers))
    assert [v.correct for v in verdicts] == [1.0, 0, 0, 0, 0, 1.0]
    close_all()


# --- a parent that is interrupted, killed, or just ends

PARENT = """
import sys, time
from vexp.registry import REGISTRY
from vexp.verifier.pool import judge
REGISTRY.load_plugins([sys.argv[1]])
verifier = REGISTRY.get("verifier", sys.argv[2])(time_limit_s=float(sys.argv[3]))
print(*(judge(verifier, ["pid"], [""])[0].extracted for _ in range(1)), flush=True)
for how in sys.argv[4:]:
    if how == "idle":
        time.sleep(1000)
    judge(verifier, [how, how], ["", ""])
"""


def start_parent(tmp_path: Path, obedient, limit: float, *doing: str):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    command = [sys.executable, str(script), str(tmp_path / "obedient.py"), obedient.name]
    process = subprocess.Popen(
        [*command, str(limit), *doing],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    process.stdout.readline()
    deadline = time.monotonic() + 60
    wanted = 1 if not doing or doing[0] == "idle" else min(2, os.cpu_count() or 1)
    pids: list[int] = []
    while len(pids) < wanted and time.monotonic() < deadline and process.poll() is None:
        pids = [child.pid for child in psutil.Process(process.pid).children()]
        time.sleep(0.05)
    time.sleep(0.5 if doing else 0)
    return process, pids


@pytest.mark.parametrize("doing", ["sleep", "spin", "idle"])
def test_an_interrupted_parent_leaves_no_orphans(tmp_path, obedient, doing: str) -> None:
    process, pids = start_parent(tmp_path, obedient, 100.0, doing)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert pids
    assert gone(pids, 5)


@pytest.mark.parametrize("doing", ["spin", "idle"])
def test_a_killed_parent_leaves_no_orphans_for_long(tmp_path, obedient, doing: str) -> None:
    """An idle worker sees its input close; a hanging one is ended by the kernel's alarm."""
    process, pids = start_parent(tmp_path, obedient, 2.0, doing)
    process.kill()
    process.wait(timeout=30)
    assert pids
    assert gone(pids, 15)


def test_a_parent_that_ends_takes_its_workers_along(tmp_path, obedient) -> None:
    process, pids = start_parent(tmp_path, obedient, 100.0, "right", "right", "right")
    process.wait(timeout=60)
    assert process.returncode == 0
    assert gone(pids, 5)


def test_the_plugin_of_a_worker_is_the_users_file(obedient) -> None:
    from vexp.verifier.pool.worker import build, describe

    description = describe(obedient(word="x"))
    assert Path(description["plugin"]).name == "obedient.py"
    assert build(description) == obedient(word="x")
    assert describe(MathVerify())["plugin"] is None
    assert build(describe(MathVerify(time_limit_s=1.5))) == MathVerify(time_limit_s=1.5)
    assert REGISTRY.get("verifier", "exact") is Exact
