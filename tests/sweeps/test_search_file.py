"""The `search:` of a sweep file: every mistake is said once, all at once, before any start."""

from __future__ import annotations

import pytest

from vexp.errors import ConfigError
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep

GOOD = """
base: [evaluator.dev=heldout, evaluator.dev.split=dev]
seeds: [1]
search:
  name: optuna
  trials: 4
  objectives: [{metric: accuracy}]
  space:
    rl.learning_rate: {type: float, low: 1e-6, high: 1e-2, log: true}
"""
SPACE = "    rl.learning_rate: {type: float, low: 1e-6, high: 1e-2, log: true}"


def problems(sweep, text):
    with pytest.raises(ConfigError) as caught:
        make_plan(read_sweep(sweep(text)))
    return [str(problem) for problem in caught.value.problems]


def test_a_search_plans_without_optuna_and_without_torch(sweep, project):
    import subprocess
    import sys

    path = sweep(GOOD)
    code = (
        "import sys\n"
        "sys.modules['optuna'] = sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from vexp.sweeps.plan import make_plan\n"
        "from vexp.sweeps.reader import read_sweep\n"
        f"print(make_plan(read_sweep(Path({str(path)!r}))).search.counts()['open'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4\n", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metric: accuracy", "metric: acuracy", ["produces no metric 'acuracy'", "small.yaml:7"]),
        ("metric: accuracy", "metric: accuracy, evaluator: test", ["no evaluator 'test'", "dev"]),
        (f"space:\n{SPACE}", "space: {}", ["the space is empty", "search.space"]),
        ("learning_rate:", "learning_rat:", ["no setting 'learning_rat'", "small.yaml:9"]),
        ("low: 1e-6", "low: 1", ["`low` (1) is above `high` (0.01)", "small.yaml:9"]),
        (SPACE, "    algorithm: {type: categorical, choices: []}", ["needs choices", "yaml:9"]),
        (SPACE, "    algorithm: {type: categorical, choices: [grpo, dap]}", ["'dapo'", "yaml:9"]),
        (SPACE, "    rl.steps: {type: float, low: 3, high: 4}", ["expected a whole number"]),
        (SPACE, "    seed: {type: int, low: 1, high: 4}", ["cannot set 'seed'", "use `seeds"]),
        ("trials: 4", "trials: 4\n  pruner: {name: median, every: 5}", ["pruner.metric", "be set"]),
        (
            "trials: 4", "trials: 4\n  pruner: {name: median, metric: reward, every: 500}",
            ["looks every 500 steps", "has only 180"],
        ),
        ("trials: 4", "trials: 4\n  sampler: tpee", ["did you mean 'tpe'?", "small.yaml:7"]),
        ("name: optuna", "name: optunaa", ["unknown search 'optunaa'", "did you mean 'optuna'"]),
        ("trials: 4", "trials: 4\n  storage: not a url", ["not a database URL"]),
        ("trials: 4", "trials: 4\n  storage: postgresql://me:pw@h/d", ["VEXP_STORAGE_PASSWORD"]),
        ("trials: 4", "trials: 4\n  storage: mysql://h/d?passwd=x", ["VEXP_STORAGE_PASSWORD"]),
        ("seeds: [1]", "seeds: [1]\nrows: {a: []}", ["`rows` has no place"]),
        ("seeds: [1]", "seeds: [1]\naxes: {rl.steps: [1]}", ["`axes` has no place"]),
    ],
)  # fmt: skip
def test_each_mistake_is_one_message(sweep, old, new, said):
    assert old in GOOD
    found = problems(sweep, GOOD.replace(old, new))
    assert len(found) == 1, found
    for part in said:
        assert part in found[0]


def test_mistakes_in_settings_are_said_all_at_once(sweep):
    text = GOOD.replace("trials: 4", "trials: 0\n  sampler: x\n  pruner: {name: median, every: 5}")
    assert len(problems(sweep, text.replace("low: 1e-6", "low: 1"))) == 4


def test_mistakes_about_the_config_are_said_all_at_once(sweep):
    text = GOOD.replace("metric: accuracy", "metric: acuracy")
    text = text.replace("trials: 4", "trials: 4\n  pruner: {name: median, metric: x, every: 500}")
    text = text.replace("rl.learning_rate", "rl.learning_rat")
    assert len(problems(sweep, text)) == 3


def test_a_pruner_without_reinforcement_learning(sweep):
    text = GOOD.replace("base: [", "base: ['stages=[warm_start]', ")
    text = text.replace("trials: 4", "trials: 4\n  pruner: {name: median, metric: x, every: 5}")
    (found,) = problems(sweep, text)
    assert "reinforcement learning, and these runs have none" in found


def test_what_decides_a_trial_makes_another_study_and_what_does_not_does_not(sweep):
    def key(text):
        return make_plan(read_sweep(sweep(text))).search.study.key

    first = key(GOOD)
    for old, new in [
        ("trials: 4", "trials: 9"), ("trials: 4", "trials: 4\n  sampler: random"),
        ("trials: 4", "trials: 4\n  seed: 4"), ("name: optuna", "name: random"),
        ("seeds: [1]", "seeds: [1]\nlauncher: {workers: 3}"),
        ("trials: 4", "trials: 4\n  pruner: {name: median, metric: x, every: 5}"),
    ]:  # fmt: skip
        assert key(GOOD.replace(old, new)) == first, new
    for old, new in [
        ("low: 1e-6", "low: 1e-5"), ("seeds: [1]", "seeds: [2]"), ("seeds: [1]", "seeds: [1, 2]"),
        ("metric: accuracy", "metric: format"), ("split=dev]", "split=dev, rl.steps=3]"),
        ("split=dev]", "split=dev, evaluator.dev.size=3]"),
    ]:  # fmt: skip
        assert key(GOOD.replace(old, new)) != first, new
