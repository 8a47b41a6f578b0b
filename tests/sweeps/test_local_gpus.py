"""launcher=local: a GPU for each worker, counted without torch; nothing changes without GPUs."""

from __future__ import annotations

import subprocess

import pytest

from vexp.cli.main import main
from vexp.errors import ConfigError
from vexp.launcher import _gpus
from vexp.launcher.local import Local
from vexp.spec.resolve import resolve

EIGHT = [str(number) for number in range(8)]
LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-c1)
  MIG 3g.20gb     Device  1: (UUID: MIG-c2)
GPU 2: NVIDIA H200 (UUID: GPU-dddd)
"""


@pytest.fixture
def machine(monkeypatch):
    def having(names, visible=None):
        monkeypatch.setattr(_gpus, "installed", lambda: list(names))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return having


@pytest.fixture
def vexp(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        return caught.value.code, *capsys.readouterr()

    return run


def given(launcher):
    numbers = range(1, launcher.workers + 1)
    return [launcher.variables_of(number).get("CUDA_VISIBLE_DEVICES") for number in numbers]


@pytest.mark.parametrize(
    ("names", "visible", "workers", "shares"),
    [
        (EIGHT, None, 2, ["0,1,2,3", "4,5,6,7"]),
        (EIGHT, None, 3, ["0,1", "2,3", "4,5"]),
        (EIGHT, "5,2,7", 3, ["5", "2", "7"]),
        (EIGHT, " 5 , 2 ", 1, ["5,2"]),
        (EIGHT, "3,-1,4", 1, ["3"]),  # CUDA reads up to the first that is none
        (["MIG-c1", "MIG-c2"], None, 2, ["MIG-c1", "MIG-c2"]),
        (["0"], None, 2, [None, None]),  # refused before it comes to that
        (EIGHT, "", 2, ["", ""]),
        ([], None, 2, [None, None]),
        ([], "0", 2, ["0", "0"]),  # as it was
    ],
)
def test_each_worker_has_its_share(machine, names, visible, workers, shares):
    machine(names, visible)
    assert given(Local(workers=workers)) == shares


def test_a_setting_of_the_launcher_is_shared_out_too(machine):
    machine(EIGHT, "0,1")
    assert given(Local(workers=2, environment={"CUDA_VISIBLE_DEVICES": "6,7"})) == ["6", "7"]


@pytest.mark.parametrize(
    ("overrides", "names", "workers", "remedy"),
    [
        ((), ["0"], 2, "set launcher.workers=1"),
        (("compute.processes=4",), EIGHT, 3, "set launcher.workers=2"),
        (("compute.processes=4",), ["0", "1"], 1, "lower compute.processes to 2"),
    ],
)
def test_more_than_there_is_is_refused_with_what_fits(machine, overrides, names, workers, remedy):
    machine(names)
    runs = [resolve([]), resolve(list(overrides))]
    with pytest.raises(ConfigError) as caught:
        Local(workers=workers).check_runs(runs)
    (problem,) = caught.value.problems
    assert remedy in problem.remedy
    assert f"{len(names)} can be used" in problem.what


@pytest.mark.parametrize(
    ("overrides", "names", "workers"),
    [
        ((), EIGHT, 8),
        ((), [], 99),
        (("compute.device=cpu", "compute.processes=2"), ["0"], 4),
        (("compute.processes=4",), EIGHT, 2),
    ],
)
def test_what_fits_is_not_refused(machine, overrides, names, workers):
    machine(names)
    Local(workers=workers).check_runs([resolve(list(overrides))])


def test_the_plan_says_who_gets_what(machine, vexp):
    machine(["0", "1"])
    code, out, _ = vexp("plan", "quickstart")
    assert code == 0
    assert "workers      worker 1 has GPU 0; worker 2 has GPU 1" in out
    machine([])
    assert "workers" not in vexp("plan", "quickstart")[1]


def test_a_launch_that_does_not_fit_starts_nothing(machine, vexp, tmp_path):
    machine(["0"])
    code, _, err = vexp("launch", "quickstart", f"results_dir={tmp_path}", "launcher.workers=2")
    assert code == 2
    assert "set launcher.workers=1" in err
    assert not list(tmp_path.iterdir())


def test_what_nvidia_smi_prints_is_read(monkeypatch, tmp_path):
    assert _gpus.listed(LISTED) == ["0", "MIG-c1", "MIG-c2", "2"]
    assert _gpus.listed("No devices were found\n") == []
    monkeypatch.setattr(_gpus.shutil, "which", lambda _: "/bin/nvidia-smi")
    answer = subprocess.CompletedProcess([], 0, stdout=LISTED)
    monkeypatch.setattr(_gpus.subprocess, "run", lambda *_, **__: answer)
    assert len(_gpus.installed()) == 4
    monkeypatch.setattr(_gpus.shutil, "which", lambda _: None)
    monkeypatch.setattr(_gpus, "_DRIVER", tmp_path / "none")
    assert _gpus.installed() == []
    (tmp_path / "none" / "0000:17:00.0").mkdir(parents=True)
    assert _gpus.installed() == ["0"]
