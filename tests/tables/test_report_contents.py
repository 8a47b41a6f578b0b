"""A report as data: curves, sensitivity, diagnostics, examples; what is missing or damaged."""

from __future__ import annotations

import base64
import json
import math
import shutil
import statistics
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables.reported import HOSTILE, STEPS, finished_sweep, metrics_row, png
from vexp.diagnostics.gallery import image_data
from vexp.files import append_line
from vexp.registry import REGISTRY
from vexp.runs.engine_switch import Switch, write_record
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
from vexp.tables.report import gallery as galleries
from vexp.tables.report.charts import series, slug
from vexp.tables.report.contents import report_of
from vexp.tables.report.curves import _binned
from vexp.tables.report.page import page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep, made once; tests that change results work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finished_sweep(folder)
    return folder


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return SimpleNamespace(folder=tmp_path / "here")


def report():
    return report_of(make_plan(read_sweep(Path("demo.yaml"))))


def chart(found, name):
    return next(c for c in (*found.charts, *found.curves.more) if c.name == name)


def folders(project, pattern):
    return sorted((project.folder / "results/runs").glob(pattern))


def test_curves_are_means_over_seeds_with_their_range(project):
    found = chart(report(), "curve-reward")
    assert [each.line for each in found.series] == list(range(6))
    first = found.series[0]  # runs 0 and 1; 130 steps in portions of three
    expected = []
    for start in range(1, STEPS + 1, 3):
        steps = range(start, min(start + 3, STEPS + 1))
        expected.append(
            [statistics.fmean(metrics_row(s, run)["reward"] for s in steps) for run in (0, 1)]
        )
    assert first.x == tuple(start + 1 for start in range(1, STEPS + 1, 3))
    assert first.mean == pytest.approx([statistics.fmean(pair) for pair in expected])
    assert first.low == pytest.approx([min(pair) for pair in expected])
    assert first.high == pytest.approx([max(pair) for pair in expected])
    assert first.n == 2
    assert "mean of 3 steps" in found.notes[0]


def test_a_line_with_a_run_that_went_on_with_another_engine_says_so(project):
    before = [line.label for line in report().lines]
    plan = make_plan(read_sweep(Path("demo.yaml")))
    folder = project.folder / "results/runs" / plan.runs[0].name
    write_record(folder, [Switch(2, {"name": "hf"}, {"name": "vllm"}, "now")])
    assert [line.label for line in report().lines] == [f"{before[0]} (mixed)", *before[1:]]
    assert "rl.learning_rate=1e-05 (mixed)" in page(report())


@given(
    st.lists(st.dictionaries(st.integers(1, 40), st.floats(-1e3, 1e3), max_size=40), max_size=4),
    st.integers(1, 9),
)
def test_portions_of_steps_against_a_plain_loop(seeds, width):
    found = {}
    for step in range(1, 41, width):
        for values in seeds:
            own = [values[s] for s in range(step, step + width) if s in values]
            if own:
                found.setdefault(step + (width - 1) / 2, []).append(sum(own) / len(own))
    binned = _binned(seeds, width)
    assert binned.keys() == found.keys()
    for x, values in found.items():
        assert list(binned[x]) == pytest.approx(values, abs=1e-9)


def test_a_series_without_values_is_none():
    assert series(0, {}) is None
    assert series(0, {1.0: []}) is None
    assert slug("entropy/grounded") == "entropy-grounded"
    assert slug("Entropy/Grounded (nats)").startswith("entropy-grounded-nats-")


def test_metrics_that_nobody_logged_are_said_with_what_to_do(project):
    found = report().curves
    assert [c.name for c in found.charts] == [
        "curve-reward", "curve-accuracy", "curve-response-length", "curve-entropy",
        "curve-entropy-grounded",
    ]  # fmt: skip
    assert len(found.missing) == 1
    assert "Entropy of all other tokens" in found.missing[0]
    assert "grounded" in found.missing[0]


def test_a_damaged_curve_is_named_and_ends_there(project):
    (path, *_) = folders(project, "grpo*/attempts/0001/metrics.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:9], lines[9][:20], *lines[10:]]))
    found = report()
    run = path.parents[2].name
    assert [p for p in found.problems if "line 10" in p and run in p]
    whole = [each for each in chart(found, "curve-reward").series if each.n == 2]
    assert len(whole) == 6
    assert len(chart(found, "curve-reward").series[0].x) == math.ceil(STEPS / 3)


@pytest.mark.parametrize("row", ['{"reward": 1}', '{"step": "7"}', '{"step": true}'])
def test_rows_without_a_step_are_damage(project, row):
    (path, *_) = folders(project, "grpo*/attempts/0001/metrics.jsonl")
    path.write_text(row + "\n" + path.read_text())
    assert [p for p in report().problems if "metrics.jsonl" in p]


def test_infinite_values_have_no_place_in_a_curve(project):
    (path, *_) = folders(project, "grpo*/attempts/0001/metrics.jsonl")
    path.write_text(path.read_text() + '{"step": 131, "reward": Infinity, "loss": NaN}\n')
    found = report()
    assert all(math.isfinite(v) for s in chart(found, "curve-reward").series for v in s.high)
    assert "curve-loss" not in [c.name for c in found.curves.more]


def test_sensitivity_is_the_table_over_a_numeric_axis(project):
    found = report()
    accuracy = chart(found, "sensitivity-rl-learning-rate-accuracy")
    assert accuracy.log_x
    assert [each.line for each in accuracy.series] == [0, 3]
    grpo, dapo = accuracy.series
    assert grpo.x == dapo.x == (1e-5, 1e-4, 1e-3)
    assert grpo.mean == pytest.approx((50.5, 52.5, 54.5))
    assert dapo.low == pytest.approx((56, 58, 60))
    mass = chart(found, "sensitivity-rl-learning-rate-evidence-mass")
    assert mass.series[0].high == pytest.approx((0.31, 0.33, 0.35))


def test_rows_of_a_group_that_set_one_key_are_an_axis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = finished_sweep(
        tmp_path,
        """
name: figure
rows:
  plain: {label: default}
  a: {label: "0", group: clip, algorithm.clip_low: 0.0}
  b: {label: "0.1", group: clip, algorithm.clip_low: 0.1}
  c: {label: other, group: clip, algorithm: dapo}
table:
  baseline: plain
  columns: [{metric: accuracy, scale: percent}]
""",
    )
    (found,) = report_of(plan).sensitivity.charts
    (line,) = found.series
    assert found.x == "algorithm.clip_low"
    assert line.x == (0.0, 0.1, 0.2)  # the baseline's own value is the last
    assert line.mean == pytest.approx((51, 52, 50))
    assert not found.log_x


def test_a_sweep_without_numbers_has_no_sensitivity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = finished_sweep(tmp_path, "rows: {a: [], b: [algorithm=dapo]}\nseeds: [1, 2]\n")
    found = report_of(plan)
    assert not found.sensitivity.charts
    assert found.sheet is None
    assert "declares no table" in found.no_table
    assert "evaluator.diagnostics=diagnostics" in found.diagnostics.missing[0]
    assert [line.label for line in found.lines] == ["a", "b"]


def test_diagnostics_by_bin_along_the_answer_and_correlation(project):
    found = report()
    wrong = chart(found, "diagnostics-wrong-by-kl")
    assert wrong.series[0].x == (1, 2, 3, 4, 5)
    assert wrong.series[0].mean == pytest.approx([n / 10 + 0.005 for n in range(1, 6)])
    image = chart(found, "diagnostics-attention-image-at")
    assert image.series[0].x == (1, 2, 3, 4)
    assert image.series[0].mean == pytest.approx([n / 100 + 0.0005 for n in range(1, 5)])
    assert "diagnostics-attention-image-entropy" not in [c.name for c in found.charts]
    rank = chart(found, "diagnostics-attention-kl-spearman")
    assert rank.kind == "dots"
    assert rank.series[1].mean == pytest.approx([-0.2 + 2.5 / 50])
    assert "diagnostics-focus-correlation" not in [c.name for c in found.charts]


def test_a_handful_of_answers_shows_no_correlation(project):
    for path in folders(project, "*/evaluations/diagnostics-*/results.json"):
        content = json.loads(path.read_text())
        for name, entry in content["metrics"].items():
            entry["n"] = 9 if "bin" in name else 49
        path.write_text(json.dumps(content))
    found = report().diagnostics
    assert not found.charts and found.missing


def test_examples_stand_side_by_side_in_one_order(project):
    found = report().gallery
    assert [q.id for q in found.questions] == [f"main/test/{n:06d}" for n in range(3)]
    first = found.questions[0]
    assert sorted(first.answers) == list(range(6))
    titles = [answer["title"] for answer in first.answers[0]]
    assert titles == ["greedy answer"] + [f"sampled response {n}" for n in range(3)]
    assert [answer["title"] for answer in found.questions[1].answers[5]] == titles
    assert [answer["title"] for answer in found.questions[2].answers[5]] == titles[:1]
    greedy, sampled, other, _ = first.answers[0]
    assert greedy["tokens"][2] == "<script>alert(1)</script>"
    assert greedy["correct"] is False
    assert sampled["values"]["credit"] == [1.0, 2.0, -0.5, 1.0, 1.0, 1.5, 1.0]
    assert "attention" in sampled and "attention" not in other
    assert other["values"] == sampled["values"]
    assert first.boxes == [[0.5, 0.0, 1.0, 0.5]]


def rewrite(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def without_gallery(row):
    row.pop("gallery", None)


def test_without_kept_pictures_images_are_made_again(project):
    for path in folders(project, "*/evaluations/*/samples.jsonl"):
        rewrite(path, without_gallery)
    found = report().gallery
    assert len(found.questions) == galleries.QUESTIONS
    assert "+evaluator.gallery={name: diagnostics" in found.missing[0]
    item = REGISTRY.get("dataset", "digits_vqa")().item("test", 4)
    assert found.questions[4].image == image_data(item.image)
    assert len(found.questions[4].boxes) == len(item.boxes)
    assert found.questions[4].boxes[0] == pytest.approx(
        [side / 56 for side in item.boxes[0]], abs=1e-4
    )


def test_rows_with_other_data_share_no_question(project):
    """The same id and the same words, but another image."""
    for path in folders(project, "dapo*/evaluations/*/samples.jsonl"):
        rewrite(path, lambda row: row.get("gallery", {}).update(image=png("blue")))
    found = report().gallery
    assert [q.id[-1] for q in found.questions] == list("001122")
    red, blue = found.questions[:2]
    assert (red.image, blue.image) == (png("red"), png("blue"))
    assert (sorted(red.answers), sorted(blue.answers)) == ([0, 1, 2], [3, 4, 5])
    assert [len(own) for own in blue.answers.values()] == [4, 4, 4]


def test_a_sharp_in_an_id_is_part_of_it(project):
    for path in folders(project, "*/evaluations/*/samples.jsonl"):
        rewrite(path, lambda row: row.update(id=row["id"].replace("test/00000", "p.jpg#")))
    found = report().gallery
    assert [q.id for q in found.questions] == ["main/p.jpg#0", "main/p.jpg#1", "main/p.jpg#2"]
    titles = [answer["title"] for answer in found.questions[1].answers[5]]
    assert titles == ["greedy answer", *(f"sampled response {n}" for n in range(3))]


def test_rows_with_other_data_have_images_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = "{label: B, mix.datasets.main.seed: 3}"
    plan = finished_sweep(tmp_path, f"rows: {{a: {{label: A}}, b: {other}}}\nseeds: [1]\n")
    found = report_of(plan).gallery.questions
    assert len(found) == 2 * galleries.QUESTIONS
    for number, question in enumerate(found):
        index, row = divmod(number, 2)
        assert list(question.answers) == [row]
        item = plan.points[row].run.mix.datasets["main"].item("test", index)
        assert question.image == image_data(item.image)


DAMAGE = {
    "cut off": lambda g: g["attention"].update(data=g["attention"]["data"][:12]),
    "other size": lambda g: g["attention"].update(rows=3),
    "a bomb": lambda g: g["attention"].update(
        data=base64.b64encode(zlib.compress(bytes(10_000_000))).decode()
    ),
    "no image": lambda g: g.update(image="https://evil.test/x.png"),
    "an SVG": lambda g: g.update(image="data:image/svg+xml;base64,AAAA"),
    "no boxes": lambda g: g.update(boxes="all"),
    "half a box": lambda g: g.update(boxes=[[0.1, 0.2]]),
    "no number": lambda g: g["values"].update(entropy=[math.nan] * 7),
}
ODD = (None, {}, "x", math.nan, [[1]], 10**400)


@pytest.mark.parametrize("file", ["samples.jsonl", "results.json"])
def test_no_damage_stops_the_report(project, file):
    """Each value of an evaluation in turn becomes something else."""
    (path, *_) = folders(project, f"grpo*/evaluations/diagnostics-*/{file}")
    whole = path.read_text()
    first, _, rest = whole.partition("\n") if file == "samples.jsonl" else (whole, "", "")
    plan = make_plan(read_sweep(Path("demo.yaml")))
    for keys in list(places(json.loads(first))):
        for odd in ODD:
            changed = json.loads(first)
            inner = changed
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = odd
            path.write_text(f"{json.dumps(changed)}\n{rest}")
            assert page(report_of(plan)).endswith("</html>"), (keys, odd)


def places(content, before=()):
    """Paths to all values, down to the third level, but for what the protocol holds."""
    for key, value in content.items():
        yield (*before, key)
        if isinstance(value, dict) and key not in ("protocol", "values") and len(before) < 2:
            yield from list(places(value, (*before, key)))[:6]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_picture_is_named_and_left_out(project, name):
    (path, *_) = folders(project, "grpo*/evaluations/diagnostics-*/samples.jsonl")
    rewrite(path, lambda row: DAMAGE[name](row["gallery"]) if "gallery" in row else None)
    found = report()
    assert [p for p in found.problems if str(path.parent.name) in p]
    text = json.dumps([q.image for q in found.gallery.questions])
    assert "evil" not in text and "svg" not in text


def test_a_half_written_evaluation_is_named_and_the_rest_shown(project):
    (path, *_) = folders(project, "grpo*/evaluations/heldout-*/results.json")
    path.write_text(path.read_text()[:50])
    found = report()
    (problem,) = (p for p in found.problems if "damaged" in p)
    assert path.parents[2].name in problem
    halves = [line for line in found.sheet.lines if any("(1/2)" in c.text for c in line.cells)]
    assert len(halves) == 1


def test_scores_that_no_table_can_hold_leave_the_rest_standing(project):
    (path, *_) = folders(project, "grpo*/evaluations/heldout-*/results.json")
    content = json.loads(path.read_text())
    content["metrics"]["accuracy"]["value"] = 61.5
    path.write_text(json.dumps(content))
    found = report()
    assert found.sheet is None
    assert "61.5" in found.no_table
    assert found.curves.charts and found.gallery.questions


def test_unfinished_runs_are_counted(project):
    shutil.rmtree(folders(project, "dapo*")[0])
    found = report()
    assert (found.counts["done"], found.counts["new"]) == (11, 1)
    assert sorted(s.n for s in chart(found, "curve-reward").series) == [1, 2, 2, 2, 2, 2]


def test_attempts_that_were_not_published_do_not_count(project):
    (run, *_) = folders(project, "grpo*")
    shutil.copytree(run / "attempts/0001", run / "attempts/0002")
    append_line(run / "attempts/0002/metrics.jsonl", {"step": 131, "reward": 1e6})
    assert max(chart(report(), "curve-reward").series[0].high) < 1e3


def test_questions_are_left_out_before_the_page_is_too_large(project, monkeypatch):
    whole = report().gallery
    size = len(whole.questions[0].image) + len(json.dumps([*whole.questions[0].answers.values()]))
    monkeypatch.setattr(galleries, "MOST_BYTES", int(1.5 * size))
    found = report().gallery
    assert len(found.questions) == 1
    assert "2 of 3 questions are left out" in found.missing[0]


def test_labels_of_rows_are_unique(project):
    labels = [line.label for line in report().lines]
    assert len(set(labels)) == 6
    assert labels[0] == f"{HOSTILE} rl.learning_rate=1e-05"
