"""The disk that a sweep needs: measured where there is something to measure, else estimated."""

from __future__ import annotations

import os

import pytest

from vexp.spec.resolve import resolve
from vexp.sweeps.disk import estimate, needs, size_of, total
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.show import disk_lines, plan_data

TWO = "rows: {a: [], b: [algorithm=dapo]}\nseeds: [1, 2]"


def test_without_a_finished_run_it_is_estimated_from_the_config(plan):
    (need,) = needs(plan(TWO))
    assert (need.backbone, need.runs) == ("tiny_qwen2_5_vl", 4)
    assert need.basis.startswith("estimated from the config")
    assert need.total == 4 * need.bytes_each
    (line,) = disk_lines([need])
    assert "for 4 runs of tiny_qwen2_5_vl" in line
    assert plan_data(plan(TWO), [need])["bytes_needed"] == need.total


def test_finished_runs_are_measured(plan, fabricate):
    fabricate.done(plan(TWO).runs[0].training.run)
    (plan(TWO).runs[0].status.folder / "weights").write_bytes(bytes(1_000_000))
    (need,) = needs(plan(TWO))
    assert need.basis == "measured on 1 finished run like them"
    assert need.runs == 3
    assert 1_000_000 < need.bytes_each < 1_100_000


def test_a_finished_run_of_another_sweep_will_do_but_one_of_another_backbone_will_not(
    sweep, plan, fabricate
):
    fabricate.done(plan("base: [backbone.layers=3]\nrows: {a: []}").runs[0].training.run)
    (need,) = needs(make_plan(read_sweep(sweep("rows: {x: [seed=9]}", "other"))))
    assert "estimated" in need.basis
    text = "base: [backbone.layers=3]\nrows: {x: [seed=9]}"
    (need,) = needs(make_plan(read_sweep(sweep(text, "third"))))
    assert "measured" in need.basis


def test_a_finished_sweep_needs_nothing(plan, fabricate):
    for run in plan(TWO).runs:
        fabricate.done(run.training.run)
    assert needs(plan(TWO)) == []
    assert total([]) == 0


def test_the_estimate_counts_what_is_kept():
    one = estimate(resolve([]))
    assert estimate(resolve(["checkpoint.keep.best=2"])) == 3 * one
    assert estimate(resolve(["checkpoint.keep.every=10", "rl.steps=40"])) == 5 * one
    assert estimate(resolve(["stages=[]"])) == 0
    assert estimate(resolve(["stages=[warm_start]"])) == one


def test_hard_links_count_once(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    os.link(tmp_path / "a", tmp_path / "b")
    assert size_of(tmp_path) == 100


@pytest.mark.parametrize(
    "settings",
    [[], ["layers=2", "hidden_size=64", "heads=2", "kv_heads=1", "vision_hidden_size=32"]],
)
def test_the_backbones_own_count_is_about_that_of_the_real_model(settings):
    backbone = resolve([f"backbone.{text}" for text in settings]).backbone
    real = sum(p.numel() for p in backbone.load().model.parameters())
    assert backbone.parameters == pytest.approx(real, rel=0.1)


def test_a_local_models_files_tell_its_size(tmp_path):
    twin = resolve([]).backbone
    twin.load().save(tmp_path / "model")
    backbone = resolve(["backbone=qwen2_5_vl_3b", f"backbone.path={tmp_path / 'model'}"]).backbone
    real = sum(p.numel() for p in twin.load().model.parameters())
    assert backbone.parameters == real
    assert estimate(resolve(["backbone=qwen2_5_vl_7b", "backbone.path=no/model"])) is None
