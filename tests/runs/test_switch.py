"""`vexp run --switch`: a run whose engine broke down goes on with another, and says so for ever."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tests.runs.conftest import STUBS, Recorder
from vexp.cli.main import Commands
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError, RunError
from vexp.files import read_json
from vexp.runs import engine_switch, evaluations
from vexp.runs.exchange import export
from vexp.runs.execute import evaluate_run, execute
from vexp.runs.failure import RunFailed
from vexp.runs.imports.exported import import_
from vexp.runs.status import SWITCHES
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id

DECLARED = "engine=vllm"
HELDOUT = "evaluator.real={name:heldout,size:4}"


@pytest.fixture
def broken(stub_run, store, monkeypatch):
    """A run with engine=vllm that ended after step 4; its last checkpoint is of step 3."""
    monkeypatch.setenv("STUB_FAILS_AT", "5")
    with pytest.raises(RunFailed):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store)
    monkeypatch.delenv("STUB_FAILS_AT")
    return store.find(training_id(stub_run(DECLARED)))


def engines(run) -> list[str]:
    """The engine of each attempt."""
    folders = sorted((run.folder / "attempts").iterdir())
    return [read_json(folder / "config.json")["engine"]["name"] for folder in folders]


def invoked(*arguments: str):
    return CliRunner().invoke(Commands(), list(arguments), catch_exceptions=False)


def test_the_run_goes_on_under_its_id_and_the_switch_is_in_its_provenance(stub_run, store, broken):
    reporter = Recorder()
    outcome = execute(stub_run(DECLARED), reporter=reporter, store=store, engine=HF())
    assert outcome.state == "finished" and outcome.run.folder == broken.folder
    assert [step for stage, step in reporter.steps if stage == "rl"] == [4, 5, 6, 7]
    assert engines(broken) == ["vllm", "hf"]
    assert broken.config["engine"]["name"] == "vllm"  # what it was declared as
    (found,) = read_json(broken.folder / "attempts" / "0002" / "provenance.json")["switches"]
    assert (found["step"], found["from"]["name"], found["to"]["name"]) == (3, "vllm", "hf")
    assert "switches" not in read_json(broken.folder / "attempts" / "0001" / "provenance.json")
    told = "mixed: engine=hf from step 4 on (engine=vllm before)"
    assert engine_switch.mixed(broken.folder) == told and told in reporter.notes


def test_afterwards_the_plain_command_goes_on_with_the_new_engine(
    stub_run, store, broken, monkeypatch
):
    monkeypatch.setenv("STUB_FAILS_AT", "7")
    with pytest.raises(RunFailed):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    monkeypatch.delenv("STUB_FAILS_AT")
    execute(stub_run(DECLARED), reporter=Recorder(), store=store)
    assert engines(broken) == ["vllm", "hf", "hf"]
    assert len(engine_switch.switches(broken.folder)) == 1
    assert len(read_json(broken.folder / "attempts" / "0003" / "provenance.json")["switches"]) == 1


def test_switching_twice_is_recorded_twice(stub_run, store, broken, monkeypatch):
    monkeypatch.setenv("STUB_FAILS_AT", "7")
    with pytest.raises(RunFailed):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    monkeypatch.delenv("STUB_FAILS_AT")
    execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=VLLM())
    assert engines(broken) == ["vllm", "hf", "vllm"]
    assert [one.step for one in engine_switch.switches(broken.folder)] == [3, 6]
    assert engine_switch.mixed(broken.folder) == (
        "mixed: engine=hf from step 4 on (engine=vllm before); "
        "engine=vllm from step 7 on (engine=hf before)"
    )


def test_what_cannot_be_switched_is_refused_all_at_once(stub_run):
    with pytest.raises(ConfigError) as caught:
        engine_switch.chosen([*STUBS], ["seed=2", "engine=hf", "rl.learning_rate=1", "engines=x"])
    assert len(caught.value.problems) == 3
    assert "'seed' cannot be switched" in str(caught.value)
    assert "engine=NAME" in str(caught.value)


def test_an_engine_that_does_not_exist_is_named(stub_run):
    with pytest.raises(ConfigError, match="hff"):
        engine_switch.chosen([*STUBS], ["engine=hff"])


def test_settings_of_the_former_engine_do_not_stand_in_the_way(stub_run):
    given = [*STUBS, DECLARED, "engine.cache_gb=2"]
    assert engine_switch.chosen(given, ["engine=hf"]) == HF()
    assert engine_switch.chosen([*STUBS], [DECLARED, "engine.cache_gb=3"]) == VLLM(cache_gb=3)


def test_a_run_that_was_never_started_is_refused_and_none_is_made(stub_run, store):
    with pytest.raises(RunError, match="never started"):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    assert store.names() == []


def test_a_finished_run_is_refused(stub_run, store):
    execute(stub_run(), reporter=Recorder(), store=store)
    with pytest.raises(RunError, match="finished"):
        execute(stub_run(), reporter=Recorder(), store=store, engine=VLLM())
    (run,) = store.runs()
    assert engine_switch.switches(run.folder) == ()


@pytest.mark.parametrize("engine", [VLLM(), VLLM(cache_gb=9)])
def test_the_engine_that_it_has_is_refused(stub_run, store, broken, engine):
    """A setting that is not part of the id is no other engine either."""
    with pytest.raises(RunError, match="engine=vllm already"):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=engine)
    assert broken.status().attempts == 1


def test_the_command_line(stub_run, store, broken):
    arguments = [*STUBS, DECLARED, f"results_dir={store.root}"]
    done = invoked("run", *arguments, "--switch", "engine=hf", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["id"] == broken.name and said["mixed"].startswith("mixed: engine=hf from step 4")
    shown = invoked("show", broken.name, "--results-dir", str(store.root)).stdout
    assert "# mixed: engine=hf from step 4 on" in shown
    shown = invoked("show", broken.name, "--results-dir", str(store.root), "--json").stdout
    assert [one["step"] for one in json.loads(shown)["switches"]] == [3]


def test_its_evaluations_are_those_of_the_engine_that_made_them(stub_run, store, broken):
    """An evaluation's protocol names its engine; what a table looks for is what was made."""
    execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    declared, plain = stub_run(DECLARED, HELDOUT), stub_run(HELDOUT)
    actual = engine_switch.effective(declared, broken)
    assert training_id(declared).hash == broken.hash
    keys = {unit.label: unit.key for unit in evaluations.units(actual, "x")}
    assert keys == {unit.label: unit.key for unit in evaluations.units(plain, "x")}
    assert keys != {unit.label: unit.key for unit in evaluations.units(declared, "x")}
    again = evaluate_run(stub_run(DECLARED), broken, reporter=Recorder())
    assert set(again) == {"heldout"}


def test_an_export_takes_it_along(stub_run, store, broken, tmp_path):
    execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    export(store, tmp_path / "out.zip")
    other = RunStore(tmp_path / "other")
    import_(other, tmp_path / "out.zip")
    (run,) = other.runs()
    assert engine_switch.mixed(run.folder) == engine_switch.mixed(broken.folder) != ""


def test_a_damaged_record_is_named(stub_run, store, broken):
    (broken.folder / SWITCHES).write_text('{"switches": [{"step": 1}]}')
    with pytest.raises(RunError, match=r"switches.json is damaged"):
        execute(stub_run(DECLARED), reporter=Recorder(), store=store)


def test_tables_and_status_call_it_mixed(stub_run, store, broken, tmp_path):
    execute(stub_run(DECLARED), reporter=Recorder(), store=store, engine=HF())
    base = "\n".join(f"  - {json.dumps(text)}" for text in (*STUBS, DECLARED))
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"base:\n{base}\nseeds: [1]\nrows: {{ours: {{label: Ours}}}}\n"
        "table: {columns: [{evaluator: heldout, metric: accuracy}]}\n"
    )
    arguments = [str(path), f"results_dir={store.root}"]
    told = json.loads(invoked("table", *arguments, "--format", "json").stdout)
    (cell,) = told["rows"][0]["cells"]
    assert cell["values"][0]["mixed"].startswith("mixed: engine=hf from step 4 on")
    assert any("engine=hf from step 4 on" in note for note in told["notes"])
    assert "Ours (mixed)" in invoked("table", *arguments, "--format", "md").stdout
    (run,) = json.loads(invoked("status", *arguments, "--json").stdout)["runs"]
    assert run["mixed"].startswith("mixed: engine=hf from step 4 on") and run["state"] == "done"
    assert "mixed" in run["remark"]
