"""Which runs a sweep stands for, and what is wrong with those that cannot be."""

from __future__ import annotations

import pytest

from vexp.config.compose import Overlay
from vexp.errors import ConfigError
from vexp.sweeps.checks import check
from vexp.sweeps.points import collapsed, points, trainings
from vexp.sweeps.reader import read_sweep


@pytest.fixture
def resolved(sweep):
    """A function from the text of a sweep file to its points."""
    return lambda text, *extra: points(read_sweep(sweep(text), extra=extra))


def messages(call):
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.problems


def test_points_are_the_product_of_rows_axes_and_seeds_without_the_excluded(resolved):
    found = resolved("""
        base: [rl.steps=5]
        rows: {a: [algorithm=grpo], b: [algorithm=dapo]}
        axes: {rollout.group_size: [4, 8]}
        seeds: [1, 2]
        exclude: [{row: b, rollout.group_size: 4}, {row: a, rollout.group_size: 8, seed: 2}]
    """)
    assert [point.label for point in found] == [
        "a rollout.group_size=4 seed=1",
        "a rollout.group_size=4 seed=2",
        "a rollout.group_size=8 seed=1",
        "b rollout.group_size=8 seed=1",
        "b rollout.group_size=8 seed=2",
    ]
    last = found[-1].run
    assert (last.algorithm.name, last.rollout.group_size, last.seed) == ("dapo", 8, 2)
    assert last.rl.steps == 5
    assert len({point.identity.hash for point in found}) == 5


def test_a_row_may_fix_its_own_stages_and_later_settings_win(resolved):
    (one,) = resolved("base: [rl.steps=5, seed=1]\nrows: {a: {stages: [warm_start], rl.steps: 6}}")
    assert one.run.stages == ("warm_start",)
    assert one.run.rl.steps == 6
    (two,) = resolved("base: [rl.steps=5]\nrows: {a: [rl.steps=6]}", "rl.steps=7")
    assert two.run.rl.steps == 7


def test_axes_alone_are_a_sweep_and_may_name_components(resolved):
    found = resolved("axes: {algorithm: [grpo, {name: dapo, clip_high: 0.3}]}")
    assert [point.label for point in found] == ["algorithm=grpo", "algorithm=dapo clip_high=0.3"]
    assert found[1].run.algorithm.clip_high == 0.3


def test_references_to_the_seed_follow_it(resolved):
    found = resolved("base: ['warm_start.seed=${seed}']\nrows: {a: []}\nseeds: [3, 4]")
    assert [point.run.warm_start.seed for point in found] == [3, 4]


def test_equal_points_collapse_and_it_is_said_which(resolved):
    found = resolved("""
        rows: {base: {stages: [warm_start]}, grpo: [], again: [algorithm=grpo]}
        seeds: [1, 2]
    """)
    runs = trainings(found)
    assert [len(run.points) for run in runs] == [2, 2, 2]
    told = collapsed(runs)
    assert "base seed=1 = base seed=2: one run (warm_start-" in told[0]
    assert "grpo seed=1 = again seed=1: one run" in told[1]


def test_a_collapsed_run_has_the_evaluators_of_all_its_points(resolved):
    found = resolved("rows: {a: [], b: [evaluator.dev=heldout, evaluator.dev.split=dev]}")
    (run,) = trainings(found)
    assert set(run.run.evaluator) == {"heldout", "dev"}


def test_one_run_cannot_be_evaluated_in_two_ways_under_one_name(sweep):
    read = read_sweep(sweep("rows: {a: [], b: [evaluator.heldout.size=10]}"))
    (problem,) = messages(lambda: check(read, points(read)))
    assert "'a' and 'b' are one run, but evaluator 'heldout' is set differently" in problem.what


def test_an_unknown_key_in_a_row_names_row_line_and_close_match(resolved):
    text = "rows:\n  a: [rl.stepz=3]\n  b: {algorithm: {clip_hihg: 0.3}}\n  c: [algorithm=grp]\n"
    found = {problem.what: problem for problem in messages(lambda: resolved(text))}
    assert "did you mean 'steps'?" in found["there is no setting 'stepz'"].accepted
    assert "small.yaml:2 (row 'a')" in found["there is no setting 'stepz'"].where
    assert "small.yaml:3 (row 'b')" in found["algorithm 'grpo' has no setting 'clip_hihg'"].where
    assert "did you mean 'grpo'" in found["unknown algorithm 'grp'"].accepted
    assert "small.yaml:4 (row 'c')" in found["unknown algorithm 'grp'"].where


def test_a_mistake_in_the_base_is_said_once_for_all_rows_and_seeds(resolved):
    text = "base: [rl.stepz=3]\nrows: {a: [], b: []}\nseeds: [1, 2, 3]"
    (problem,) = messages(lambda: resolved(text))
    assert "small.yaml:1" in problem.where
    assert "row" not in problem.where


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(resolved):
    with pytest.raises(ConfigError) as caught:
        resolved("rows: {a: [], b: []}", "rl.steps=-1")
    (problem,) = caught.value.problems
    assert problem.where == "rl.steps, set by command line `rl.steps=-1`"


def test_a_conflict_within_a_row_names_the_row(resolved):
    text = "rows:\n  fine: []\n  lonely: [rollout.group_size=1]\nseeds: [1, 2]"
    (problem,) = messages(lambda: resolved(text))
    assert "no baseline" in problem.what
    assert "small.yaml:3" in problem.where
    assert "'lonely'" in problem.where
    assert "'fine'" not in problem.where


def test_excluding_everything_is_refused(resolved):
    (problem,) = messages(lambda: resolved("rows: {a: []}\nexclude: [{row: a}]"))
    assert "leaves nothing to run" in problem.what


def test_rows_cannot_have_launchers_or_results_folders_of_their_own(sweep):
    read = read_sweep(sweep("rows: {a: [launcher.workers=3], b: [results_dir=elsewhere]}"))
    found = {problem.what for problem in messages(lambda: check(read, points(read)))}
    assert found == {
        "`launcher` differs between 'a' and 'b'",
        "`results_dir` differs between 'a' and 'b'",
    }


def test_seeds_may_not_change_more_than_seeds(sweep):
    text = "base: ['rl.steps=${seed}', 'warm_start.seed=${seed}']\nrows: {a: []}\nseeds: [3, 4]"
    read = read_sweep(sweep(text))
    (problem,) = messages(lambda: check(read, points(read)))
    assert problem.what == "'a seed=3' and 'a seed=4' differ in 'rl.steps', not only in the seed"


def test_a_column_that_nothing_produces_is_refused(sweep):
    read = read_sweep(
        sweep("rows: {a: []}\ntable:\n  columns:\n    - {metric: acuracy}\n"
              "    - {metric: accuracy, evaluator: held}\n    - {metric: accuracy/multi}\n")
    )  # fmt: skip
    metric, evaluator = messages(lambda: check(read, points(read)))
    assert metric.what == "evaluator 'heldout' produces no metric 'acuracy'"
    assert metric.where.endswith("small.yaml:4")
    assert "did you mean 'accuracy'" in metric.accepted
    assert evaluator.what == "no run of this sweep has an evaluator 'held'"
    assert evaluator.where.endswith("small.yaml:5")
    assert "did you mean 'heldout'?" in evaluator.accepted


def test_conf_files_are_put_in_order_once_for_each_choice_of_files(resolved, monkeypatch):
    calls = []
    real = Overlay.files
    monkeypatch.setattr(Overlay, "files", lambda self: calls.append(self) or real(self))
    resolved("rows: {a: [], b: [algorithm=dapo]}\naxes: {rl.steps: [1, 2]}\nseeds: [1, 2, 3]")
    assert len(calls) == 2


def test_the_shipped_sweeps_resolve():
    from vexp.paths import shipped

    files = sorted(shipped("sweeps").rglob("*.yaml"))
    assert files
    for file in files:
        read = read_sweep(file)
        check(read, points(read))


def test_quickstart_has_a_warm_start_per_seed_shared_by_its_rows():
    from vexp.sweeps.locate import find_sweep

    runs = trainings(points(read_sweep(find_sweep("quickstart"))))
    assert len(runs) == 8
    by_seed: dict[object, set[object]] = {}
    for run in runs:
        by_seed.setdefault(run.points[0].seed, set()).add(run.shares)
    assert [len(shares) for shares in by_seed.values()] == [1, 1]
    assert len(set.union(*by_seed.values())) == 2
