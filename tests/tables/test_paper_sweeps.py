"""The sweep of every published table: its rows, columns and settings against the published ones."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from vexp.config.scalars import read_scalar
from vexp.config.schema import to_dict
from vexp.paths import shipped
from vexp.registry import REGISTRY
from vexp.runs.record import flattened
from vexp.spec.resolve import resolve
from vexp.sweeps.locate import find_sweep
from vexp.sweeps.plan import make_plan
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep
from vexp.tables import reference
from vexp.tables.frame import build_frame
from vexp.tables.render_text import sheet_of
from vexp.tables.source_keys import BASES, KEYS, PENDING, translated

TABLES = [name for name in reference.names() if name != "figure_scalars"]  # not a table
FIGURES = ["ease/figure5", "ease/figure6", "vgpo/figure5"]
SCALES = {"ease": "ease_paper", "vicra": "vicra_paper", "vgpo": "vgpo_paper", "sayo": "sayo_paper"}
BACKBONES = {
    "qwen2_vl_2b", "qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_5_vl_32b", "qwen3_vl_4b", "qwen3_vl_8b",
    "internvl3_5_8b", "llama3_2_vision_11b",
}  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "reference.md"


@functools.cache
def read(name):
    return read_sweep(find_sweep(name))


@functools.cache
def resolved(name):
    """Row -> the resolved run of its first point, at scale=tiny."""
    return {point.row.name: point.run for point in reversed(points(read(name)))}


def test_every_published_table_has_a_sweep_and_no_other_names_one():
    home = shipped("sweeps")
    papers = {p for name in TABLES for p in [name.partition("/")[0]]}
    files = {
        str(path.relative_to(home).with_suffix(""))
        for paper in papers
        for path in (home / paper).glob("*.yaml")
    }
    assert files == {*TABLES, *FIGURES}
    assert all(read(name).table.reference == name for name in TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_rows_and_columns_are_the_published_ones(name):
    found, sweep = reference.load(name), read(name)
    assert [row.name for row in sweep.rows] == [row.id for row in found.rows]
    assert [row.label for row in sweep.rows] == [row.label for row in found.rows]
    keys = [column.key for column in sweep.table.columns if not column.hidden]
    assert [key for key in keys if key != "digits_vqa"] == [column.id for column in found.columns]
    for ours, theirs in zip(sweep.rows, found.rows, strict=True):
        constant = theirs.kind in ("external", "setting")
        assert ours.external == constant, ours.name
        assert bool(ours.compares) == (theirs.kind == "derived")
    for column in found.columns:
        ours = sweep.table.column(column.id)
        if column.average and ours.average:
            assert ours.average == column.average
        if column.benchmark and ours.benchmark:
            assert ours.benchmark == column.benchmark


def held(key, value, run):
    """Whether a setting, as text, holds in a resolved run."""
    if value == "dapo_ease":  # a setting of dapo, in conf/algorithm
        return (run["algorithm.name"], run["algorithm.clip_high"]) == ("dapo", 0.3)
    if value == "null":
        return not any(each == key or each.startswith(f"{key}.") for each in run)
    if f"{key}.name" in run:
        return run[f"{key}.name"] == value
    return key in run and run[key] == read_scalar(value)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_run_as_it_was_published(name):
    found = reference.load(name)
    runs = resolved(name) if any(row.runs for row in read(name).rows) else {}
    for row in found.rows:
        mapped = translated(found, row)
        if row.id not in runs:
            continue
        run = flattened(to_dict(runs[row.id]))
        for key, value in mapped.settings():
            if key == "backbone":  # real at the paper's scale, see below
                continue
            if key == "stages":  # an untrained model is the warm start at scale=tiny
                assert run["stages"] == ["warm_start"], row.id
                break
            assert held(key, value, run), f"{row.id}: {key}={value}"


def test_every_mapping_resolves_or_is_said_to_be_pending():
    pending = set()
    for key, values in KEYS.items():
        pending |= {f"{key}: {value}" for value, ours in values.items() if ours == PENDING}
    assert pending == {"data.train: ViRL39K", "data.train: Geo3K", "data.train: MMK12"}
    given = set()
    for name in TABLES:
        found = reference.load(name)
        base = ["experiment=sayo"] if found.paper == "sayo" else []
        for row in found.rows:
            overrides = translated(found, row).overrides
            backbones = {text.partition("=")[2] for text in overrides if "backbone=" in text}
            assert backbones <= BACKBONES
            given.add((*base, *(text for text in overrides if "backbone=" not in text)))
    for overrides in given:
        resolve(overrides)


def test_the_docs_show_every_key_of_the_papers():
    text = DOCS.read_text("utf-8")
    for key in [*KEYS, "algo.base"]:
        assert f"| `{key}` |" in text, key
    for paper, bases in BASES.items():
        for base in bases:
            assert f"`{base}`" in text, (paper, base)


@pytest.mark.parametrize("name", [*TABLES, *FIGURES])
def test_it_plans_at_the_papers_scale(name, project):
    for backbone in BACKBONES - set(REGISTRY.names("backbone")):  # a variant stands in for it
        path = project / "conf" / "backbone" / f"{backbone}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("name: tiny_qwen2_5_vl\n")
    scale = SCALES.get(name.partition("/")[0])
    if not any(row.runs for row in read(name).rows):
        plan = make_plan(read(name))
        assert not plan.points and plan.complete
        return
    # the rows ask for their own backbones; the command line wins
    extra = [f"scale={scale}", "backbone=tiny_qwen2_5_vl"]
    sweep = read_sweep(find_sweep(name), extra=extra)
    plan = make_plan(sweep)
    assert {point.row.name for point in plan.points} == {r.name for r in sweep.rows if r.runs}
    trained = [point.run for point in plan.points if point.run.stages]
    assert {run.stages for run in trained} == {("rl",)}
    assert {run.rl.prompts_per_step for run in trained} <= {24, 512}
    wanted = {o.text for row in sweep.rows for o in row.overrides} | {o.text for o in sweep.base}
    real = {text.partition("=")[2] for text in wanted if text.startswith("backbone=")}
    assert real and real <= BACKBONES | {"tiny_qwen2_5_vl"}


def test_every_row_of_ease_table3_is_another_computation():
    sweep = read("ease/table3")
    found = [point for point in points(sweep) if point.seed == 1]
    assert len(found) == 10
    assert len({point.identity.hash for point in found}) == 10
    assert {point.run.backbone.name for point in found} == {"tiny_qwen2_5_vl"}  # the default one
    runs = {point.row.name: point.run for point in found}
    depth = runs["ease_ours"].backbone.decoder_layers
    rows = ("ease_ours", "early_layer", "central_middle_layer", "final_layer")
    layers = [runs[row].auxiliary["ease"].layer.index(depth) for row in rows]
    assert len(set(layers)) == 4  # another id alone could still be the same layer
    protocols = {json.dumps(dict(r.evaluator["heldout"].protocol(r))) for r in runs.values()}
    assert len(protocols) == 1  # whatever they train on, they are asked the same


def test_points_that_no_paper_states_say_so(project):
    for name, stated in (
        ("ease/figure6", {"default", "lambda_0", "alpha_0", "tokens_128"}),
        ("vgpo/figure5", {"default"}),
    ):
        sweep = read(name)
        assert {row.name for row in sweep.rows if not row.proposed} == stated
        shown = sheet_of(build_frame(sweep, [p for p in points(sweep) if p.seed == 1], {}))
        labels = [line.cells[0].text for line in shown.lines]
        assert sum("(proposed)" in label for label in labels) == len(sweep.rows) - len(stated)
        assert any("a point that the paper does not state" in note for note in shown.notes)


def test_baselines_of_two_papers_never_share_a_table():
    for name in TABLES:
        sweep = read(name)
        home = name.partition("/")[0]
        assert sweep.table.reference.startswith(f"{home}/")
        scales = {scale for row in sweep.rows for scale in _scales(row)} - {"tiny"}
        assert scales <= {SCALES.get(home)}


def _scales(row):
    return [text.text.partition("=")[2] for text in row.overrides if text.text.startswith("scale=")]
