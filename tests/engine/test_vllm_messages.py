"""What goes to a vLLM in a process of its own; none of this needs vLLM."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import SmolVLMVisionConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

from tests.tiny import PROMPT, ragged_items
from vexp.engine._vllm import _write
from vexp.engine._vllm_images import patch_places
from vexp.engine._vllm_server import GenerateRequest, ModelSpec
from vexp.engine.base import Sampling
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError
from vexp.policy.parallel import packed, unpacked
from vexp.registry import REGISTRY

KEYS = ["a", "b", "c", "d"]
SAMPLING = Sampling(group_size=3, max_response_length=9, seed=4, step=2, stop="think_boxed")


@pytest.fixture(scope="module", params=["tiny_qwen2_5_vl", "tiny_internvl", "tiny_smolvlm"])
def of(request):
    return REGISTRY.get("backbone", request.param)().load()


@pytest.fixture(scope="module")
def batch(of):
    return of.encode(ragged_items(), PROMPT)


def test_a_question_arrives_as_it_was_asked(batch):
    asked = GenerateRequest.of(batch, KEYS, SAMPLING)
    found = GenerateRequest.read(*unpacked(packed(*asked.parts())))
    assert (found.rows, found.pieces, found.keys) == (asked.rows, asked.pieces, KEYS)
    assert found.sampling == SAMPLING
    assert torch.equal(found.pixel_values, asked.pixel_values)
    assert torch.equal(found.image_grid_thw, asked.image_grid_thw)


def test_each_prompt_has_its_own_tokens_and_image(batch):
    asked = GenerateRequest.of(batch, KEYS, SAMPLING)
    images = asked.images()
    for index, row in enumerate(asked.rows):
        alone = batch.select([index])
        assert row == alone.input_ids[0].tolist()
        if alone.pixel_values is None:
            assert asked.pieces[index] == 0
            continue
        patches, grid = next(images)
        assert torch.equal(patches, alone.pixel_values)
        assert torch.equal(grid, alone.image_grid_thw)
    assert next(images, None) is None


def test_questions_without_images_have_none(batch):
    asked = GenerateRequest.of(batch.select([2]), ["c"], SAMPLING)
    found = GenerateRequest.read(*unpacked(packed(*asked.parts())))
    assert found.pixel_values is None and list(found.images()) == []


def test_what_is_said_of_the_model_arrives(of):
    served = ModelSpec.of(VLLM(max_length=99), of)
    plain = unpacked(packed({}, dataclasses.asdict(served)))[1]
    assert ModelSpec.read(plain) == served
    assert served.max_length == 99 and served.eos_id not in served.banned


def test_heads_that_cannot_be_shared_are_counted(of):
    config = of.model.config
    ModelSpec.of(VLLM(tensor_parallel=4), of).check_model(config)
    with pytest.raises(ConfigError, match=r"by 3: 4 for attention, 2 .*, 4 for images"):
        ModelSpec.of(VLLM(tensor_parallel=3), of).check_model(config)


def test_no_more_tokens_than_the_model_has_places_for(of):
    config = of.model.config
    context = config.get_text_config().max_position_embeddings
    ModelSpec.of(VLLM(max_length=context), of).check_model(config)
    with pytest.raises(ConfigError, match=rf"\({context + 1}\) is more than .* {context} places"):
        ModelSpec.of(VLLM(max_length=context + 1), of).check_model(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_written_in_the_engines_precision_tied_ones_too(tmp_path, dtype):
    shared = torch.randn(4, 3)
    weights = {"a": shared, "b": shared, "t": torch.randn(3, 2).t(), "n": torch.arange(3)}
    _write(weights, tmp_path / "w", dtype)
    found = load_file(tmp_path / "w")
    assert found.keys() == weights.keys() and found["n"].dtype == torch.int64
    for name in ("a", "b", "t"):
        assert torch.equal(found[name], weights[name].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [4, 27, 32])
def test_patches_of_smolvlm_lie_where_transformers_has_them(side, dtype):
    """Its table of places is exchanged for one that says which row was read."""
    config = SmolVLMVisionConfig(
        hidden_size=1, num_attention_heads=1, image_size=2 * side, patch_size=2
    )
    model = SmolVLMVisionEmbeddings(config)
    model.patch_embedding.weight.data.zero_()
    model.patch_embedding.bias.data.zero_()
    model = model.to(dtype)
    rows = torch.arange(side**2, dtype=torch.float64).unsqueeze(1)
    model.position_embedding = torch.nn.Embedding.from_pretrained(rows)
    whole = torch.ones(1, side, side, dtype=torch.bool)
    found = model(torch.zeros(1, 3, 2 * side, 2 * side, dtype=dtype), whole)
    assert found[0, :, 0].tolist() == patch_places(side, dtype).tolist()
