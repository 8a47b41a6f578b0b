"""The tiny twin: real classes, fixed first weights, an ordinary folder, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from tests.tiny import PROMPT, SMALL, fresh_policy, policy, ragged_items, responses
from vexp.backbone.tiny_qwen2_5_vl import TinyQwen25VL
from vexp.errors import CheckpointError
from vexp.registry import REGISTRY


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    policy().save(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of the saved folder that a test may damage."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_default_has_the_size_and_shape_it_promises():
    model = TinyQwen25VL().load().model
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 2e6
    text = model.config.text_config
    assert text.num_hidden_layers >= 6
    assert text.hidden_size // text.num_attention_heads == 32
    assert sum(text.rope_parameters["mrope_section"]) == 16


def test_first_weights_are_a_function_of_the_seed():
    again, other = fresh_policy(), dataclasses.replace(SMALL, init_seed=1).load()
    for mine, same in zip(policy().parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, same)
    assert not torch.equal(policy().model.lm_head.weight, other.model.lm_head.weight)


def test_save_and_load_give_the_same_model(saved):
    loaded = SMALL.load(saved)
    batch = policy().encode(ragged_items(), PROMPT)
    tokens, mask = responses(4, 4)
    index = torch.arange(4)
    assert torch.equal(
        loaded(batch, tokens, mask, index).logprobs, policy()(batch, tokens, mask, index).logprobs
    )


def test_the_folder_is_an_ordinary_hugging_face_one(saved):
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    assert {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    } <= {file.name for file in saved.iterdir()}  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved, local_files_only=True)
    theirs, ours = model.state_dict(), policy().model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    tokenizer = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    text = "<think>red is 3</think>\\boxed{15} ünï"
    assert tokenizer(text).input_ids == policy().tokenizer(text).input_ids
    assert tokenizer.chat_template == policy().tokenizer.chat_template


def test_a_checkpoint_of_other_sizes_is_refused_by_name(saved):
    with pytest.raises(CheckpointError, match=r"num_hidden_layers is 3 .* and 4 in the backbone"):
        dataclasses.replace(SMALL, layers=4).load(saved)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="'llama', the backbone is a 'qwen2_5_vl'"):
        SMALL.load(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        SMALL.load(copied)
    assert name in str(caught.value)


@pytest.mark.parametrize("length", [0, 5, 400, -1])
def test_weights_that_were_cut_off_are_refused(copied, length):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        SMALL.load(copied)


def test_a_missing_weight_is_not_filled_up(copied):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        SMALL.load(copied)


def test_sizes_that_do_not_fit_are_reported():
    wrong = dataclasses.replace(SMALL, hidden_size=66, kv_heads=3)
    found = [problem.what for problem in wrong.problems(None)]
    assert len(found) == 2
    assert "66" in found[0]
    assert "kv_heads (3)" in found[1]


def test_importing_the_component_imports_no_torch():
    script = (
        "import sys, vexp.backbone.tiny_qwen2_5_vl as m; m.TinyQwen25VL().content();"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("early", [False, True])
def test_broken_packages_beside_torch_do_no_harm(tmp_path, early):
    """As published: installed, and raising when imported beside a CPU-only torch."""
    for name in ("torchvision", "torchaudio"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"raise RuntimeError('operator {name}::nms does not exist')\n"
        )
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        + ("import transformers.utils as u; assert u.is_torchvision_available()\n" if early else "")
        + "from tests.tiny import PROMPT, fresh_policy, item\n"
        "assert len(fresh_policy().encode([item(0)], PROMPT)) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_other_sizes_is_refused_without_its_weights(tmp_path):
    smallest = {"layers": 2, "hidden_size": 64, "heads": 2, "kv_heads": 1, "vision_depth": 1}
    made = REGISTRY.get("backbone", "tiny_qwen2_5_vl")
    made(**smallest).load().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    made(**smallest).check(tmp_path)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 2 in the checkpoint and 3"):
        made(**(smallest | {"layers": 3})).check(tmp_path)
