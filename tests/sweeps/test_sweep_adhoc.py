"""Sweeps without a file, as Hydra's multirun has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps.conftest import SMALL
from vexp.cli.main import main
from vexp.errors import ConfigError
from vexp.sweeps.adhoc import adhoc_sweep, is_adhoc
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep


@pytest.fixture
def vexp(capsys):
    """A function from arguments to exit code, standard output and standard error."""

    def call(*args):
        with pytest.raises(SystemExit) as caught:
            main(list(args))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def read(*overrides):
    path, text = adhoc_sweep(overrides)
    return points(read_sweep(path, text=text))


def test_lists_make_axes_seeds_make_seeds_the_rest_is_the_base(project):
    found = read("credit=uniform,vicra", "seed=1,2,3", "rl.steps=7")
    assert [point.label for point in found] == [
        f"credit={credit} seed={seed}" for credit in ("uniform", "vicra") for seed in (1, 2, 3)
    ]
    assert {point.run.rl.steps for point in found} == {7}


def test_values_keep_their_types_through_the_file(project):
    found = read(
        "rl.learning_rate=1e-6,2e-6", "results_dir='null','1'", "rl.max_grad_norm=null,1",
        "stages=[rl],[warm_start,rl]",
    )  # fmt: skip
    assert {p.run.rl.learning_rate for p in found} == {1e-6, 2e-6}
    assert {p.run.results_dir for p in found} == {"null", "1"}
    assert {p.run.rl.max_grad_norm for p in found} == {None, 1.0}
    assert {p.run.stages for p in found} == {("rl",), ("warm_start", "rl")}


def test_hydras_choice_and_range_are_understood(project):
    found = read("seed=range(1,4)", "rl.schedule=choice(linear,cosine)")
    assert {(p.seed, p.run.rl.schedule) for p in found} == {
        (seed, name) for seed in (1, 2, 3) for name in ("linear", "cosine")
    }


def test_a_range_has_the_values_that_are_written_by_hand(project):
    found = read("rl.learning_rate=range(0.1,0.65,0.1)", "seed=1")
    assert [p.run.rl.learning_rate for p in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert found[2].identity == read("rl.learning_rate=0.3", "seed=1")[0].identity


def test_glob_chooses_among_the_options_there_are(project):
    (project / "conf/algorithm").mkdir(parents=True)
    (project / "conf/algorithm/gentle.yaml").write_text("name: dapo")
    found = read("algorithm=glob([g*,dapo],exclude=grpo*)", "seed=1")
    assert [point.axes["algorithm"] for point in found] == ["dapo", "gentle", "gspo"]


@pytest.mark.parametrize(
    ("text", "what", "help_"),
    [
        ("rl.learning_rate=interval(1e-5,1e-3)", "no end of values", "type: float, low: 1e-05"),
        ("rl.learning_rate=tag(t,interval(0,1))", "no end of values", "search: {space:"),
        ("rl.steps=glob(*)", "'rl.steps' has no options", "rl.steps=a,b"),
        ("algorithm=glob(zz*)", "no option of 'algorithm' matches", "dapo"),
        ("seed=range(1,1)", "range is empty", "range(start,stop,step)"),
        ("seed=range(3,1)", "range is empty", "range(start,stop,step)"),
        ("seed=range(1,2,0)", "range has no end", "range(start,stop,step)"),
        ("seed=range(1,inf)", "range has no end", "range(start,stop,step)"),
        ("seed=range(1,1000000000)", "more than 100,000 values", "range(start,stop,step)"),
        ("rl.steps=sort(glob(*))", "this is not an override", ""),
        ("rl.steps=choice()", "this is not an override", ""),
    ],
)
def test_functions_that_name_no_values_are_answered(project, vexp, text, what, help_):
    for command in ("plan", "launch"):
        code, _, err = vexp(command, text)
        assert code == 2
        assert what in err
        assert help_ in err
    assert not (project / "results").exists()


@pytest.mark.parametrize("text", ["x" * 5000, "rl.steps=" + "1" * 5000, "a\0b"])
def test_what_no_path_can_be_is_answered(project, vexp, text):
    code, _, err = vexp("plan", text)
    assert code == 2
    assert len(err) < 2000


def test_line_breaks_of_a_value_stay_within_it(project):
    (point,) = read("prompt.instruction='one\nbase: [rl.steps=7]\u2028two'", "seed=1")
    assert point.run.prompt.instruction == "one\nbase: [rl.steps=7]\u2028two"
    assert point.run.rl.steps != 7


def test_equal_overrides_are_one_sweep_and_others_are_not():
    assert adhoc_sweep(["seed=1,2"]) == adhoc_sweep(["seed=1,2"])
    names = {adhoc_sweep([text])[0] for text in ("rl.steps=1,2", "rl.steps=1_2", "rl.steps=12")}
    assert len(names) == 3
    assert len(adhoc_sweep([f"seed={','.join(map(str, range(200)))}"])[0].name) < 80


def test_a_file_of_that_name_is_a_file(project):
    (project / "a=b").write_text("rows: {a: []}")
    assert not is_adhoc("a=b")
    assert is_adhoc("a=c")
    assert not is_adhoc("quickstart")


def test_mistakes_are_all_reported_and_nothing_is_kept(project, vexp):
    with pytest.raises(ConfigError) as caught:
        adhoc_sweep(["seed=[", "credit=uniform,vicra", "x={"])
    assert len(caught.value.problems) == 2
    code, _, err = vexp("launch", "credit=unifrom,vicra", "rl.stepz=1,2")
    assert code == 2
    assert "did you mean 'uniform'" in err
    assert "no setting 'stepz'" in err
    assert not (project / "results").exists()


def test_launch_keeps_the_sweep_it_ran_as_a_file(vexp, project, local, monkeypatch):
    monkeypatch.setattr("vexp.cli.launch.launcher_of", lambda plan: local(workers=2))
    overrides = ["credit=uniform,entropy", "seed=1,2", "stages=[rl]"]
    code, out, _ = vexp("launch", *overrides, "--dry-run")
    assert (code, (project / "results").exists()) == (0, False)
    code, out, _ = vexp("launch", *overrides, "--wait")
    assert code == 0, out
    (kept,) = (project / "results" / "sweeps").glob("*.yaml")
    assert f"next: vexp table {kept.relative_to(project)}" in out
    assert kept.read_text().startswith(f"# vexp launch {' '.join(overrides)}\n")
    code, out, _ = vexp("launch", *overrides, "--json")
    assert json.loads(out)["pending"] == 0
    for named in (kept.stem, str(kept.relative_to(project))):
        code, out, _ = vexp("status", named, "--json")
        assert json.loads(out)["trainings"]["done"] == 4
    kept.write_text(kept.read_text() + "description: mine\n")
    vexp("launch", *overrides)
    assert kept.read_text().endswith("description: mine\n")  # what the user added stays


def test_watching_in_a_dumb_terminal_prints_lines(project, plan, fabricate):

    for run in plan(SMALL).runs:
        fabricate.done(run.training.run)
    done = subprocess.run(
        [sys.executable, "-m", "vexp", "status", "small.yaml", "--live"],
        cwd=project, capture_output=True, text=True,
        env={**os.environ, "TERM": "dumb", "FORCE_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "one seed=1: done" in done.stdout
    assert "\x1b[" not in done.stdout
    assert Path(project / "small.yaml").is_file()
