"""Differences, stars, averages, constants and published numbers of a whole table."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vexp.errors import ConfigError, RunError
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep
from vexp.tables.cells import Measurements, Score
from vexp.tables.frame import build_frame
from vexp.tables.render_text import sheet_of

SWEEP = """
name: demo
base: ['warm_start.seed=${seed}']
rows:
  grpo: {label: GRPO}
  dapo: {label: DAPO, algorithm: dapo}
  other: {label: Other, algorithm: dr_grpo}
  p: {label: p-value, compares: [dapo, grpo]}
seeds: [1, 2, 3]
table:
  baseline: grpo
  columns:
    - {id: a, metric: accuracy/a, scale: percent}
    - {id: b, metric: accuracy/b, scale: percent}
    - {id: mean, average: [a, b], scale: percent}
"""
VALUES = {
    "grpo": [(0.50, 0.30), (0.51, 0.32), (0.49, 0.31)],
    "dapo": [(0.60, 0.31), (0.62, 0.30), (0.59, 0.33)],
    "other": [(0.52, 0.33), (0.50, 0.31), (0.53, 0.34)],
}


@pytest.fixture
def frame(project):
    """A function from a sweep and the scores of its points to the frame."""

    def make(text=SWEEP, given=VALUES, measure=None):
        Path("demo.yaml").write_text(text)
        sweep = read_sweep(Path("demo.yaml"))
        results = {}
        for point in (found := points(sweep)):
            row = given.get(point.row.name, [])
            place = (point.seed or 1) - 1
            if place < len(row) and row[place] is not None:
                results[point.identity.hash] = (measure or scores)(row[place])
        return build_frame(sweep, found, results)

    return make


def scores(values):
    found = {f"accuracy/{n}": Score(v, None, 100) for n, v in zip("ab", values, strict=True)}
    return Measurements({"heldout": found})


def texts(frame):
    return {line.cells[0].text: [c.text for c in line.cells[1:]] for line in sheet_of(frame).lines}


def test_stars_are_paired_t_tests_over_seeds_with_holm_per_column(frame):
    found = {row.row.name: row for row in frame().rows}
    for column in (0, 1):
        raw = [
            stats.ttest_rel(
                [seed[column] for seed in VALUES[name]], [seed[column] for seed in VALUES["grpo"]]
            ).pvalue
            for name in ("dapo", "other")
        ]
        adjusted = multipletests(raw, method="holm")[1]
        for name, p in zip(("dapo", "other"), adjusted, strict=True):
            assert found[name].differences[column].p == pytest.approx(p, abs=1e-9)
    assert texts(frame())["DAPO"][0] == "60.3 ± 1.5 (n=3) Δ +10.3**"
    assert texts(frame())["Other"][1].endswith("Δ +1.7")


def test_an_average_is_taken_per_run_before_the_spread(frame):
    found = {row.row.name: row for row in frame().rows}["dapo"].cells[2]
    means = [(a + b) / 2 for a, b in VALUES["dapo"]]
    assert found.summary.mean == pytest.approx(sum(means) / 3)
    assert found.summary.sd == pytest.approx(stats.tstd(means))


def test_a_run_without_one_part_has_no_average(frame):
    def measure(values):
        found = {"accuracy/a": Score(values[0], None, None)}
        return Measurements({"heldout": found}, benchmarks={"b": Score(values[1], None, None)})

    text = SWEEP.replace("metric: accuracy/b,", "benchmark: b,")
    whole = texts(frame(text, measure=measure))
    assert whole["GRPO"][2] == "40.5 ± 0.9 (n=3)"

    def partly(values):
        found = measure(values)
        return found if values[0] != 0.49 else Measurements(found.metrics)

    part = texts(frame(text, measure=partly))
    assert part["GRPO"][0].endswith("(n=3)")
    assert part["GRPO"][1:] == ["31.0 ± 1.4 (2/3)", "40.8 ± 1.1 (2/3)"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_never_earn_a_star(frame, seeds):
    text = SWEEP.replace("seeds: [1, 2, 3]", f"seeds: {list(range(1, seeds + 1))}")
    given = {"grpo": [(0.1, 0.1), (0.11, 0.1)], "dapo": [(0.9, 0.9), (0.95, 0.8)]}
    found = sheet_of(frame(text, given))
    assert not any("*" in cell.text for line in found.lines for cell in line.cells)
    assert "differences over fewer than 3 seeds are not tested" in found.notes
    assert texts(frame(text, given))["p-value"][0] == "-"


def test_a_row_of_p_values_is_the_uncorrected_test(frame):
    p = stats.ttest_rel(*([seed[0] for seed in VALUES[name]] for name in ("dapo", "grpo"))).pvalue
    assert texts(frame())["p-value"][0] == f"{p:.3f} (n=3)"


RUNS = {  # of 8 sampled runs of one checkpoint: mean and spread
    "grpo": [(0.6965, 0.0034), (0.1, 0.01), (0.2, 0.01)],
    "dapo": [None, (0.13, 0.02), (0.9, 0.01)],
}


def sampled(values):
    score = Score(values[0], None, 100, sampled=(values[1], 8))
    return Measurements({"heldout": {"accuracy/a": score, "accuracy/b": Score(0.5, None, 100)}})


def test_sampled_runs_are_those_of_the_first_seed_that_both_have(frame):
    text = SWEEP.replace("[dapo, grpo]}", "[dapo, grpo], test: sampled_runs}")
    expected = stats.ttest_ind_from_stats(0.13, 0.02, 8, 0.1, 0.01, 8, equal_var=False)
    built = frame(text, RUNS, sampled)
    assert texts(built)["p-value"] == [f"{expected.pvalue:.3f} (n=8)", "-", "-"]
    notes = "\n".join(sheet_of(built).notes)
    assert "Welch t-test between the n sampled runs" in notes
    assert "paired t-test over n" not in notes
    greedy = frame(text)
    assert texts(greedy)["p-value"] == ["-", "-", "-"]
    assert any(note.startswith("p-value: no cell has sampled") for note in sheet_of(greedy).notes)


def test_two_seeds_that_share_both_runs_are_one_pair(frame):
    text = SWEEP.replace("base: ['warm_start.seed=${seed}']\n", "")
    text = text.replace("{label: GRPO}", "{label: GRPO, stages: [warm_start]}")
    text = text.replace("algorithm: dapo}", "stages: [warm_start], warm_start.steps: 9}")
    found = {row.row.name: row for row in frame(text).rows}
    assert found["dapo"].differences[0].n == 1
    assert found["dapo"].differences[0].p is None


def test_published_numbers_stand_beside_ours(frame):
    text = """
rows:
  baseline_dapo: {label: DAPO, algorithm: dapo}
  late_trajectory_ours: {label: VGPO, credit: vgpo}
  full_trajectory: {label: Full, external: true}
seeds: [1, 2]
table:
  reference: vgpo/table12
  columns:
    - {id: mathvista, benchmark: mathvista_testmini, scale: percent}
    - {id: geo3k, benchmark: geometry3k, scale: percent}
"""

    def measure(value):
        score = Score(value, None, None, "v1")
        return Measurements({}, benchmarks={"mathvista_testmini": score})

    found = frame(text, {"baseline_dapo": [0.7, 0.72]}, measure)
    shown = texts(found)
    assert shown["DAPO"] == ["71.0 ± 1.4 (n=2) | 68.7 | +2.3 ≠", "0/2 | 45.6 ≠"]
    assert shown["VGPO"] == ["0/2 | 74.1 ≠", "0/2 | 45.8 ≠"]
    assert shown["Full"] == ["71.4", "37.3"]
    notes = "\n".join(sheet_of(found).notes)
    assert "≠ backbone tiny_qwen2_5_vl, published qwen2_5_vl_7b (all rows)" in notes
    assert "≠ data.train: ViRL39K in the paper, digits_vqa here (all rows)" in notes
    assert "rows without n: constants from vgpo/table12" in notes


def test_other_decoding_than_the_published_is_said(frame):
    text = """
rows: {baseline_dapo: {label: DAPO, algorithm: dapo}}
table:
  reference: vgpo/table12
  columns: [{id: mathvista, benchmark: mathvista_testmini, scale: percent}]
"""

    def measure(value):
        score = {"mathvista_testmini": Score(value, None, None)}
        how = {"mathvista_testmini": "sampled at temperature 1"}
        return Measurements({}, benchmarks=score, decoding=how)

    notes = "\n".join(sheet_of(frame(text, {"baseline_dapo": [0.7]}, measure)).notes)
    assert "≠ decoding sampled at temperature 1, published greedy decoding" in notes


def test_two_versions_of_a_benchmark_are_never_averaged(frame):
    text = SWEEP.replace("metric: accuracy/b,", "benchmark: b,")

    def measure(values):
        version = "v2" if values[0] == 0.51 else "v1"
        score = Score(values[1], None, None, version)
        found = {"accuracy/a": Score(values[0], None, None)}
        return Measurements({"heldout": found}, benchmarks={"b": score})

    with pytest.raises(RunError, match="'b' was measured with two versions") as caught:
        frame(text, measure=measure)
    assert "'v1' in run" in str(caught.value) and "'v2' in run" in str(caught.value)


def test_percent_among_shares_is_refused_even_without_a_scale(frame):
    text = SWEEP.replace(", scale: percent", "")
    given = VALUES | {"dapo": [(0.6, 0.3), (62.0, 0.3), (0.6, 0.3)]}
    with pytest.raises(RunError, match="'accuracy/a' is 62, but it is a share"):
        frame(text, given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("baseline: grpo", "baseline: gpro"), "there is no row 'gpro'"),
        (("average: [a, b]", "average: [a, c]"), "there is no column 'c'"),
        (("metric: accuracy/b, scale: percent", "metric: accuracy/b"), "on another scale"),
        (("metric: accuracy/b,", "metric: accuracy/b, cost: total_s,"), "metric and cost"),
        (("metric: accuracy/b, ", ""), "this one has none of them"),
        (("compares: [dapo, grpo]", "compares: [dapo]"), "a comparison takes two rows"),
        (("compares: [dapo, grpo]", "compares: [dapo, none]"), "there is no row 'none'"),
        (("compares: [dapo, grpo]", "external: true"), "the table has no `reference`"),
        (("compares: [dapo, grpo]", "test: sampled_runs"), "a test is of two rows"),
        (("[dapo, grpo]}", "[dapo, grpo], test: runs}"), "sampled_runs"),
        (("label: DAPO,", "label: GRPO,"), "two rows are called 'GRPO'"),
    ],
)  # fmt: skip
def test_mistakes_of_the_table_are_named_with_their_line(project, change, message):
    assert change[0] in SWEEP
    Path("demo.yaml").write_text(SWEEP.replace(*change))
    with pytest.raises(ConfigError) as caught:
        read_sweep(Path("demo.yaml"))
    assert message in str(caught.value)
    assert "demo.yaml:" in str(caught.value)


def test_a_row_that_the_published_table_lacks_is_named(frame):
    text = SWEEP.replace("  baseline: grpo", "  baseline: grpo\n  reference: vgpo/table12")
    text = text.replace("compares: [dapo, grpo]", "external: true")
    with pytest.raises(ConfigError, match="vgpo/table12 has no row 'p'"):
        frame(text)


def test_rows_of_one_scale_only(project):
    """Overrides under `at` count at their scale and are read at every scale."""
    text = "at: {big: [rl.steps=7]}\nrows: {a: {at: {tiny: [rl.steps=3]}}}"
    Path("demo.yaml").write_text(text)
    assert points(read_sweep(Path("demo.yaml")))[0].run.rl.steps == 3
    big = read_sweep(Path("demo.yaml"), extra=["scale=big"])
    assert [o.text for o in big.base] == ["rl.steps=7"] and not big.rows[0].overrides
    Path("demo.yaml").write_text("at: {big: {a: 1}, other: [1]}\nrows: {a: []}")
    with pytest.raises(ConfigError, match="an override is text like key=value, got 1"):
        read_sweep(Path("demo.yaml"))
