"""The diagnostics of a checkpoint: what is measured of each answer, and what becomes of it."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import statistics
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from scipy import stats

from tests.diagnostics.test_measures import plain_parts
from tests.train.fakes import SMALLEST, Coin
from vexp.dataset.base import Dataset
from vexp.diagnostics.gallery import image_data, quantised
from vexp.engine.base import Engine, Sampling
from vexp.errors import ConfigError
from vexp.evaluator.base import Sample
from vexp.evaluator.diagnostics import FOCUSED, VALUES, Diagnostics
from vexp.experience.evidence import token_masks
from vexp.registry import REGISTRY
from vexp.runs.execute import execute
from vexp.runs.store import RunStore
from vexp.spec.resolve import resolve

LENGTH = 6
RUN = (*SMALLEST, "backbone.layers=4", f"rollout.max_response_length={LENGTH}")
EVIDENCE = {"evidence_mass", "evidence_area", "pointing", "attention_kl"}


@dataclass(frozen=True, kw_only=True)
class Ragged(Engine):
    """The shipped engine's greedy answers, that to item n cut after 1 + n % LENGTH tokens."""

    name = "ragged"
    shipped: ClassVar[Engine] = REGISTRY.get("engine", "hf")()

    def generate(self, policy, prompts, item_ids, sampling):
        assert sampling.greedy
        found = self.shipped.generate(policy, prompts, item_ids, sampling)
        limits = [1 + int(name.rpartition("/")[2]) % LENGTH for name in item_ids]
        kept = torch.arange(found.mask.shape[1]) < torch.tensor(limits)[:, None]
        return replace(
            found,
            tokens=found.tokens.masked_fill(~kept, policy.pad_id),
            mask=found.mask & kept,
            logprobs=found.logprobs * kept,
        )


@dataclass(frozen=True, kw_only=True)
class Partly(Dataset):
    """digits_vqa, but every fourth item has no image, and the next of each no boxes."""

    name = "partly"
    provides = ("boxes",)
    whole: ClassVar[Dataset] = REGISTRY.get("dataset", "digits_vqa")()

    def size(self, split):
        return 12

    def item(self, split, index):
        item = self.whole.item(split, index)
        if index % 4 == 0:
            return replace(item, image=None, boxes=())
        return replace(item, boxes=()) if index % 4 == 1 else item


@dataclass(frozen=True, kw_only=True)
class Boxless(Partly):
    name = "boxless"
    provides = ()


def with_data(run, **datasets):
    return replace(run, mix=replace(run.mix, datasets=datasets))


@functools.cache
def made(*overrides):
    return replace(resolve([*RUN, *overrides]), engine=Ragged(), verifier=Coin())


@functools.cache
def policy(attention="auto"):
    """A policy whose attention and next tokens are far from uniform."""
    owner = made().backbone.load(attention=attention)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in owner.model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
            elif "visual" not in name and weight.ndim == 2:
                weight.copy_(0.06 * torch.randn(weight.shape, generator=generator))
            elif name.endswith("language_model.norm.weight"):
                weight.mul_(8)
    return owner


WITH_CURVES = Diagnostics(size=12, batch_size=5, points=3)


@functools.cache
def measured():
    """Of 12 items, 3 have no image and 3 others no boxes."""
    run = with_data(made(), main=Partly())
    return tuple(WITH_CURVES.samples(policy(), run))


@functools.cache
def plain_model():
    """The same weights under transformers' own attention, without the probe."""
    model = policy("eager").model
    model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def plain(item, tokens):
    """Log-probs [token, vocab], attention [layer, head, token, key], where the image is."""
    owner, model = policy(), plain_model()
    prompt = owner.encode([item], made().prompt)
    ids = torch.cat([prompt.input_ids[0], tokens])[None]
    image = ids == model.config.image_token_id
    model.model.rope_deltas = None
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        mm_token_type_ids=image.int(),
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
    )
    count = len(tokens)
    logits = output.logits[0, -count - 1 : -1].double().masked_fill(owner.banned, -torch.inf)
    attention = torch.stack([layer[0, :, -count:] for layer in output.attentions]).double()
    return logits.log_softmax(-1), attention, image[0], output.hidden_states[-1][0]


@pytest.mark.parametrize("number", [1, 2, 3, 6, 7, 11])
def test_values_are_those_of_a_plain_pass(number):
    item = Partly().item("test", number)
    sampling = Sampling(group_size=1, max_response_length=LENGTH, greedy=True)
    prompt = policy().encode([item], made().prompt)
    generated = Ragged().generate(policy(), prompt, [item.id], sampling)
    tokens = generated.tokens[0][generated.mask[0]]
    logprobs, attention, image, hidden = plain(item, tokens)
    own = range(len(tokens))
    close = functools.partial(pytest.approx, rel=2e-3, abs=2e-5)
    found = measured()[number].values

    on_image = [float(attention[3, :, t, image].sum(-1).mean()) for t in own]
    assert found["attention/image"] == close(statistics.fmean(on_image))
    on_own = [float(attention[3, :, t, len(image) - len(tokens) :].sum(-1).mean()) for t in own]
    assert found["attention/response"] == close(statistics.fmean(on_own))
    places = ("attention/image", "attention/query", "attention/response")
    assert sum(found[place] for place in places) == pytest.approx(1, abs=1e-6)
    if len(tokens) == 1:
        assert not {"late_early", "focus_correlation", "entropy/gap"} & found.keys()
    else:
        half = len(tokens) // 2
        assert found["late_early"] == close(sum(on_image[half:]) / sum(on_image[:half]))
        mean = hidden[image].mean(0)
        focus = [float(torch.cosine_similarity(hidden[t - len(tokens)], mean, 0)) for t in own]
        assert found["focus_correlation"] == close(stats.pearsonr(focus, on_image).statistic)

    # three parts of the answer: of its tokens in order, and from the surest to the least sure
    parts = plain_parts(on_image, 3)
    assert [found[f"attention/image/at_{n}"] for n in (1, 2, 3)] == close(parts)
    places = ("image", "query", "response")
    assert sum(found[f"attention/{p}/at_2"] for p in places) == pytest.approx(1, abs=1e-6)

    blind = plain(replace(item, image=None, boxes=()), tokens)[0]
    score = [math.exp(logprobs[t, tokens[t]]) - math.exp(blind[t, tokens[t]]) for t in own]
    entropy = [float(-(row.exp() * row)[~policy().banned].sum()) for row in logprobs]
    grounded = [h for h, w in zip(entropy, score, strict=True) if w > 0.2]
    other = [h for h, w in zip(entropy, score, strict=True) if not w > 0.2]
    assert found["grounded_share"] == close(len(grounded) / len(tokens))
    for name, members in (("entropy/grounded", grounded), ("entropy/other", other)):
        assert found.get(name) == (close(statistics.fmean(members)) if members else None)

    order = sorted(own, key=lambda t: entropy[t])
    ranked = plain_parts([on_image[t] for t in order], 3)
    assert [found[f"attention/image/entropy_{n}"] for n in (1, 2, 3)] == close(ranked)
    assert found["grounded_score/ecdf_0.2"] == close(len(other) / len(tokens))
    assert found["grounded_score/ecdf_-0.5"] == close(sum(w <= -0.5 for w in score) / len(score))

    if not item.boxes:
        assert not (EVIDENCE | {"coverage", "attention/evidence/at_1"}) & found.keys()
        return
    cells = attention[2][:, :, image]
    pooled = (cells / cells.sum(-1, keepdim=True)).mean(dim=(0, 1))
    boxes = [tuple(side / 56 for side in box) for box in item.boxes]
    masks = token_masks(boxes, (2, 2))
    union = masks.any(dim=0)
    assert found["evidence_mass"] == close(float(pooled[union].sum()))
    on_boxes = [float(attention[3, :, t, image][:, union].sum(-1).mean()) for t in own]
    assert [found[f"attention/evidence/at_{n}"] for n in (1, 2, 3)] == close(
        plain_parts(on_boxes, 3)
    )
    assert found["evidence_area"] == close(float(union.double().mean()))
    assert found["pointing"] == float(union[pooled.argmax()])
    target = Diagnostics().target.distribution(boxes, (2, 2)).double()
    assert found["attention_kl"] == close(float((pooled * (pooled / target).log()).sum()))
    covered = [float(pooled[mask].sum() >= mask.double().mean()) for mask in masks]
    expected = close(statistics.fmean(covered)) if len(covered) > 1 else None
    assert found.get("coverage") == expected


def test_uniform_attention_on_the_default_task_gives_a_box_its_one_token_of_four():
    owner = made().backbone.load()
    with torch.no_grad():
        for name, weight in owner.model.named_parameters():
            if ".q_proj." in name and "visual" not in name:
                weight.zero_()
    samples = list(Diagnostics(size=40).samples(owner, replace(resolve(RUN), verifier=Coin())))
    assert {len(Partly.whole.item("test", n).boxes) for n in range(40)} == {1, 2}
    for number, found in enumerate(samples):
        boxes = len(Partly.whole.item("test", number).boxes)
        assert found.values["evidence_mass"] == pytest.approx(boxes / 4, abs=1e-6)
        assert found.values["evidence_area"] == boxes / 4
        assert found.values["tas"] == pytest.approx(0.5, abs=1e-6)
        assert found.values["attention_ratio"] == pytest.approx(0, abs=1e-6)
        assert found.values.get("coverage") == (1 if boxes == 2 else None)
        assert found.values.get("coverage_2") == (0 if boxes == 2 else None)
    measured = Diagnostics().metrics(samples)
    assert measured["evidence_mass/single"]["value"] == pytest.approx(0.25, abs=1e-6)
    assert measured["evidence_mass/multi"]["value"] == pytest.approx(0.5, abs=1e-6)


def test_what_lacks_image_or_boxes_is_skipped_and_counted():
    for number, sample in enumerate(measured()):
        assert set(sample.values) <= {*VALUES, *FOCUSED, *WITH_CURVES._curves()}
        if number % 4 == 0:
            assert sample.values == {}
        elif number % 4 == 1:
            assert "attention/image" in sample.values
            assert not EVIDENCE & sample.values.keys()
        else:
            assert sample.values.keys() >= EVIDENCE
    metrics = Diagnostics().metrics(list(measured()))
    assert metrics["without_evidence"]["value"] == 0.5
    assert metrics["evidence_mass"]["n"] == 6
    assert metrics["attention/image"]["n"] == metrics["grounded_share"]["n"] == 9
    assert metrics["accuracy"]["n"] == 12


@pytest.mark.parametrize("start", [1, 5, 11, 12])
def test_an_interrupted_evaluation_goes_on_where_it_was(start):
    run = with_data(made(), main=Partly())
    again = WITH_CURVES.samples(policy(), run, start)
    assert tuple(again) == measured()[start:]


def test_nothing_outside_is_changed():
    owner, run = policy(), with_data(made(), main=Partly())
    before = {name: tensor.clone() for name, tensor in owner.model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    evaluator = WITH_CURVES
    assert tuple(evaluator.samples(owner, run)) == measured()
    assert torch.get_rng_state().equal(state)
    assert torch.is_grad_enabled() and not owner.model.training
    assert all(tensor.equal(before[n]) for n, tensor in owner.model.state_dict().items())
    samples = list(measured())
    evaluator.metrics(samples)
    assert tuple(samples) == measured()


def test_batches_of_any_size_measure_the_same():
    run = with_data(made("compute.micro_batch_size=2"), main=Partly())
    for found, expected in zip(
        replace(WITH_CURVES, batch_size=12).samples(policy(), run), measured(), strict=True
    ):
        assert found.values == pytest.approx(expected.values, rel=1e-3, abs=1e-5)


def test_the_distortion_and_the_layers_are_those_asked_for():
    run = with_data(made(), main=Partly())
    last = REGISTRY.get("layer", "last")()
    other = Diagnostics(
        size=4,
        layer=last,
        visual_layer=REGISTRY.get("layer", "index")(value=0),
        distortion=REGISTRY.get("distortion", "black")(),
        target=REGISTRY.get("target", "hard_box")(),
    )
    *_, found = other.samples(policy(), run)
    expected = measured()[3].values
    for name in ("evidence_mass", "attention_kl", "attention/image", "late_early"):
        assert abs(found.values[name] - expected[name]) > 1e-4
    assert found.values["evidence_area"] == expected["evidence_area"]


def sample(number, **fields):
    given = {
        "id": f"main/test/{number}", "question": "q", "answer": "a", "response": "r",
        "extracted": "a", "correct": 1.0, "tag": "single", "status": "ok", "length": 5,
    }  # fmt: skip
    return Sample(**given | fields)


def test_metrics_by_hand():
    samples = [
        sample(0, values={"evidence_mass": 0.2, "pointing": 1.0, "late_early": 0.5}),
        sample(1, values={"evidence_mass": 0.4, "pointing": 0.0, "late_early": 1.5}, correct=0.0),
        sample(2, values={"evidence_mass": 0.9, "pointing": 1.0, "coverage": 0.5}, tag="multi"),
        sample(3, values={"grounded_share": 0.25, "entropy/other": 2.0}),
        sample(4),
    ]
    metrics = Diagnostics().metrics(samples)
    assert metrics["evidence_mass"] == pytest.approx(
        {"value": 0.5, "stderr": math.sqrt((0.09 + 0.01 + 0.16) / 2 / 3), "n": 3}
    )
    assert metrics["evidence_mass/single"] == pytest.approx({"value": 0.3, "stderr": 0.1, "n": 2})
    assert metrics["pointing/multi"] == {"value": 1.0, "stderr": None, "n": 1}
    assert metrics["coverage"] == {"value": 0.5, "stderr": None, "n": 1}
    assert metrics["late_early"]["value"] == 1.0
    assert metrics["late_early/correct"]["value"] == 0.5
    assert metrics["late_early/wrong"]["value"] == 1.5
    assert metrics["without_evidence"]["value"] == 0.4
    assert metrics["accuracy"]["value"] == 0.8
    assert not {"entropy/grounded", "entropy/gap", "attention_kl"} & metrics.keys()
    assert Diagnostics().metrics([]) == {}


def test_the_released_late_early_ratio_is_of_mean_shares():
    shares = [(0.4, 0.0, 1), (0.2, 0.2, 1), (0.0, 0.4, 0)]
    samples = [
        sample(n, values={"focused_late": float(a), "focused_early": float(b)}, correct=float(c))
        for n, (a, b, c) in enumerate(shares)
    ]
    metrics = Diagnostics().metrics([*samples, sample(9)])
    assert metrics["late_early_focus"]["value"] == pytest.approx(1)
    assert metrics["late_early_focus"]["n"] == 3
    assert metrics["late_early_focus"]["stderr"] == pytest.approx(
        statistics.stdev([0.4, 0, -0.4]) / 0.2 / 3**0.5
    )
    assert metrics["late_early_focus/correct"]["value"] == pytest.approx(3)
    assert metrics["late_early_focus/wrong"] == {"value": 0, "stderr": None, "n": 1}
    assert "late_early_focus/correct" not in Diagnostics().metrics(samples[:1])


def test_divergence_against_outcome():
    values = [0.9, 0.1, 0.5, 0.5, 1.4, 0.2, 0.7, 2.0, 0.3, 0.05, 1.1, 0.6]
    correct = [0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1]
    samples = [
        sample(n, values={"attention_kl": value}, correct=float(right))
        for n, (value, right) in enumerate(zip(values, correct, strict=True))
    ]
    metrics = Diagnostics().metrics([*samples, sample(99)])
    rank = stats.spearmanr(values, correct)
    found = metrics["attention_kl/spearman"]
    assert found["value"] == pytest.approx(rank.statistic)
    assert found["n"] == 12
    two_sided = 2 * stats.t.sf(abs(found["value"] / found["stderr"]), df=10)
    assert two_sided == pytest.approx(rank.pvalue)
    order = sorted(range(12), key=lambda n: values[n])
    bins = [order[:3], order[3:6], order[6:8], order[8:10], order[10:]]
    for number, members in enumerate(bins, start=1):
        kl = metrics[f"attention_kl/bin_{number}"]
        wrong = metrics[f"wrong/kl_bin_{number}"]
        assert kl["value"] == pytest.approx(statistics.fmean(values[n] for n in members))
        assert wrong["value"] == pytest.approx(1 - statistics.fmean(correct[n] for n in members))
        assert kl["n"] == wrong["n"] == len(members)
    for outcome, name in ((1, "attention_kl/correct"), (0, "attention_kl/wrong")):
        chosen = [v for v, right in zip(values, correct, strict=True) if right == outcome]
        assert metrics[name]["value"] == pytest.approx(statistics.fmean(chosen))
    thirds = Diagnostics(bins=3).metrics(samples)
    assert thirds["wrong/kl_bin_3"]["n"] == 4 and "wrong/kl_bin_4" not in thirds


def test_a_constant_outcome_has_no_correlation():
    samples = [sample(n, values={"attention_kl": float(n)}) for n in range(4)]
    metrics = Diagnostics().metrics(samples)
    assert not [name for name in metrics if "bin" in name or "spearman" in name]


def test_a_dataset_without_boxes_fails_at_composition():
    run = resolve([*RUN, "evaluator.diagnostics=diagnostics"])
    with pytest.raises(ConfigError, match=r"evaluator 'diagnostics' needs evidence boxes.*'main'"):
        with_data(run, main=Boxless())
    with pytest.raises(ConfigError, match="'other' does not have"):
        with_data(run, main=Partly(), other=Boxless())
    with_data(made(), main=Boxless())  # without the evaluator, nothing is wrong


def test_a_layer_that_is_not_there_fails_at_composition():
    fields = ("evaluator.diagnostics.layer.name=index", "evaluator.diagnostics.layer.value=9")
    with pytest.raises(ConfigError, match="layer 9 does not exist"):
        resolve([*RUN, "evaluator.diagnostics=diagnostics", *fields])


class Quiet:
    def __init__(self):
        self.stages = set()

    def progress(self, stage, step, total, metrics):
        self.stages.add(stage)

    def note(self, text): ...


def test_a_finished_run_gets_it_afterwards(tmp_path):
    base = (*RUN, "stages=[]", "evaluator.heldout.size=3")
    store = RunStore(tmp_path / "results")
    execute(resolve(base), reporter=Quiet(), store=store)
    more = ("evaluator.diagnostics=diagnostics", "evaluator.diagnostics.size=4")
    reporter = Quiet()
    outcome = execute(resolve([*base, *more]), reporter=reporter, store=store)
    assert outcome.state == "already done"
    assert reporter.stages == {"evaluate diagnostics"}
    results = outcome.evaluations["diagnostics"]
    assert results["metrics"]["evidence_mass"]["n"] == 4
    assert results["protocol"]["kappa"] == 1.0
    lines = {
        path.parent.name.partition("-")[0]: path.read_text().splitlines()
        for path in Path(tmp_path).rglob("samples.jsonl")
    }
    assert all("values" not in json.loads(line) for line in lines["heldout"])
    rows = [Sample(**json.loads(line)) for line in lines["diagnostics"]]
    assert Diagnostics().metrics(rows) == results["metrics"]


def test_a_sample_without_values_is_stored_as_before():
    plain_row = sample(0).row()
    assert "values" not in plain_row
    assert Sample(**plain_row) == sample(0)
    full = sample(1, values={"pointing": 1.0})
    assert Sample(**json.loads(json.dumps(full.row()))) == full


def kept_map(gallery):
    """The attention of a record as shares [token, image token], decoded by hand."""
    kept = gallery["attention"]
    raw = zlib.decompress(base64.b64decode(kept["data"]))
    cells = kept["rows"] * kept["columns"]
    assert len(raw) == len(gallery["tokens"]) * cells
    values = torch.tensor(list(raw), dtype=torch.float64).view(-1, cells)
    return values / 255 * kept["most"]


def test_the_gallery_keeps_the_attention_that_a_plain_model_pays():
    run = with_data(made(), main=Partly())
    evaluator = WITH_CURVES
    samples = measured()
    assert [bool(sample.gallery) for sample in samples] == [True] * 8 + [False] * 4
    seen = 0
    for number in range(8):
        item, gallery = Partly().item("test", number), samples[number].gallery
        assert "".join(gallery["tokens"]).startswith(samples[number].response[:5])
        if item.image is None:
            assert gallery.keys() == {"tokens", "values"}
            continue
        seen += 1
        ids = [evaluator_tokens(run, item)]
        tokens = ids[0]
        layer = evaluator.layer.index(policy().layers)
        logprobs, attention, image, _ = plain(item, tokens)
        heads = attention[layer][:, :, image]  # [head, token, image token], of all attention
        expected = (heads / heads.sum(-1, keepdim=True)).mean(0)
        found = kept_map(gallery)
        assert found.shape == expected.shape
        most = gallery["attention"]["most"]
        assert (found - expected).abs().max() <= most / 510 + 1e-5
        entropy = -(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(-1)
        assert gallery["values"]["entropy"] == pytest.approx(entropy.tolist(), abs=2e-4)
        if item.boxes:
            inside = expected[:, token_masks(gallery["boxes"], (2, 2)).any(0)].sum(-1)
            assert gallery["values"]["attention on evidence"] == pytest.approx(
                inside.tolist(), abs=2e-4
            )
        else:
            assert "attention on evidence" not in gallery["values"]
            assert gallery["boxes"] == []
        picture = Image.open(io.BytesIO(base64.b64decode(gallery["image"].partition(",")[2])))
        assert picture.convert("RGB").tobytes() == item.image.tobytes()
    assert seen == 6


def evaluator_tokens(run, item):
    """The tokens of the greedy answer to one item."""
    prompts = policy().encode([item], run.prompt)
    sampling = Sampling(group_size=1, max_response_length=LENGTH, greedy=True, purpose="evaluation")
    found = run.engine.generate(policy(), prompts, [f"main/{item.id}"], sampling)
    return found.tokens[0][found.mask[0]]


def test_the_gallery_changes_neither_scores_nor_key():
    run = with_data(made(), main=Partly())
    bare = replace(WITH_CURVES, gallery=0)
    without = tuple(bare.samples(policy(), run))
    assert [replace(sample, gallery={}) for sample in measured()] == list(without)
    assert "gallery" not in without[0].row()
    assert bare.protocol(run) == WITH_CURVES.protocol(run)


def test_a_kept_picture_survives_its_file():
    sample = measured()[2]
    again = Sample(**json.loads(json.dumps(sample.row())))
    assert again.row() == json.loads(json.dumps(sample.row()))


def test_large_photographs_are_kept_small():
    noise = torch.randint(0, 256, (900, 1200, 3), generator=torch.Generator().manual_seed(1))
    data = image_data(Image.fromarray(noise.to(torch.uint8).numpy()))
    assert data.startswith("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    assert picture.size == (448, 336)


def test_attention_of_zero_stays_zero():
    kept = quantised(torch.zeros(3, 4), (2, 2))
    assert kept["most"] == 0
    assert set(kept_map({"attention": kept, "tokens": "abc"}).flatten().tolist()) == {0.0}
