"""What a sweep file may say, and how each mistake is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.errors import ConfigError
from vexp.launcher.local import Local
from vexp.names import LONGEST
from vexp.sweeps.locate import find_sweep
from vexp.sweeps.overrides import as_overrides, grammar
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.schema import default_name, variant_name

WRONG = """\
nmae: typo
rows:
  a: [algorithm=grpo]
  b: nonsense
  "no/slash": []
  c: {label: a}
axes:
  algorithm.clip_high: []
  algorithm.clip_low: 0.2
  rollout.group_size: [4, "4"]
  seed: [1, 2]
seeds: [1, 1]
exclude:
  - {rwo: a}
  - {row: z}
table:
  baseline: d
  rows: [a, e]
  columns:
    - {metric: accuracy, scale: percents}
    - {metrc: accuracy}
"""


def problems(path: Path):
    with pytest.raises(ConfigError) as caught:
        read_sweep(path)
    return {problem.what: problem for problem in caught.value.problems}


def test_every_mistake_is_reported_at_once_with_its_line(sweep):
    found = problems(sweep(WRONG, "wrong"))
    expected = {
        "there is no setting 'nmae'": (1, "did you mean 'name'?"),
        "expected a list of overrides or nested settings": (4, "[key=value]"),
        "'no/slash' cannot name a row": (5, "letters, digits"),
        "two rows are called 'a'": (6, "give it a label"),
        "the axis 'algorithm.clip_high' has no values": (8, "algorithm.clip_high: [a, b]"),
        "the axis 'algorithm.clip_low' needs a list of values": (9, "[a, b]"),
        "the axis 'rollout.group_size' names a value twice": (10, ""),
        "seeds are an axis of their own": (11, "use `seeds: [1, 2]`"),
        "a seed is listed twice": (12, ""),
        "there is no axis 'rwo'": (14, "did you mean 'row'?"),
        "'row' never is 'z' in this sweep": (15, "a, b, c"),
        "the text 'percents' is not one of the choices": (20, "did you mean 'percent'?"),
        "there is no setting 'metrc'": (21, "did you mean 'metric'?"),
    }
    for what, (line, hint) in expected.items():
        assert what in found, f"{what} not among {list(found)}"
        assert hint in str(found[what])
        assert found[what].where.endswith(f"wrong.yaml:{line}"), found[what]


def test_rows_that_the_table_names_have_to_exist(sweep):
    found = problems(
        sweep("rows: {first: [], second: []}\n"
              "table:\n  baseline: frist\n  rows: [second, third]\n"
              "  columns: [{metric: accuracy}]\n")
    )  # fmt: skip
    assert "did you mean 'first'?" in found["there is no row 'frist'"].accepted
    assert "first, second" in found["there is no row 'third'"].accepted


def test_a_baseline_left_out_of_the_rows_is_reported(sweep):
    text = "rows: {a: [], b: []}\ntable: {baseline: a, rows: [b], columns: [{metric: accuracy}]}"
    assert "the baseline 'a' is not in `rows`" in problems(sweep(text))


@pytest.mark.parametrize(
    "text", ["", "base: [seed=1]", "rows: {}", "rows: {}\naxes: {}", "seeds: [1]"]
)
def test_a_sweep_without_rows_is_refused(sweep, text):
    assert "this sweep declares no rows" in problems(sweep(text))


def test_a_row_name_used_twice_names_the_line(sweep):
    found = problems(sweep("rows:\n  a: []\n  b: []\n  a: [seed=3]\n"))
    (problem,) = found.values()
    assert "'a' stands twice" in problem.what
    assert problem.where.endswith("small.yaml:4")


def test_an_empty_table_and_an_empty_list_of_seeds_are_refused(sweep):
    found = problems(sweep("rows: {a: []}\nseeds: []\ntable: {columns: []}"))
    assert set(found) == {"the list of seeds is empty", "the table has no columns"}


def test_rows_are_lists_or_settings_with_label_and_overrides(sweep):
    read = read_sweep(
        sweep("rows:\n  a: [rl.steps=3]\n"
              "  b:\n    label: B!\n    rl: {steps: 4, learning_rate: 1e-6}\n"
              "    overrides: [seed=7]\n"
              "  c:\n")
    )  # fmt: skip
    texts = [[override.text for override in row.overrides] for row in read.rows]
    assert texts == [["rl.steps=3"], ["rl.steps=4", "rl.learning_rate=1e-06", "seed=7"], []]
    assert [row.heading for row in read.rows] == ["a", "B!", "c"]
    assert read.rows[1].overrides[0].source == "small.yaml:5 (row 'b')"


def test_a_component_in_settings_is_named_first():
    tree = {"evaluator": {"extra": {"size": 5, "name": "heldout"}}, "algorithm": {"name": "dapo"}}
    texts = [override.text for override in as_overrides(tree, "here")]
    assert texts == ["evaluator.extra=heldout", "evaluator.extra.size=5", "algorithm=dapo"]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(
    st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20
)  # fmt: skip


@given(scalars | st.lists(scalars, max_size=4))
def test_values_survive_the_override_grammar(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"key={grammar(value)}").value()
    plain = [getattr(v, "text", v) for v in parsed] if isinstance(parsed, list) else parsed
    plain = getattr(plain, "text", plain)
    assert plain == value
    assert type(plain) is type(value)


def test_references_stay_references():
    assert grammar("${seed}") == "${seed}"


@pytest.mark.parametrize(
    ("path", "name"),
    [("sweeps/quickstart.yaml", "quickstart"), ("/x/sweeps/ease/table3.yaml", "ease-table3"),
     ("mine.yaml", "mine")],
)  # fmt: skip
def test_the_default_name_is_the_files(path, name):
    assert default_name(Path(path)) == name


def test_overrides_that_change_runs_make_another_sweep():
    neutral = ["launcher.workers=4", "results_dir=/tmp/x", "compute.device=cpu", "+tracker.w=wandb"]
    assert variant_name("q", neutral) == "q"
    assert variant_name("q", ["rl.steps=3", *neutral]) == "q-rl.steps=3"
    assert variant_name("q", ["compute.precision=bf16"]) != "q"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            ["prompt.instruction='Think? Then answer.'"],
            ["prompt.instruction='Think! Then answer.'"],
        ),
        (["prompt.instruction=想一想"], ["prompt.instruction=請回答"]),
        (["prompt.instruction=é"], ["prompt.instruction=e\u0301"]),
        (["a.b=1,2"], ["a.b=1_2"]),
        (["a.b=x/y"], ["a.b=x_y"]),
        (["a.b=c-d.e=f"], ["a.b=c", "d.e=f"]),
        (["a.b=c", "x-y=1"], ["a.b=c-x", "y=1"]),
        (["a.b=1", "a.b=2"], ["a.b=2", "a.b=1"]),
        (["a.b={c: 1}", "+a.b={c: 2}"], ["+a.b={c: 2}", "a.b={c: 1}"]),
        (["~a.b"], ["_a.b"]),
        (["a.b=" + "x" * 400], ["a.b=" + "x" * 401]),
        (["a.b='好'"], [variant_name("q", ["a.b='好'"]).removeprefix("q-")]),
    ],
)
def test_two_variants_never_have_one_name(first, second):
    names = [variant_name("q", first), variant_name("q", second)]
    assert names[0] != names[1]
    for name in names:
        assert re.fullmatch(r"q-[A-Za-z0-9._=+,@-]+", name)
        assert len(name) <= LONGEST


def test_the_name_of_a_variant_is_readable_and_the_same_in_any_order():
    name = variant_name("mini", ["prompt.instruction='Think? Then answer.'"])
    assert name.startswith("mini-prompt.instruction=_Think_Then_answer-")
    assert variant_name("q", ["b='!'", "a=1"]) == variant_name("q", ["a=1", "b='!'"])
    assert variant_name("q", ["b=2", "a.c=1e-4"]) == "q-a.c=1e-4-b=2"  # as it always was


def test_a_long_name_is_cut(sweep):
    long = read_sweep(sweep(f"name: {'x' * 300}\nrows: {{a: []}}"))
    assert long.name == read_sweep(long.path).name
    assert len(long.name) <= LONGEST
    assert read_sweep(sweep(f"name: {'x' * 180}\nrows: {{a: []}}")).name == "x" * 180


@pytest.mark.parametrize(
    ("path", "extra", "argument"),
    [("sweeps/a/table3.yaml", ["rl.steps=3", "compute.device=cpu"], "a/table3 rl.steps=3"),
     ("results/sweeps/x=1.yaml", [], "results/sweeps/x=1.yaml"), ("mine.yaml", [], "mine.yaml")],
)  # fmt: skip
def test_what_a_table_says_made_it_is_what_the_command_takes(project, path, extra, argument):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("rows: {a: []}")
    sweep = read_sweep(Path(path), extra=extra)
    assert sweep.argument == argument
    assert find_sweep(argument.split()[0]).resolve() == Path(path).resolve()


def test_a_table_names_no_folder_of_the_machine(project, tmp_path_factory):
    path = tmp_path_factory.mktemp("else") / "mine.yaml"
    path.write_text("rows: {a: []}")
    assert read_sweep(path).argument == "mine.yaml"


def test_sweeps_are_found_by_path_by_name_here_and_by_shipped_name(project):
    (project / "mine.yaml").write_text("rows: {a: []}")
    (project / "sweeps").mkdir()
    (project / "sweeps" / "local.yaml").write_text("rows: {a: []}")
    assert find_sweep("mine.yaml") == Path("mine.yaml")
    assert find_sweep("local") == Path("sweeps/local.yaml")
    assert find_sweep("quickstart").is_file()
    with pytest.raises(ConfigError, match="there is no sweep 'quikstart'") as caught:
        find_sweep("quikstart")
    assert "did you mean 'quickstart'?" in str(caught.value)


@pytest.mark.parametrize("text", ["launcher=local", "launcher.name=local"])
def test_another_launcher_on_the_command_line_takes_none_of_the_file_s_settings(sweep, text):
    path = sweep("rows: {a: []}\nlauncher: {name: slurm, partition: x, workers: 50}")
    assert make_plan(read_sweep(path)).launcher.partition == "x"
    launcher = make_plan(read_sweep(path, extra=[text, "launcher.threads=3"])).launcher
    assert launcher == Local(threads=3)  # 50 jobs of a cluster are not 50 processes here
    same = ["launcher=slurm", "launcher.cpus=2"]
    launcher = make_plan(read_sweep(path, extra=same)).launcher
    assert (launcher.partition, launcher.workers, launcher.cpus) == ("x", 50, 2)


def test_settings_without_a_launcher_s_name_are_for_any(sweep):
    path = sweep("rows: {a: []}\nlauncher: {workers: 3}")
    assert make_plan(read_sweep(path, extra=["launcher=slurm"])).launcher.workers == 3
    with pytest.raises(ConfigError, match="launcher 'slurm' has no setting 'threads'"):
        make_plan(read_sweep(path, extra=["launcher=slurm", "launcher.threads=3"]))
