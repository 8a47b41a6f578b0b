"""Which results go into which cell, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexp.errors import RunError
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep
from vexp.tables.cells import Measurements, Score
from vexp.tables.frame import build_frame
from vexp.tables.render import FORMATS
from vexp.tables.render_text import sheet_of

SWEEP = """
name: demo
base: ['warm_start.seed=${seed}']
rows:
  base: {label: Warm start, stages: [warm_start]}
  grpo: {label: "GRPO | plain"}
  dapo: {label: DAPO, algorithm: dapo}
seeds: [1, 2]
table:
  title: Accuracy
  baseline: base
  rows: [base, dapo, grpo]
  columns:
    - {metric: accuracy, label: All, scale: percent}
    - {metric: length, digits: 2}
"""
VALUES = {
    ("base", 1): {"accuracy": 0.40, "length": 10.0},
    ("base", 2): {"accuracy": 0.44, "length": 12.0},
    ("grpo", 1): {"accuracy": 0.50, "length": 9.0},
    ("grpo", 2): {"accuracy": 0.53, "length": 9.5},
    ("dapo", 2): {"accuracy": 0.60, "length": 8.0},
}


def markdown(frame):
    return FORMATS["md"](sheet_of(frame))


def means(row):
    return tuple(difference and difference.mean for difference in row.differences)


@pytest.fixture
def frame(project):
    """A function from a sweep's text and values by (row, seed) to the frame."""

    def make(text=SWEEP, given=VALUES):
        path = Path("demo.yaml")
        path.write_text(text)
        sweep = read_sweep(path)
        found = points(sweep)
        results = {}
        for point in found:
            measured = given.get((point.row.name, point.seed))
            if measured is not None:
                scores = {name: Score(value, 0.01, 100) for name, value in measured.items()}
                results[point.identity.hash] = Measurements({"heldout": scores})
        return build_frame(sweep, found, results)

    return make


def test_cells_against_hand_computation(frame):
    found = frame()
    assert [row.row.heading for row in found.rows] == ["Warm start", "DAPO", "GRPO | plain"]
    base, dapo, grpo = found.rows
    assert base.cells[0].summary.mean == pytest.approx(0.42)
    assert base.cells[0].summary.sd == pytest.approx(0.0282842712474619)
    assert (grpo.cells[1].summary.mean, grpo.cells[1].summary.n) == (9.25, 2)
    assert means(base) == (None, None)
    assert means(grpo) == pytest.approx((0.095, -1.75))
    # only seed 2 is finished: the difference is to the baseline's seed 2, not to its mean
    assert means(dapo) == pytest.approx((0.16, -4.0))
    assert (len(dapo.cells[0].measured), dapo.cells[0].declared) == (1, 2)
    assert found.finished == 10


def test_markdown_is_this_to_the_byte(frame):
    assert markdown(frame()) == (
        "# Accuracy\n"
        "\n"
        "|  | All (%) | length |\n"
        "|---|---:|---:|\n"
        "| Warm start | 42.0 ± 2.8 (n=2) | 11.00 ± 1.41 (n=2) |\n"
        "| DAPO | **60.0 (1/2) Δ +16.0** | 8.00 (1/2) Δ -4.00 |\n"
        "| GRPO \\| plain | <u>51.5 ± 2.1 (n=2) Δ +9.5</u> | 9.25 ± 0.35 (n=2) Δ -1.75 |\n"
        "\n"
        "- mean ± sample standard deviation over seeds (n runs)\n"
        "- a single run has no spread\n"
        "- 1/2: one of two declared runs is finished\n"
        "- bold: best mean of the column, underlined: second; no claim that they differ\n"
        "- Δ: difference to Warm start, over the seeds that both have\n"
        "- differences over fewer than 3 seeds are not tested\n"
        "\n"
        "Made by `vexp table demo.yaml` from results alone.\n"
    )


def test_missing_cells_and_single_seeds_are_visible(frame):
    text = "rows: {a: []}\nseeds: [1, 2]\ntable: {columns: [{metric: accuracy}]}"
    assert "| a | 0/2 |" in markdown(frame(text, {}))
    assert "| a | 0.500 (1/2) |" in markdown(frame(text, {("a", 1): {"accuracy": 0.5}}))
    alone = "rows: {a: []}\ntable: {columns: [{metric: accuracy}]}"
    assert "| a | 0.500 (n=1) |" in markdown(frame(alone, {("a", None): {"accuracy": 0.5}}))


def test_a_run_that_all_seeds_share_counts_once(frame):
    text = SWEEP.replace("base: ['warm_start.seed=${seed}']\n", "")
    found = frame(text)
    base, _, grpo = found.rows
    assert (base.cells[0].declared, base.cells[0].summary.n) == (1, 1)
    # both seeds of the row are compared with that one run (whose value is that of seed 2 here)
    assert means(grpo)[0] == pytest.approx((0.50 + 0.53) / 2 - 0.44)


def test_axes_make_rows_of_their_own_and_never_mix(frame):
    text = """
rows: {base: {stages: [warm_start]}, grpo: []}
axes: {rollout.group_size: [4, 8], rl.steps: [5]}
seeds: [1]
table: {baseline: base, columns: [{metric: accuracy}]}
"""
    path = Path("axes.yaml")
    path.write_text(text)
    sweep = read_sweep(path)
    found = points(sweep)
    results = {
        point.identity.hash: Measurements({"heldout": {"accuracy": Score(0.1 * index, None, None)}})
        for index, point in enumerate(found)
    }
    built = build_frame(sweep, found, results)
    shown = [(row.row.name, dict(row.axes), row.cells[0].summary.mean) for row in built.rows]
    assert shown == [
        ("base", {"rollout.group_size": "any", "rl.steps": "5"}, 0.1),
        ("grpo", {"rollout.group_size": "4", "rl.steps": "5"}, 0.2),
        ("grpo", {"rollout.group_size": "8", "rl.steps": "5"}, pytest.approx(0.3)),
    ]
    assert [means(row)[0] for row in built.rows] == [
        None,
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]
    assert "|  | rollout.group\\_size | rl.steps | accuracy |" in markdown(built)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "'accuracy' is nan, which has no mean"),
     (float("inf"), "'accuracy' is inf"),
     (48.3, "'accuracy' is 48.3, but the column is declared as a percentage")],
)  # fmt: skip
def test_scores_that_cannot_be_averaged_are_refused_by_run(frame, value, message):
    given = VALUES | {("grpo", 1): {"accuracy": value, "length": 1.0}}
    with pytest.raises(RunError, match=message) as caught:
        frame(given=given)
    assert "run grpo-digits_vqa-s1-" in str(caught.value)


def test_a_finished_evaluation_without_the_metric_is_refused(frame):
    with pytest.raises(RunError, match="no metric 'length' was measured") as caught:
        frame(given=VALUES | {("grpo", 1): {"accuracy": 0.5, "lenght": 1.0}})
    assert "did you mean 'lenght'?" in str(caught.value)
