"""Values of `launcher.environment` and of secret variables reach runs, and no file of a sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vexp import masking
from vexp.cli.sweeps import plan_of
from vexp.config.schema import to_dict
from vexp.errors import ConfigError
from vexp.launcher.local import Local
from vexp.launcher.slurm import Slurm
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.sweeps.launch import prepare
from vexp.sweeps.schema import variant_name

SMALL = ["warm_start.steps=1", "rl.steps=1"]
VALUE, SECRET = "value-of-the-launcher", "s3cret-of-the-shell"
OVERRIDES = (f"launcher.environment.MY_SETTING={VALUE}", f"prompt.instruction='say {SECRET}'")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(masking, "_given", {})
    monkeypatch.setenv("MY_API_KEY", SECRET)


def written(folder: Path) -> str:
    """Names and contents of all files."""
    return "".join(f"{p}\n{p.read_text() if p.is_file() else ''}" for p in folder.rglob("*"))


def test_a_sweep_from_the_command_line_keeps_names(project, monkeypatch):
    plan = plan_of("seed=1,2", [*SMALL, *OVERRIDES], (), keep=True)
    for run in plan.runs:
        prepare(run.training, RunStore(project / "results"), plan.state)
    found = written(project / "results")
    assert VALUE not in found and SECRET not in found
    assert "***MY_SETTING***" in found and "say ***MY_API_KEY***" in found
    run = plan.runs[0].training.run
    assert run.prompt.instruction == f"say {SECRET}"
    assert plan.launcher.given() == {"MY_SETTING": VALUE}
    (kept,) = (project / "results" / "sweeps").glob("*.yaml")
    monkeypatch.setattr(masking, "_given", {})  # another process
    again = plan_of(str(kept), [], ())
    assert again.runs[0].training.identity == plan.runs[0].training.identity
    with pytest.raises(ConfigError, match="values of MY_SETTING are kept nowhere"):
        again.launcher.given()
    monkeypatch.setenv("MY_SETTING", "now")
    assert again.launcher.given() == {"MY_SETTING": "now"}
    monkeypatch.delenv("MY_API_KEY")
    with pytest.raises(ConfigError, match="MY_API_KEY, which is not kept"):
        plan_of(str(kept), [], ())


def test_the_id_of_a_run_does_not_depend_on_it(project):
    plain = resolve(SMALL)
    given = resolve([*SMALL, OVERRIDES[0]])
    assert training_id(plain) == training_id(given)
    assert to_dict(given)["launcher"]["environment"] == {"MY_SETTING": "***MY_SETTING***"}


def test_a_run_goes_on_from_its_folder(project, monkeypatch):
    run = resolve([*SMALL, *OVERRIDES])
    folder = RunStore(project / "results").open(run, training_id(run))
    assert SECRET not in written(folder.folder) and VALUE not in written(folder.folder)
    assert folder.spec().prompt.instruction == f"say {SECRET}"
    assert training_id(folder.spec()) == training_id(run)
    RunStore(project / "results").open(run, training_id(run))  # the same science
    monkeypatch.delenv("MY_API_KEY")
    with pytest.raises(ConfigError, match="MY_API_KEY, which is not kept"):
        folder.spec()


def test_names_of_variants_hold_no_secret():
    assert SECRET not in variant_name("s", [f"prompt.instruction={SECRET}"])


def test_a_local_worker_gets_the_values():
    assert Local(environment={"MY_SETTING": VALUE}).variables()["MY_SETTING"] == VALUE


def test_a_script_of_slurm_has_no_value(tmp_path):
    made = Slurm(environment={"MY_SETTING": VALUE})._executor(tmp_path, "x", tmp_path)
    script = made._make_submission_file_text("true", "")
    assert VALUE not in script
    assert 'export MY_SETTING="${VEXP_JOB_MY_SETTING?launcher.environment has not come' in script
    assert made.handed == {"VEXP_JOB_MY_SETTING": VALUE}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("launcher.setup=['export HF_TOKEN=abc']", "HF_TOKEN looks like a secret"),
        ("launcher.setup=['HF_TOKEN=\"abc\" x']", "HF_TOKEN looks like a secret"),
        ("launcher.sbatch={export:'ALL,HF_TOKEN=abc'}", "HF_TOKEN looks like a secret"),
        (
            "launcher.environment={A:b} launcher.sbatch={export:NONE}",
            "would not get launcher.environ",
        ),
        ("launcher.environment={a-b:c}", "'a-b' cannot be the name of a variable"),
    ],
)
def test_what_would_keep_a_value_or_lose_it_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        resolve([*SMALL, "launcher=slurm", *re.split(r" (?=launcher)", settings)])
    assert "abc" not in str(caught.value)


def test_a_reference_to_a_variable_is_no_value():
    settings = "launcher.setup=['export HF_TOKEN=\"$MY_TOKEN\" A_KEY=$(cat x)']"
    assert resolve([*SMALL, "launcher=slurm", settings]).launcher.name == "slurm"


def test_a_search_keeps_names(project):
    from vexp.sweeps.overrides import Override
    from vexp.sweeps.search.study import _pairs

    found = json.dumps(_pairs([Override(f"launcher.environment.A='{VALUE}'", "s.yaml:3")]))
    assert VALUE not in found and "launcher.environment.A=***A***" in found
