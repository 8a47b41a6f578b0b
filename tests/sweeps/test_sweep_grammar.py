"""Zipped and conditional axes, exclusions, evaluation and resources of a sweep file."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweeps.conftest import Nobody
from vexp.errors import ConfigError
from vexp.launcher.base import Resources
from vexp.sweeps.launch import launch
from vexp.sweeps.points import points, trainings
from vexp.sweeps.reader import read_sweep


@pytest.fixture
def resolved(sweep):
    """A function from the text of a sweep file to its points."""
    return lambda text: points(read_sweep(sweep(text)))


@pytest.fixture
def problems(sweep):
    """A function from the text of a sweep file to what is wrong with it, by message."""

    def find(text):
        with pytest.raises(ConfigError) as caught:
            points(read_sweep(sweep(text)))
        return {problem.what: problem for problem in caught.value.problems}

    return find


def test_zipped_axes_move_together_and_multiply_with_the_others(resolved):
    found = resolved("""
        rows: {a: [], b: [algorithm=dapo]}
        axes: {rollout.group_size: [4, 8]}
        zip:
          - {rl.steps: [10, 20], rl.learning_rate: [1e-6, 2e-6]}
          - {compute.threads: [1, 2], rl.weight_decay: [0.1, 0.2]}
    """)
    assert len(found) == 2 * 2 * 2 * 2
    pairs = {(p.run.rl.steps, p.run.rl.learning_rate) for p in found}
    assert pairs == {(10, 1e-6), (20, 2e-6)}
    assert found[1].label == (
        "a rollout.group_size=4 rl.steps=10 rl.learning_rate=1e-06 "
        "compute.threads=2 rl.weight_decay=0.2"
    )


def test_one_zip_needs_no_list(resolved):
    found = resolved("zip: {rl.steps: [1, 2], seed: [5, 6]}".replace("seed", "warm_start.seed"))
    assert [(p.run.rl.steps, p.run.warm_start.seed) for p in found] == [(1, 5), (2, 6)]


def test_a_conditional_axis_applies_where_row_axis_or_config_say_so(resolved):
    found = resolved("""
        rows: {grpo: [], vicra: [experiment=vicra], dapo: [experiment=dapo]}
        axes:
          rollout.group_size: [4, 8]
          rl.learning_rate: {values: [0.1, 0.2], when: {credit: vicra}}
          rl.weight_decay: {values: [0.3], when: {row: [grpo, dapo], rollout.group_size: 8}}
    """)
    assert [point.label for point in found] == [
        "grpo rollout.group_size=4",
        "grpo rollout.group_size=8 rl.weight_decay=0.3",
        "vicra rollout.group_size=4 rl.learning_rate=0.1",
        "vicra rollout.group_size=4 rl.learning_rate=0.2",
        "vicra rollout.group_size=8 rl.learning_rate=0.1",
        "vicra rollout.group_size=8 rl.learning_rate=0.2",
        "dapo rollout.group_size=4",
        "dapo rollout.group_size=8 rl.weight_decay=0.3",
    ]
    assert {tuple(point.axes) for point in found} == {
        ("rollout.group_size", "rl.learning_rate", "rl.weight_decay")
    }


def test_a_condition_may_ask_for_a_default_that_nobody_set(resolved):
    text = "axes:\n  rl.weight_decay: {values: [0.1, 0.2], when: {rl.epochs_per_step: 1}}"
    assert len(resolved(text)) == 2
    assert len(resolved(text.replace("step: 1", "step: 2"))) == 1


def test_conditions_on_components_see_the_axis_that_chooses_them(resolved):
    found = resolved("""
        axes:
          algorithm: [grpo, {name: dapo, clip_high: 0.3}]
          rl.steps: {values: [1, 2], when: {algorithm: dapo}}
    """)
    assert [point.label for point in found] == [
        "algorithm=grpo",
        "algorithm=dapo clip_high=0.3 rl.steps=1",
        "algorithm=dapo clip_high=0.3 rl.steps=2",
    ]


def test_exclusions_take_lists_and_keys_of_the_config(resolved):
    found = resolved("""
        rows: {a: [], b: [experiment=dapo], c: [algorithm=gspo]}
        axes: {rollout.group_size: [4, 8, 12]}
        exclude: [{algorithm: dapo, rollout.group_size: [4, 8]}, {row: c}]
    """)
    assert [point.label for point in found] == [
        "a rollout.group_size=4", "a rollout.group_size=8", "a rollout.group_size=12",
        "b rollout.group_size=12",
    ]  # fmt: skip


def test_evaluation_names_evaluators_of_every_run(resolved):
    (point,) = resolved("""
        rows: {a: []}
        evaluation: {heldout: {size: 50}, dev: {name: heldout, split: dev}}
    """)
    assert point.run.evaluator["heldout"].size == 50
    assert point.run.evaluator["dev"].split == "dev"


def test_resources_by_row_axis_and_config_later_ones_win(resolved):
    found = resolved("""
        rows: {a: [], b: {algorithm: dapo, resources: {time_min: 99}}}
        axes: {rollout.group_size: [4, 8]}
        resources:
          - {gpus: 1, time_min: 10}
          - {when: {rollout.group_size: 8}, gpus: 4}
          - {when: {algorithm: dapo}, partition: big}
    """)
    assert [dict(point.resources) for point in found] == [
        {"gpus": 1, "time_min": 10},
        {"gpus": 4, "time_min": 10},
        {"gpus": 1, "time_min": 99, "partition": "big"},
        {"gpus": 4, "time_min": 99, "partition": "big"},
    ]
    assert len({point.identity.hash for point in found}) == 4  # resources enter no id
    assert found[0].run.launcher == found[3].run.launcher


def test_resources_reach_the_queue_and_the_launcher_takes_those_it_knows(plan):
    text = "rows: {a: []}\nresources: {gpus: 2, time_min: 7}"
    launch(plan(text), Nobody())
    (entry,) = plan(text).state.queue()
    assert entry.resources == {"gpus": 2, "time_min": 7}
    launcher = plan(text).points[0].run.launcher
    assert launcher.asking(entry.resources) == launcher  # the local one has neither
    assert launcher.asking({"workers": 5}).workers == 5


WRONG = """\
rows:
  a: {resources: {gpu: 1}}
axes:
  rl.steps: {values: [1, 2], wehn: {row: a}}
  rl.weight_decay: {values: [0.1], when: {rollout.group_size: 4}}
  rollout.group_size: [4, 8]
  rl.beta1: {values: [0.1], when: {stuff: 4}}
  rl.beta2: {when: {row: a}}
  rl.prompts_per_step: {values: [1], when: 7}
zip:
  - {warm_start.steps: [1, 2], warm_start.batch_size: [1]}
  - {rl.ramp_steps: [1]}
  - {rl.steps: [3, 4], rl.schedule: [linear, cosine]}
  - nonsense
exclude:
  - {row: [a, z]}
  - {rwo: a}
evaluation: [heldout]
resources:
  - {when: {row: q}, gpus: 1}
  - {mem_gb: -1}
  - {gpus: many}
  - 7
hold_after: -1
"""


def test_every_mistake_is_reported_at_once_with_its_line(sweep):
    with pytest.raises(ConfigError) as caught:
        read_sweep(sweep(WRONG, "wrong"))
    found = {problem.what: problem for problem in caught.value.problems}
    expected = {
        "there is no setting 'gpu'": (2, "did you mean 'gpus'?"),
        "an axis has no 'wehn'": (4, "values, when"),
        "the axis 'rl.weight_decay' cannot depend on 'rollout.group_size'": (5, "declared before"),
        "there is no axis and no key 'stuff'": (7, ""),
        "the axis 'rl.beta2' needs a list of values": (8, ""),
        "a condition is keys and values": (9, "{row: name"),
        "zipped axes need equally many values (warm_start.steps: 2, warm_start.batch_size: 1)": (
            11, "",
        ),
        "a zip moves two axes or more together": (12, "use `axes`"),
        "'rl.steps' is an axis already": (10, "each key once"),
        "zipped axes are `key: [values]` lines of one length": (10, ""),
        "'row' never is 'z' in this sweep": (16, "a"),
        "there is no axis 'rwo'": (17, "did you mean 'row'?"),
        "evaluators have names": (18, "heldout"),
        "'row' never is 'q' in this sweep": (20, "a"),
        "the number -1.0 is out of range": (21, "more than 0"),
        "the number -1 is out of range": (24, "at least 0"),
        "expected a whole number at least 0, got the text 'many'": (22, ""),
    }  # fmt: skip
    for what, (line, hint) in expected.items():
        assert what in found, f"{what} not among {list(found)}"
        assert hint in str(found[what])
        assert found[what].where.endswith(f"wrong.yaml:{line}"), found[what]


def test_a_condition_on_a_key_that_no_run_has_is_refused(problems):
    text = "rows:\n  a: []\naxes:\n  rl.steps: {values: [1], when: {rl.stepz: 3}}\n"
    found = problems(text)["the run has no key 'rl.stepz' that a condition could look at"]
    assert "small.yaml:4" in found.where


def test_an_unknown_axis_names_its_line_once(problems):
    found = problems("rows: {a: [], b: []}\naxes:\n  rl.stepz: [1, 2, 3]\nseeds: [1, 2]\n")
    (problem,) = found.values()
    assert problem.what == "there is no setting 'stepz'"
    assert "small.yaml:3" in problem.where
    assert "did you mean 'steps'?" in problem.accepted


VALUES = {"rl.steps": [1, 2, 3], "rl.ramp_steps": [4, 5], "rollout.group_size": [4, 8]}


@given(
    data=st.data(),
    seeds=st.lists(st.integers(1, 9), unique=True, max_size=2),
    zipped=st.booleans(),
)
def test_points_are_those_that_plain_loops_would_make(tmp_path_factory, data, seeds, zipped):
    """Written again as nested loops over dicts, with conditions checked at the end."""
    rows = data.draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1))
    when = data.draw(st.sampled_from([None, {"row": ["a", "b"]}, {"rl.steps": [2]}]))
    exclude = data.draw(
        st.lists(
            st.fixed_dictionaries({"row": st.sampled_from(rows)}, optional={
                "rl.steps": st.sampled_from([1, 2]), "rollout.group_size": st.just(8),
            }), max_size=2,
        )
    )  # fmt: skip
    lines = ["rows: {" + ", ".join(f"{row}: []" for row in rows) + "}", "axes:"]
    lines += ["  rl.steps: [1, 2, 3]"]
    told = "" if when is None else f", when: {when}".replace("'", "")
    lines += [f"  rollout.group_size: {{values: [4, 8]{told}}}"]
    if zipped:
        lines += ["zip: {rl.ramp_steps: [4, 5], rl.weight_decay: [0.4, 0.5]}"]
    lines += [f"seeds: {seeds}"] * bool(seeds)
    lines += ["exclude:", *(f"  - {e}".replace("'", "") for e in exclude)] if exclude else []
    path = tmp_path_factory.mktemp("loops") / "s.yaml"
    path.write_text("\n".join(lines))
    expected = []
    for row, steps, size, ramp, seed in itertools.product(
        rows, [1, 2, 3], [4, 8], [4, 5] if zipped else [None], seeds or [None]
    ):
        here = {"row": row, "rl.steps": steps, "rollout.group_size": size}
        if when and any(here[key] not in accepted for key, accepted in when.items()):
            here["rollout.group_size"] = size = None
        if not any(all(here[k] == v for k, v in entry.items()) for entry in exclude):
            one = (row, steps, size, ramp, seed)
            expected += [one] if one not in expected else []
    try:
        found = points(read_sweep(path))
    except ConfigError as error:
        assert not expected
        assert "leaves nothing to run" in str(error)
        return
    absent = {"–": None}
    assert [
        (
            p.row.name,
            p.axes["rl.steps"],
            absent.get(p.axes["rollout.group_size"], p.axes["rollout.group_size"]),
            p.axes.get("rl.ramp_steps"),
            p.seed,
        )
        for p in found
    ] == expected
    for point in found:
        assert point.run.rl.steps == point.axes["rl.steps"]
        if zipped:
            assert point.run.rl.weight_decay == point.axes["rl.ramp_steps"] / 10
    assert len(trainings(found)) <= len(found)


def test_resources_that_are_not_set_ask_for_nothing():
    assert Resources().asked() == {}
    assert Resources(gpus=0).asked() == {"gpus": 0}
