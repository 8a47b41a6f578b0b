"""Objectives that are no numbers, and damaged files of a search: named, and no command ends."""

from __future__ import annotations

import json

import pytest

from tests.sweeps.test_search_chain import search
from tests.sweeps.test_search_commands import found, run  # noqa: F401  (fixtures)
from tests.sweeps.test_search_journal import Nobody, ours
from vexp.files import read_json
from vexp.sweeps.launch import launch
from vexp.sweeps.search import propose
from vexp.sweeps.search.trials import damaged_files, read_trials

TEXT = search(4, "random")
COMMANDS = (
    ("status", "small.yaml"),
    ("search", "best", "small.yaml"),
    ("table", "small.yaml"),
    ("report", "small.yaml"),
    ("plan", "small.yaml"),
    ("launch", "small.yaml", "--dry-run"),
)


def results_of(plan, number):
    (path,) = (plan.state.results_dir / "runs" / plan.search.trials[number].runs[0].run).glob(
        "evaluations/dev-*/results.json"
    )
    return path


READ = "dev accuracy of seed 1 cannot be read: results.json is damaged: "
METRICS = [
    ({"accuracy": {"value": None}}, READ + "expected `float`, got `null`"),
    ({"accuracy": {"value": "0.9"}}, READ + "expected `float`, got `str`"),
    ({"accuracy": {"value": True}}, READ + "expected `float`, got `bool`"),
    ({"accuracy": {"value": float("nan")}}, READ + "JSON is malformed"),
    ({"accuracy": {"value": -(10**400)}}, READ + "number out of range"),
    ({"accuracy": {"value": [1]}}, READ + "expected `float`, got `array`"),
    ({"accuracy": {}}, READ + "object missing required field `value`"),
    ({"accuracy": []}, READ + "expected `object`, got `array`"),
    ({"other": {"value": 0.5}}, "dev accuracy of seed 1 was not measured"),
    ({}, READ + "`metrics` is empty"),
    ([], READ + "expected `object`, got `array`"),
    (None, READ + "expected `object`, got `null`"),
    ({"accuracy": {"value": float("inf")}}, READ + "JSON is malformed"),
]


def test_an_objective_that_is_no_number_fails_its_trial(found, plan, run):  # noqa: F811
    path = results_of(found(TEXT, 4), 1)
    content = read_json(path)
    for metrics, why in METRICS:
        path.write_text(json.dumps({**content, "metrics": metrics}))
        outcome = plan(TEXT).search.outcomes[1]
        assert (outcome.state, outcome.values) == ("failed", None)
        assert why in outcome.reason
    for command in (("status", "small.yaml"), ("search", "best", "small.yaml")):
        code, out, err = run(*command)
        assert code == 0, err
        assert f"trial 1 failed: {READ}JSON is malformed" in out
    code, out, _ = run("search", "best", "small.yaml", "--json")
    shown = json.loads(out)
    assert 1 not in [each["trial"] for each in shown["found"]]
    assert list(shown["failed"]) == ["1"] and shown["failed"]["1"].startswith(READ)
    launch(plan(TEXT), Nobody())  # the journal has a value, which is denied now
    states = [trial.state.name for trial in ours(plan(TEXT).search.study).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "PRUNED"]
    path.write_text("{")
    (code, out, _), reason = (
        run("status", "small.yaml"),
        "trial 1 failed: dev accuracy of seed 1 cannot be",
    )
    assert (code, reason in out) == (0, True)


def edited(path, **changes):
    path.write_text(json.dumps({**read_json(path), **changes}))


def folder_in_place(path):
    path.unlink(missing_ok=True)
    path.mkdir()


DAMAGE = {
    "half": lambda path: path.write_text(path.read_text()[:40]),
    "empty": lambda path: path.write_text(""),
    "zeros": lambda path: path.write_bytes(b"\0" * 99),
    "list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "huge number": lambda path: edited(path, number=10**9),
    "another number": lambda path: edited(path, number=2),
    "no number": lambda path: edited(path, number="1"),
    "runs are a text": lambda path: edited(path, runs="x"),
    "no runs": lambda path: edited(path, runs=[]),
    "run outside": lambda path: edited(path, runs=[{**read_json(path)["runs"][0], "run": "../x"}]),
    "no settings": lambda path: edited(path, params={}),
    "other settings": lambda path: edited(path, params={"rl.stepz": 3}),
    "a setting out of range": lambda path: edited(path, params={"rl.learning_rate": 7.0}),
    "a setting of another type": lambda path: edited(path, params={"rl.learning_rate": [1]}),
    "folder": folder_in_place,
}


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "no copies"])
def test_damaged_records_are_named_and_end_no_command(found, plan, run, copies):  # noqa: F811
    now = found(TEXT, 4)
    study, before = now.search.study, now.search.trials
    path = study.trials_dir / "0001.json"
    content = path.read_text()
    if not copies:
        for mark in (now.state.results_dir / "runs").glob("*/trials/*-0001.json"):
            mark.unlink()
    for name, damage in DAMAGE.items():
        damage(path)
        trials = read_trials(study)
        assert len(trials) == 4, name
        assert (trials[1] == before[1]) == copies, name
        assert [t for t in trials if t.number != 1] == [t for t in before if t.number != 1]
        (problem,) = damaged_files(study)
        assert problem.where == str(path)
        state = now.search.refreshed().outcomes[1].state
        assert state == ("complete" if copies else "failed"), name
        if path.is_dir():
            path.rmdir()
        path.write_text(content)
    DAMAGE["half"](path)
    for command in COMMANDS:
        code, out, err = run(*command)
        assert code == 0, (command, err)
        if command[0] in ("status", "search"):
            assert "the record of trial 1 is damaged" in out
    launch(plan(TEXT), Nobody())
    assert (damaged_files(study) == []) == copies


def test_a_file_with_a_number_that_no_trial_has_takes_no_memory(found):  # noqa: F811
    now = found(TEXT, 4)
    study = now.search.study
    for name in ("1000000000.json", "99999999.json", "x.json"):
        (study.trials_dir / name).write_text((study.trials_dir / "0001.json").read_text())
    edited(study.trials_dir / "99999999.json", number=99_999_999)
    run_folder = now.state.results_dir / "runs" / now.search.trials[0].runs[0].run
    mark = run_folder / "trials" / f"{study.name}-99999999.json"
    mark.write_text((study.trials_dir / "99999999.json").read_text())
    (study.trials_dir / "0002.json").unlink()  # so that the copies are looked at
    assert len(read_trials(study)) == 4
    assert {problem.what for problem in damaged_files(study)} == {
        "this is no record of a trial, and nobody reads it"
    }
    assert len(damaged_files(study)) == 3


def test_the_last_record_damaged_without_a_copy_is_not_proposed_for_ever(found):  # noqa: F811
    now = found(search(5, "random"), 4)
    study = now.search.study
    for mark in (now.state.results_dir / "runs").glob("*/trials/*-0003.json"):
        mark.unlink()
    (study.trials_dir / "0003.json").write_text("")
    assert propose.propose(now.state)
    assert [trial.number for trial in read_trials(study)] == [0, 1, 2, 3, 4]
    assert not propose.propose(now.state)


def test_a_folder_in_the_place_of_the_journal_is_set_aside(found, run):  # noqa: F811
    now = found(TEXT, 4)
    study = now.search.study
    study.journal.unlink(missing_ok=True)
    study.journal.mkdir()
    (study.journal / "mine.txt").write_text("")
    for command in COMMANDS:
        assert run(*command)[0] == 0
    launch(now, Nobody())
    assert len(ours(study).trials) == 4
    (problem,) = damaged_files(study)
    assert "stood in the place of Optuna's journal" in problem.what
    assert list(study.folder.glob("journal.log.*.aside/mine.txt"))


def test_a_damaged_description_is_written_anew_by_a_launch(found, plan, run):  # noqa: F811
    now = found(TEXT, 4)
    path = now.state.folder / "search" / "study.json"
    before = path.read_text()
    for content in ("", "[]", "{}", '{"format": 1}', '{"format": 1, "search": 3}', "[" * 100_000):
        path.write_text(content)
        assert run("status", "small.yaml")[0] == 0
        launch(plan(TEXT), Nobody())
        assert path.read_text() == before
