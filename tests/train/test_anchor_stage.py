"""Faithful-MR1's stages: what is shared, what is supervised, resumed at every point, evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from tests.layouts import grid_of
from tests.train.fakes import SMALLEST, Folder, coin_run
from vexp.dataset.base import Item
from vexp.dataset.digits_vqa import DigitsVqa
from vexp.errors import ConfigError, DataError, Interrupted
from vexp.experience.batch import forward
from vexp.experience.evidence import token_mask
from vexp.policy.policy import Reading
from vexp.probe.attention import Probe
from vexp.spec.identity import stage_key, training_id
from vexp.spec.resolve import resolve
from vexp.train import auxiliary
from vexp.train.learner import load
from vexp.train.stages import train
from vexp.train.supervised import imitation

SHORT = (
    "warm_start.steps=3",
    "warm_start.batch_size=6",
    "anchor.steps=3",
    "anchor.batch_size=6",
    "rl.steps=2",
    "checkpoint.every=2",
)
FAITHFUL = ("experiment=faithful_mr1", "group_filter=none", *SHORT)
ANCHORED = (*FAITHFUL, "stages=[warm_start,anchor]")


def digest(model):
    files = sorted(path for path in model.rglob("*") if path.is_file())
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def stage_rows(folder, stage):
    (path,) = folder.root.glob(f"stages/{stage}-*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """All three stages without an interruption."""
    folder = Folder(tmp_path_factory.mktemp("straight"))
    return train(coin_run(*FAITHFUL), folder), folder


def test_all_three_stages_are_trained_in_their_order(straight):
    trained, folder = straight
    assert folder.built == ["warm_start", "anchor"]
    steps = [("warm_start", n) for n in (1, 2, 3)] + [("anchor", n) for n in (1, 2, 3)]
    assert folder.seen == [*steps, ("rl", 1), ("rl", 2)]
    assert trained.step == 2
    assert trained.model.parent.name == "step-000002"
    digests = [digest(model) for model in [*folder.root.glob("stages/*/model"), trained.model]]
    assert len({found["model.safetensors"] for found in digests}) == 3
    assert all(row["updates"] for row in folder.metrics)


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("after", range(1, 8))
def test_interrupted_anywhere_it_ends_in_the_same_bytes(straight, tmp_path, after, crash):
    trained, one = straight
    run = coin_run(*FAITHFUL)
    first = Folder(tmp_path, stop_after=after)
    if crash:
        first.stop_requested = lambda: killed_at(first, after)
    if after in (3, 6) and not crash:  # a stage that was complete is left as such
        first.stop_after = None
        first.stop_requested = lambda: killed_at(first, after)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(run, first)
    second = Folder(tmp_path, attempt=2)
    continued = train(run, second)
    assert digest(continued.model) == digest(trained.model)
    for name in ("optimizer.safetensors", "state.json"):
        assert (continued.checkpoint / name).read_bytes() == (
            trained.checkpoint / name
        ).read_bytes()
    for stage in ("warm_start", "anchor"):
        assert stage_rows(second, stage) == stage_rows(one, stage)
    assert [row for row in first.metrics if row["step"] <= second.resumed_at[0]] + (
        second.metrics
    ) == one.metrics


def killed_at(folder, count):
    if len(folder.seen) == count:
        raise KeyboardInterrupt
    return False


def test_the_warm_start_is_the_one_of_runs_without_the_token(straight, tmp_path):
    _, folder = straight
    other = Folder(folder.root, attempt=3)
    plain = coin_run(*SHORT, "stages=[warm_start]")
    alone = train(plain, other)
    assert other.built == []
    fresh = Folder(tmp_path)
    assert digest(train(plain, fresh).model) == digest(alone.model)
    assert not (alone.model / "emits.json").exists()
    assert stage_key(plain, "warm_start") == stage_key(coin_run(*FAITHFUL), "warm_start")


def test_no_stage_sees_the_tokens_of_later_ones():
    run = coin_run(*FAITHFUL)
    plain = load(coin_run(*SHORT), None, "cpu", "warm_start")
    early = load(run, None, "cpu", "warm_start")
    late = load(run, None, "cpu", "rl")
    assert early.emits == {}
    assert torch.equal(early.banned, plain.banned)
    assert list(load(run, None, "cpu", "anchor").emits) == list(late.emits) == ["<Focus>"]
    in_rl = coin_run(*SHORT, "+auxiliary.focus=focus_anchor")
    assert load(in_rl, None, "cpu", "warm_start").emits == {}
    assert list(load(in_rl, None, "cpu", "rl").emits) == ["<Focus>"]


def test_demonstrations_begin_with_the_token_in_the_anchor_stage_only():
    run = coin_run(*FAITHFUL)
    policy = load(run, None, "cpu", "anchor")
    items = [run.mix.draw(number, seed=0) for number in range(3)]
    plain = imitation(run, policy, "warm_start", items)
    anchored = imitation(run, policy, "anchor", items)
    assert (anchored.tokens[:, 0] == policy.emits["<Focus>"]).all()
    assert torch.equal(anchored.tokens[:, 1:], plain.tokens)
    texts = policy.decode(anchored.tokens, anchored.mask)
    assert texts == [f"<Focus>{item.demonstration}" for item in items]


def test_the_loss_is_that_of_imitation_and_the_anchor_and_is_logged(straight):
    """The first step's numbers, from the definition."""
    _, folder = straight
    run = coin_run(*FAITHFUL)
    (model,) = folder.root.glob("stages/warm_start-*/model")
    policy = load(run, model, "cpu", "anchor")
    items = [run.mix.draw(number, seed=run.anchor.seed) for number in range(6)]
    batch = imitation(run, policy, "anchor", items)
    likelihood = forward(policy, batch, 1.0).logprobs.detach()[batch.mask].mean()
    (row, *_) = stage_rows(folder, "anchor")
    assert row["loss"] == pytest.approx(-float(likelihood), rel=1e-5)
    term = run.anchor.focus
    probe = Probe({term.layer.index(policy.layers)}, rows=torch.zeros(6, 1, dtype=torch.long))
    output = forward(policy, batch, 1.0, Reading(probe=probe))
    divergence = term.token_loss(output, batch)[:, 0].detach()
    assert row["auxiliary/focus"] == pytest.approx(float(divergence.mean()), rel=1e-5)
    assert row["auxiliary/focus/gate_coverage"] == 1.0
    assert row["auxiliary/focus/without_focus"] == 0


def test_micro_batches_do_not_change_the_anchor_stage(tmp_path):
    rows = []
    for size in (64, 4):
        folder = Folder(tmp_path / str(size))
        train(coin_run(*ANCHORED, f"compute.micro_batch_size={size}"), folder)
        rows.append(stage_rows(folder, "anchor"))
    for one, other in zip(*rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_one_forward_pass_serves_imitation_and_anchor(tmp_path, monkeypatch):
    from vexp.policy.policy import Policy

    calls = []
    original = Policy.forward

    def counted(self, *arguments, **options):
        calls.append(1)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Policy, "forward", counted)
    run = coin_run(*FAITHFUL, "stages=[anchor]", "anchor.steps=2")
    train(run, Folder(tmp_path))
    assert len(calls) == 2


def mass_on_evidence(model, run):
    """Mean share of the focus token's image attention that lies on evidence, on unseen items."""
    policy = load(run, model, "cpu", "anchor")
    data = run.mix.datasets["main"]
    items = [data.item("dev", number) for number in range(64)]
    batch = imitation(run, policy, "anchor", items)
    layer = run.anchor.focus.layer.index(policy.layers)
    probe = Probe({layer}, rows=torch.zeros(64, 1, dtype=torch.long))
    with torch.no_grad():
        output = forward(policy, batch, 1.0, Reading(probe=probe))
    attention = output.attention[layer].logits[:, :, 0].softmax(-1).mean(1)
    pairs = zip(batch.evidence, map(grid_of, batch.layouts), strict=True)
    masks = [token_mask(*pair) for pair in pairs]
    return float((attention * torch.stack(masks)).sum(-1).mean())


def test_anchoring_moves_the_attention_of_the_focus_token_to_the_evidence(tmp_path):
    longer = ("anchor.steps=25", "anchor.batch_size=16", "anchor.learning_rate=2e-3")
    found = {}
    for name, options in {"anchored": (), "imitated": ("anchor.focus.coef=0",)}.items():
        run = coin_run(*ANCHORED, *longer, *options)
        found[name] = mass_on_evidence(train(run, Folder(tmp_path)).model, run)
    (warm,) = tmp_path.glob("stages/warm_start-*/model")
    before = mass_on_evidence(warm, coin_run(*ANCHORED))
    assert found["anchored"] > before + 0.1
    assert found["anchored"] > found["imitated"] + 0.1


def test_a_checkpoint_is_evaluated_with_the_token_by_whoever_does_not_know_it(straight):
    """The evaluators' path: the run's backbone loads the folder, no component declares anything."""
    trained, _ = straight
    run = coin_run(*SHORT)
    policy = run.backbone.load(trained.model)
    focus = policy.emits["<Focus>"]
    assert not policy.banned[focus]
    with torch.no_grad():
        policy.model.lm_head.weight[focus] *= 100  # some logit is huge now, of either sign
    heldout = dataclasses.replace(run.evaluator["heldout"], size=40)
    samples = list(heldout.samples(policy, run))
    assert any("<Focus>" in sample.response for sample in samples)
    with torch.no_grad():
        policy.model.lm_head.weight[focus] *= -1
    again = list(heldout.samples(policy, run))
    assert [s.response for s in samples] != [s.response for s in again]


def test_in_rl_it_supervises_right_answers_that_have_the_token(straight, tmp_path):
    _, folder = straight
    (model,) = folder.root.glob("stages/anchor-*/model")
    run = coin_run(*FAITHFUL, "+auxiliary.focus=focus_anchor", "rl.steps=1")
    policy = load(run, model, "cpu", "rl")
    items = [run.mix.draw(number, seed=0) for number in range(4)]
    batch = imitation(run, policy, "anchor", items)
    batch.tokens[0, 0] = 5
    batch.accuracies[1] = 0.0
    weights = auxiliary.weights(run.auxiliary, batch, [[0, 1, 2, 3]], seed=1, step=1)["focus"]
    assert (weights[:, 0] > 0).tolist() == [False, False, True, True]
    trained = Folder(tmp_path)
    train(run, trained)
    (row,) = trained.metrics
    known = {"gate_coverage", "without_focus", "without_evidence"}
    assert {f"auxiliary/focus/{name}" for name in known} <= set(row)


def test_items_without_demonstrations_are_named_with_their_stage(tmp_path, monkeypatch):
    original = DigitsVqa.item

    def without(self, split, index):
        return dataclasses.replace(original(self, split, index), demonstration="")

    monkeypatch.setattr(DigitsVqa, "item", without)
    with pytest.raises(DataError, match="the stage 'anchor' imitates"):
        train(coin_run(*FAITHFUL, "stages=[anchor]"), Folder(tmp_path))


def test_items_without_boxes_or_image_are_imitated_only_and_counted(tmp_path, monkeypatch):
    original = DigitsVqa.item
    made: list[Item] = []

    def some(self, split, index):
        found = original(self, split, index)
        changes = ({}, {"boxes": ()}, {"image": None, "boxes": ()})[len(made) % 3]
        made.append(found)
        return dataclasses.replace(found, **changes)

    monkeypatch.setattr(DigitsVqa, "item", some)
    folder = Folder(tmp_path)
    train(coin_run(*FAITHFUL, "stages=[anchor]", "anchor.steps=1"), folder)
    (row,) = stage_rows(folder, "anchor")
    assert row["auxiliary/focus/without_evidence"] == 4
    assert row["auxiliary/focus/gate_coverage"] == pytest.approx(2 / 6)


def test_the_anchor_is_part_of_an_id_only_where_it_is_a_stage():
    def name(*overrides):
        return training_id(resolve([*SMALLEST, *SHORT, *overrides])).name

    assert name("anchor.learning_rate=1e-2", "anchor.focus.coef=3") == name()
    faithful = ("experiment=faithful_mr1",)
    assert name(*faithful, "anchor.focus.coef=3") != name(*faithful)
    assert "anchor" in name(*faithful)
    without = (*faithful, "stages=[warm_start,rl]")
    assert name(*without, "anchor.focus.coef=3") == name(*without)
    assert "anchor" not in name(*without)
    assert name("stages=[warm_start,anchor]", "anchor.seed=7").rpartition("-")[0].endswith("-s7")


def test_the_anchor_does_not_read_what_comes_after_it():
    def key(*overrides):
        return stage_key(resolve([*SMALLEST, *FAITHFUL, *overrides]), "anchor")

    assert key("seed=9", "rl.steps=9", "reward.terms.counterfactual=null") == key()
    assert key("warm_start.steps=4") != key()
    assert key("anchor.focus.layer=last") != key()


def test_boxes_are_asked_for_only_by_the_stages_a_run_has(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2", "demonstration": "2"}\n' * 3)
    table = (f"mix.datasets.main.path={path}", "mix.datasets.main.name=table", "~evaluator.heldout")
    resolve(["stages=[warm_start]", *table])
    with pytest.raises(ConfigError) as caught:
        resolve(["stages=[warm_start,anchor]", *table])
    assert "'boxes'" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_dataset_without_boxes_is_named_together_with_the_component(monkeypatch):
    monkeypatch.setattr(DigitsVqa, "provides", ())
    resolve(["stages=[warm_start]"])
    with pytest.raises(ConfigError) as caught:
        resolve(["stages=[warm_start,anchor]"])
    (problem,) = caught.value.problems
    assert "'focus_anchor' needs evidence boxes, which dataset 'main'" in problem.what
    assert problem.where == "anchor.focus and mix.datasets.main"


def test_a_loss_that_needs_more_than_the_stage_has_is_named():
    with pytest.raises(ConfigError, match="'papo' needs 'counterfactual_logprobs'") as caught:
        resolve(["stages=[warm_start,anchor]", "anchor.focus=papo"])
    assert "the supervised stage 'anchor'" in str(caught.value)
    resolve(["stages=[warm_start,anchor]", "anchor.focus=ease"])


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ConfigError) as caught:
        resolve(["experiment=faithful_mr1", "anchor.focus.layer={name: index, value: 99}"])
    assert "anchor.focus.layer" in str(caught.value)
    assert "backbone" in str(caught.value)


def documented_switches():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    table = page.read_text().partition("| switch | override |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines()[2:]]
    return [pytest.param(row[2].split("`")[1].strip('"'), id=row[1].strip()) for row in rows]


@pytest.mark.parametrize("override", documented_switches())
def test_every_documented_switch_is_a_plain_override_that_makes_another_run(override):
    ids = {training_id(resolve(["experiment=faithful_mr1", *x])).hash for x in [(), (override,)]}
    assert len(ids) == 2


def test_the_papers_scale_composes():
    run = resolve(["experiment=faithful_mr1", "scale=faithful_mr1_paper", "stages=[anchor,rl]"])
    assert run.anchor.learning_rate == 1e-5


def test_in_rl_it_is_the_tokens_own_attention_or_an_error():
    in_rl = ("+auxiliary.focus=focus_anchor", "rl.row_alignment=predictor")
    with pytest.raises(ConfigError, match="own attention is supervised") as caught:
        resolve([*FAITHFUL, *in_rl])
    assert "auxiliary.focus (focus_anchor): rl.row_alignment" in str(caught.value)
    resolve([*FAITHFUL, in_rl[1]])  # the stage `anchor` always reads the token's own
