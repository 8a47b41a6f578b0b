"""Grounding DINO on true architecture and random weights: what comes out, and what is wrong."""

from __future__ import annotations

import json
import math
import shutil

import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.localizer import tiny_dino
from vexp.annotate.compose import resolve
from vexp.config.hashing import plain
from vexp.dataset.base import Item
from vexp.errors import CheckpointError, ConfigError
from vexp.registry import REGISTRY

GroundingDINO = REGISTRY.get("localizer", "grounding_dino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dino.save(tmp_path_factory.mktemp("dino") / "tiny")


def item(size=(100, 60)):
    image = PIL.Image.new("RGB", size, (255, 255, 255))
    PIL.ImageDraw.Draw(image).rectangle((10, 10, 40, 30), fill=(200, 10, 10))
    return Item(id="x", question="?", answer="!", image=image)


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.encoder.layers.0.fusion_layer.text_param")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def asks(*_):
    pytest.fail("it works here and asks nobody")


def plain_detections(folder, item, text):
    """All queries' boxes and scores, from the model's raw outputs, by hand."""
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    processor = AutoProcessor.from_pretrained(folder)
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=item.image, text=text, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    found = []
    width, height = item.image.size
    for logits, (cx, cy, w, h) in zip(
        outputs.logits[0], outputs.pred_boxes[0].tolist(), strict=True
    ):
        score = max(1 / (1 + math.exp(-x)) for x in logits.tolist())
        box = (
            (cx - w / 2) * width,
            (cy - h / 2) * height,
            (cx + w / 2) * width,
            (cy + h / 2) * height,
        )
        found.append((score, box))
    return found


def test_the_most_confident_box_in_pixels(folder):
    for size in ((100, 60), (33, 90)):
        picture = item(size)
        best, box = max(plain_detections(folder, picture, "the red square."))
        found = GroundingDINO(path=str(folder), threshold=0.0).locate(
            picture, "The red. square", asks
        )
        assert found.confidence == pytest.approx(best, abs=1e-5)
        assert found.box == pytest.approx(box, abs=1e-3)


def test_what_is_not_confident_enough_is_nothing(folder):
    picture = item()
    best = GroundingDINO(path=str(folder), threshold=0.0).locate(picture, "red square", asks)
    above = GroundingDINO(path=str(folder), threshold=best.confidence + 1e-4)
    below = GroundingDINO(path=str(folder), threshold=best.confidence - 1e-4)
    assert above.locate(picture, "red square", asks) is None
    assert below.locate(picture, "red square", asks) == best


def test_a_phrase_longer_than_the_model_reads(folder):
    found = GroundingDINO(path=str(folder), threshold=0.0).locate(item(), "red cup " * 40, asks)
    assert all(map(math.isfinite, found.box))


def test_it_is_known_by_content_not_by_path(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    other = tiny_dino.save(tmp_path / "other", seed=1)
    one, same, different = (plain(GroundingDINO(path=str(p))) for p in (folder, copy, other))
    assert one == same != different
    assert str(folder) not in json.dumps(one)
    assert plain(GroundingDINO()) != plain(GroundingDINO(revision="0" * 40))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "there is no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "says 'bert'"),
        (lambda f: (f / "config.json").write_text('{"model_'), "there is no config.json that"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "safetensors"),
    ],
)
def test_folders_that_hold_no_model_are_named_when_composing(folder, tmp_path, spoil, says):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoil(copy)
    with pytest.raises(ConfigError, match=says) as found:
        resolve(["annotation=ease", "dataset=digits_vqa", f"localizer.path={copy}"])
    assert "localizer.path" in str(found.value)


def test_names_that_are_none():
    with pytest.raises(ConfigError, match="neither a folder nor the name"):
        GroundingDINO(path="/no/such/folder")
    with pytest.raises(ConfigError, match="needs a revision"):
        GroundingDINO(revision="")


def test_another_model_and_damage_are_one_message(folder, tmp_path):
    for name, spoil in {
        "lacking": without_a_weight,
        "cut": lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 100),
        "processor": lambda f: [p.unlink() for p in f.glob("*process*")],
    }.items():
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        spoil(copy)
        with pytest.raises(CheckpointError, match="no Grounding DINO that can be loaded"):
            GroundingDINO(path=str(copy)).locate(item(), "cup", asks)


def test_a_model_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as found:
        GroundingDINO(path="nobody/nothing").locate(item(), "cup", asks)
    assert "hf download nobody/nothing" in str(found.value)
    assert "localizer.path" in str(found.value)
