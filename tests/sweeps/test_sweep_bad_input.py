"""Mistakes in a request: one message each, exit code 2 or 1, and nothing was started."""

from __future__ import annotations

import pytest

from vexp.cli.main import main

CASES = {
    "an unknown axis": ("axes:\n  rl.stepz: [1, 2]\n", "small.yaml:2", "did you mean 'steps'?"),
    "an empty axis": ("axes:\n  rl.steps: []\n", "small.yaml:2", "has no values"),
    "everything excluded": ("rows: {a: []}\nexclude: [{row: a}]\n", "leaves nothing", "take an"),
    "a row used twice": ("rows:\n  a: []\n  a: []\n", "small.yaml:3", "'a' stands twice"),
    "a metric that nothing produces": (
        "rows: {a: []}\ntable:\n  columns:\n    - {metric: acuracy}\n",
        "small.yaml:4", "did you mean 'accuracy'",
    ),
    "an evaluator that is not there": (
        "rows: {a: []}\ntable: {columns: [{metric: accuracy, evaluator: dev}]}\n",
        "no run of this sweep has an evaluator 'dev'", "add evaluator.dev",
    ),
    "an unknown key": ("rows: {a: []}\nresource: {gpus: 1}\n", "small.yaml:2", "'resources'"),
    "an unknown evaluator": (
        "rows: {a: []}\nevaluation: {dev: {name: heldoutt}}\n", "small.yaml:2", "'heldout'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["plan", "launch", "status", "retry"])
@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_is_started(sweep, project, capsys, command, case):
    text, *expected = CASES[case]
    sweep(text)
    with pytest.raises(SystemExit) as caught:
        main([command, "small.yaml"])
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.count("error:") == 1
    assert "Traceback" not in err
    for part in expected:
        assert part in err
    assert not (project / "results").exists()
