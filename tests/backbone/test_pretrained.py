"""Real models by folder or hub name: identity, loading, training, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from tests.backbone.models import REAL, change, limits, real, source
from tests.layouts import layouts
from tests.tiny import PROMPT, item, ragged_items
from vexp import hub
from vexp.cli.main import main
from vexp.errors import CheckpointError
from vexp.registry import REGISTRY

families = pytest.mark.parametrize("family", REAL)
# Llama-3.2-Vision ties nothing, and its vocabulary does not grow.
tokens = pytest.mark.parametrize("family", sorted(REAL.keys() - {"mllama"}))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRAIN = (
    "stages=[rl]", "rl.steps=2", "rl.prompts_per_step=2", "rollout.group_size=2",
    "rollout.max_response_length=6", "mix.datasets.main.test_size=4", "compute.threads=1",
    "prompt.instruction='<think> </think>, then \\boxed{}.'",
)  # fmt: skip
EASE = "auxiliary.ease={name: ease, gate: {name: always}}"
QWENS = {"size": {"shortest_edge": 1024, "longest_edge": 65536}}
# Settings of the image processor that a checkpoint keeps
IMAGES = {
    "qwen2_vl": QWENS,
    "qwen2_5_vl": QWENS,
    "qwen3_vl": QWENS,
    "internvl": {"crop_to_patches": True, "max_patches": 4},
    "smolvlm": {"size": {"longest_edge": 112}, "do_image_splitting": True},
    "mllama": {"size": {"height": 56, "width": 56}, "max_image_tiles": 4},
}


def loss(family):
    """A loss that moves an untrained model: on attention, where there are image tokens."""
    return ("auxiliary.papo=papo",) if family == "mllama" else (EASE,)


def tokens_of(owner, rows, length):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 400, (rows, length), generator=generator)


def logprobs(owner):
    batch = owner.encode(ragged_items(), PROMPT)
    tokens = tokens_of(owner, 4, 5)
    return owner(batch, tokens, torch.ones_like(tokens).bool(), torch.arange(4)).logprobs


@pytest.fixture
def vexp(capsys):
    """Runs one command; answers its exit code and what it wrote to its two streams."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        written = capsys.readouterr()
        return ended.value.code, written.out, written.err

    return run


def what(problems):
    return " | ".join(str(problem) for problem in problems)


@families
def test_a_folder_holds_the_model_that_was_saved_there(family, tmp_path):
    backbone = real(family, source(family, tmp_path))
    assert not list(backbone.problems(None))
    assert backbone.decoder_layers == 3
    assert backbone.revision is None
    owner = backbone.load()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True)
    theirs, ours = plain.state_dict(), owner.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
    assert logprobs(owner).isfinite().all()


@families
def test_trained_through_the_command_line_saved_and_read_again(family, tmp_path, vexp):
    """Two RL steps and an evaluation; then plain transformers and vexp read what was published."""
    model, results = source(family, tmp_path / "source"), tmp_path / "results"
    small = [f"backbone.{key}={value}" for key, value in limits(family).items()]
    named = (f"backbone={REAL[family]}", f"backbone.path={model}", f"results_dir={results}", *small)
    code, out, err = vexp("run", *named, *TRAIN, *loss(family), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["state"] == "finished"
    assert found["evaluations"]["heldout"]["metrics"]["accuracy"]["n"] == 4
    (trained,) = results.glob("runs/*/attempts/*/checkpoints/step-000002/model")
    before, after = (load_file(f / "model.safetensors") for f in (model, trained))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    AutoModelForImageTextToText.from_pretrained(trained, local_files_only=True)
    assert AutoTokenizer.from_pretrained(trained).chat_template
    images = AutoImageProcessor.from_pretrained(trained, backend="pil")
    for key, value in IMAGES[family].items():
        found = getattr(images, key)
        assert (dict(found) if isinstance(value, dict) else found) == value
    assert (trained / "video_preprocessor_config.json").read_text() == '{"fps": 2}\n'
    shutil.rmtree(model)  # a checkpoint is whole without the model it was made from
    again = real(family, trained).load()
    read = real(family, model).load(trained)
    assert torch.equal(logprobs(again), logprobs(read))


def test_the_id_is_of_the_content_and_not_of_the_place(tmp_path):
    first, second = source("qwen2_vl", tmp_path / "a"), source("qwen2_vl", tmp_path / "b")
    content = real("qwen2_vl", first).content()
    assert content == real("qwen2_vl", second).content()
    tensors = load_file(second / "model.safetensors")
    for key, value in tensors.items():  # a model fine-tuned a little has the same headers
        tensors[key] = value * (1 + 1e-3)
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    changed = real("qwen2_vl", second).content()
    assert changed != content
    (second / "chat_template.jinja").write_text("{{ messages }}")
    assert real("qwen2_vl", second).content() != changed
    change(first / "config.json", transformers_version="9.9", _name_or_path="elsewhere")
    assert real("qwen2_vl", first).content() == content


def test_a_default_is_known_without_being_there():
    for name, layers in (
        ("qwen2_vl_2b", 28),
        ("qwen2_5_vl_3b", 36),
        ("qwen2_5_vl_7b", 28),
        ("qwen2_5_vl_32b", 64),
        ("qwen3_vl_4b", 36),
        ("qwen3_vl_8b", 36),
        ("internvl3_5_8b", 36),
        ("smolvlm2_2b", 24),
        ("llama3_2_vision_11b", 40),
    ):
        backbone = REGISTRY.get("backbone", name)()
        assert backbone.decoder_layers == layers
        assert backbone.content() == {"commit": backbone.revision}
        assert not list(backbone.unknown())
        assert not list(backbone.problems(None))
        assert not hasattr(backbone, "trust_remote_code")


def test_show_and_plan_say_what_is_unknown_and_run_refuses(tmp_path, vexp):
    missing = f"backbone.path={tmp_path / 'missing'}"
    ids = set()
    for path, said in ((missing, "no folder"), ("backbone.path=me/mine", "commit 'main' of")):
        code, out, _ = vexp("show", "backbone=qwen3_vl_4b", path)
        assert code == 0
        assert "(provisional)" in out
        assert f"{said}" in out.split("# unknown: ")[1].splitlines()[0]
        code, out, _ = vexp("show", "backbone=qwen3_vl_4b", path, "--json")
        assert len(json.loads(out)["unknown"]) == 1
        ids.add(json.loads(out)["id"])
        code, _, err = vexp("run", "backbone=qwen3_vl_4b", path, f"results_dir={tmp_path}")
        assert code == 2
        assert said in err
    assert len(ids) == 2
    sweep = tmp_path / "sweep.yaml"
    base = f"base: [backbone=qwen3_vl_4b, {missing}, results_dir={tmp_path}]\n"
    sweep.write_text(base + "rows: {one: {label: One}}\nseeds: [1, 2]\n")
    code, out, _ = vexp("plan", sweep)
    assert code == 0
    assert out.count("unknown: there is no folder") == 1
    code, _, err = vexp("launch", sweep)
    assert code == 2
    assert "there is no folder" in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_composing_imports_no_torch_even_where_the_model_is_there(tmp_path):
    folder = source("qwen3_vl", tmp_path)
    script = (
        "import sys; from vexp.spec.resolve import resolve\n"
        "from vexp.spec.identity import training_id\n"
        f"training_id(resolve(['backbone=qwen3_vl_4b', 'backbone.path={folder}']))\n"
        "training_id(resolve(['backbone=qwen3_vl_4b', 'backbone.revision=main']))\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_architecture_is_named(tmp_path):
    found = what(real("qwen2_5_vl", source("qwen3_vl", tmp_path)).problems(None))
    assert "the model is a 'qwen3_vl', the backbone is a 'qwen2_5_vl'" in found
    with pytest.raises(CheckpointError, match="'qwen3_vl', the backbone is a 'qwen2_5_vl'"):
        real("qwen2_5_vl", tmp_path).load()
    with pytest.raises(CheckpointError, match="'qwen3_vl', the backbone is a 'qwen2_5_vl'"):
        real("qwen2_5_vl", tmp_path).check(tmp_path)


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path):
    folder = source("qwen2_vl", tmp_path / "a")
    other = tmp_path / "b"
    REGISTRY.get("backbone", "tiny_qwen2_vl")(layers=2, hidden_size=64).load().save(other)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 2 in the checkpoint and 3"):
        real("qwen2_vl", folder).check(other)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json"], "there is no config.json"),
        (["model.safetensors"], "model.safetensors is missing"),
        (["tokenizer.json"], "there is no tokenizer"),
        (["chat_template.jinja"], "there is no chat template"),
        (["preprocessor_config.json"], "there is no image processor"),
        (["tokenizer.json", "preprocessor_config.json"], "there is no image processor"),
    ],
)
def test_what_a_folder_lacks_is_said(tmp_path, files, said):
    folder = source("qwen2_5_vl", tmp_path)
    for name in files:
        (folder / name).unlink()
    backbone = real("qwen2_5_vl", folder)
    problems = list(backbone.problems(None))
    assert len(problems) == len(files)
    assert said in what(problems)
    assert str(folder) in what(problems)
    assert all(problem.remedy for problem in problems)
    with pytest.raises(CheckpointError):
        backbone.load()


@pytest.mark.parametrize("length", [0, 7, 300, -1])
def test_damaged_weights_are_said(tmp_path, length):
    path = source("qwen2_5_vl", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    found = what(real("qwen2_5_vl", tmp_path).problems(None))
    assert "damaged header" in found or "was cut off" in found


def test_weights_that_are_longer_than_they_say_are_damaged(tmp_path):
    path = source("qwen2_5_vl", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    assert "4 bytes" in what(real("qwen2_5_vl", tmp_path).problems(None)).replace(
        str(path.stat().st_size), "4"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "not a JSON object"),
        ("preprocessor_config.json", "nonsense", "preprocessor_config.json is damaged"),
        ("tokenizer_config.json", "", "tokenizer_config.json is damaged"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
    ],
)
def test_damaged_files_are_said(tmp_path, name, content, said):
    (source("qwen2_5_vl", tmp_path) / name).write_text(content)
    assert said in what(real("qwen2_5_vl", tmp_path).problems(None))


def test_a_tokenizer_that_cannot_be_read_is_said(tmp_path):
    (source("qwen2_5_vl", tmp_path) / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        real("qwen2_5_vl", tmp_path).load()


def test_a_processor_of_another_patch_size_is_said(tmp_path):
    change(source("qwen3_vl", tmp_path) / "preprocessor_config.json", patch_size=14)
    assert "patch_size is 14, not 16" in what(real("qwen3_vl", tmp_path).problems(None))


@pytest.mark.parametrize(
    ("family", "name", "settings", "said"),
    [
        ("internvl", "preprocessor", {"size": {"height": 28, "width": 28}}, "a tile is 28, not 56"),
        ("smolvlm", "preprocessor", {"max_image_size": {"longest_edge": 28}}, "is 28, not 56"),
        ("internvl", "processor", {"image_seq_length": 256}, "image_seq_length is 256, not 4"),
        (
            "internvl",
            "preprocessor",
            {"image_processor_type": "Qwen2VLImageProcessor"},
            "image_processor_type is Qwen2VLImageProcessor, not GotOcr2",
        ),
        ("qwen3_vl", "preprocessor", {"image_processor_type": "SmolVLMImageProcessorFast"}, "not"),
    ],
)
def test_a_processor_that_does_not_fit_is_said_once(tmp_path, family, name, settings, said):
    change(source(family, tmp_path) / f"{name}_config.json", **settings)
    (problem,) = real(family, tmp_path).problems(None)
    assert "the image processor does not fit the model" in problem.what
    assert said in problem.what
    assert "copy the processor's files" in problem.remedy
    with pytest.raises(CheckpointError, match="does not fit"):
        real(family, tmp_path).load()


@pytest.mark.parametrize(
    ("found", "remedy"),
    [
        ("internvl", "choose backbone=internvl3_5_8b for it"),
        ("qwen3_vl", "choose backbone=qwen3_vl_4b or qwen3_vl_8b for it"),
        ("llava", "vexp has no backbone of its architecture"),
        (None, "vexp has no backbone of its architecture"),
    ],
)
def test_for_another_architecture_the_right_backbone_is_named(tmp_path, found, remedy):
    change(source("qwen2_vl", tmp_path) / "config.json", model_type=found)
    (problem,) = real("qwen2_vl", tmp_path).problems(None)
    assert problem.remedy.startswith(remedy)


def test_more_tiles_than_have_names_are_refused(tmp_path):
    folder = source("smolvlm", tmp_path)
    assert not list(real("smolvlm", folder, tiles_per_side=6).problems(None))
    assert "7 tiles a side" in what(real("smolvlm", folder, tiles_per_side=7).problems(None))


def test_a_configuration_that_makes_no_sense_is_said(tmp_path):
    config = source("qwen3_vl", tmp_path) / "config.json"
    text = json.loads(config.read_text())["text_config"]
    change(config, text_config=text | {"hidden_size": "many"})
    with pytest.raises(CheckpointError, match="cannot use the model's configuration"):
        real("qwen3_vl", tmp_path).load()


def test_sliding_windows_are_refused(tmp_path):
    config = source("qwen2_5_vl", tmp_path) / "config.json"
    text = json.loads(config.read_text())["text_config"]
    change(config, text_config=text | {"use_sliding_window": True})
    assert "sliding windows" in what(real("qwen2_5_vl", tmp_path).problems(None))


def test_settings_that_contradict_each_other_are_said(tmp_path):
    folder = source("qwen2_5_vl", tmp_path)
    backbone = real("qwen2_5_vl", folder, revision=COMMIT, min_pixels=10_000, max_pixels=9_000)
    found = what(backbone.problems(None))
    assert "a folder has no revision" in found
    assert "min_pixels (10000) is more than max_pixels (9000)" in found
    assert "no model is named" in what(real("qwen2_5_vl", "").problems(None))


@pytest.mark.parametrize("old", [False, True])
def test_images_are_kept_within_the_limits(tmp_path, old):
    folder = source("qwen3_vl", tmp_path)
    if old:  # as Qwen2.5-VL's repositories have it
        path = folder / "preprocessor_config.json"
        change(path, size=None, min_pixels=3136, max_pixels=12845056)
    owner = real("qwen3_vl", folder, min_pixels=64 * 64, max_pixels=96 * 96).load()
    batch = owner.encode([item(0, size=(32, 32)), item(1, size=(320, 320))], PROMPT)
    assert batch.layouts == layouts((2, 2), (3, 3))
    owner.save(tmp_path / "saved")
    saved = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert dict(saved.size) == {"shortest_edge": 64 * 64, "longest_edge": 96 * 96}


def test_weights_in_several_files_and_processors_in_one(tmp_path):
    """As `save_pretrained` of a large model and of transformers 5's processors writes them."""
    folder = source("qwen3_vl", tmp_path)
    expected = logprobs(real("qwen3_vl", folder).load())
    model = real("qwen3_vl", folder).load().model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    images = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": images, "processor_class": "Qwen3VLProcessor"})
    )
    backbone = real("qwen3_vl", folder)
    assert not list(backbone.problems(None))
    owner = backbone.load()
    assert torch.equal(logprobs(owner), expected)
    owner.save(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert kept["processor_class"] == "Qwen3VLProcessor"
    assert kept["image_processor"]["size"]["longest_edge"] == 256 * 256
    before = backbone.content()
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert shard.name in what(backbone.problems(None))
    shard.unlink()
    assert f"{shard.name} is missing" in what(backbone.problems(None))
    assert backbone.content() != before


def test_the_hubs_older_layout_is_read(tmp_path):
    """A flat configuration and names of weights from before the vision tower had a place beside."""
    folder = source("qwen2_5_vl", tmp_path)
    expected = logprobs(real("qwen2_5_vl", folder).load())
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "model_type": "qwen2_5_vl"}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(config | text))
    tensors = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for key, value in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
    change(folder / "generation_config.json", **settings)
    backbone = real("qwen2_5_vl", folder)
    assert not list(backbone.problems(None))
    assert backbone.decoder_layers == 3
    owner = backbone.load()
    assert torch.equal(logprobs(owner), expected)
    owner.save(tmp_path / "saved")
    backbone.check(tmp_path / "saved")
    assert torch.equal(logprobs(backbone.load(tmp_path / "saved")), expected)


@tokens
def test_tied_embeddings_stay_tied(family, tmp_path):
    """As in the smaller real models: one matrix, its gradient from both ends, saved once."""
    folder = source(family, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | {"tie_word_embeddings": True}
    change(folder / "config.json", tie_word_embeddings=True, text_config=text)
    tensors = load_file(folder / "model.safetensors")
    (head,) = [key for key in tensors if key.endswith("lm_head.weight")]
    del tensors[head]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    owner = real(family, folder).load()
    assert owner.model.lm_head.weight is owner.model.get_input_embeddings().weight
    logprobs(owner).sum().backward()
    assert owner.model.lm_head.weight.grad.abs().sum() > 0
    owner.save(tmp_path / "saved")
    assert head not in load_file(tmp_path / "saved" / "model.safetensors")
    again = real(family, folder).load(tmp_path / "saved")
    assert torch.equal(logprobs(again), logprobs(owner))


@families
def test_weights_in_bfloat16_train_and_stay_so(family, tmp_path, vexp):
    model = source(family, tmp_path / "source")
    small = [f"backbone.{key}={value}" for key, value in limits(family).items()]
    named = (f"backbone={REAL[family]}", f"backbone.path={model}", "backbone.weights=bf16", *small)
    code, _, err = vexp("show", *named)
    assert code == 2
    assert "set compute.precision=bf16" in err
    results = f"results_dir={tmp_path / 'results'}"
    more = ("compute.precision=bf16", "compute.gradient_checkpointing=true", results)
    code, _, err = vexp("run", *named, *TRAIN, *more, *loss(family))
    assert code == 0, err
    (trained,) = (tmp_path / "results").glob("runs/*/attempts/*/checkpoints/step-000002/model")
    before, after = (load_file(folder / "model.safetensors") for folder in (model, trained))
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert any(not torch.equal(before[key].bfloat16(), after[key]) for key in before)
    owner = real(family, model, weights="bf16").load(trained, precision="bf16")
    assert {parameter.dtype for parameter in owner.parameters()} == {torch.bfloat16}
    assert logprobs(owner).isfinite().all()


@tokens
def test_a_token_that_a_component_emits_is_added_and_known_again(family, tmp_path):
    folder = source(family, tmp_path / "source")
    words = {"<Focus>": ("red", "blue")}
    owner = real(family, folder).load(emits=words)
    number = owner.tokenizer.convert_tokens_to_ids("<Focus>")
    assert not owner.banned[number]
    owner.save(tmp_path / "saved")
    backbone = real(family, folder)
    backbone.check(tmp_path / "saved")
    again = backbone.load(tmp_path / "saved")
    assert not again.banned[number]
    assert torch.equal(again.model.lm_head.weight, owner.model.lm_head.weight)
    many = {f"<extra{n}>": () for n in range(64)}  # more than the embedding has spare rows
    grown = real(family, folder).load(emits=many)
    assert grown.model.lm_head.weight.shape[0] > owner.model.lm_head.weight.shape[0]
    grown.save(tmp_path / "grown")
    backbone.check(tmp_path / "grown")
    assert torch.equal(logprobs(backbone.load(tmp_path / "grown")), logprobs(grown))


def test_thinking_tokens_that_are_not_special_may_be_written(tmp_path):
    """Qwen3's tokenizer has <think> as an added token; banning it would forbid the format."""
    from tokenizers import AddedToken

    folder = source("qwen3_vl", tmp_path)
    plain = real("qwen3_vl", folder).load()
    plain.tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    plain.tokenizer.save_pretrained(folder)
    owner = real("qwen3_vl", folder).load()
    number = owner.tokenizer.convert_tokens_to_ids("<tool_call>")
    assert number in owner.tokenizer.added_tokens_decoder
    assert not owner.banned[number]
    assert owner.banned[owner.model.config.image_token_id]


def hub_cache(home, family, name="me/mine", revision="main"):
    """A model in the layout of the hub's local cache."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    source(family, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(COMMIT)


@pytest.fixture
def hub_home(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_a_hub_model_is_known_by_its_commit_and_read_from_the_cache(hub_home, monkeypatch):
    hub_cache(hub_home, "qwen2_vl")
    backbone = real("qwen2_vl", "me/mine")
    assert backbone.revision == "main"
    assert backbone.content() == {"commit": COMMIT}
    assert real("qwen2_vl", "me/mine", revision=COMMIT).content() == {"commit": COMMIT}
    assert not list(backbone.unknown())
    assert backbone.decoder_layers == 3
    asked = []
    fetch = hub.fetch
    monkeypatch.setattr(hub, "fetch", lambda *which: asked.append(which) or fetch(*which))
    assert logprobs(backbone.load()).isfinite().all()
    assert asked == [("me/mine", COMMIT)]  # what the id says, wherever `main` is by now


def test_a_hub_model_that_cannot_be_had_says_how_to_get_it(hub_home):
    with pytest.raises(CheckpointError, match="not in the local cache") as caught:
        real("qwen2_vl", "me/mine", revision=COMMIT).load()
    assert f"hf download me/mine --revision {COMMIT}" in str(caught.value)
    assert real("qwen2_vl", "me/mine").decoder_layers is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RepositoryNotFoundError", "the hub has no model 'me/mine', and there is no folder"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("GatedRepoError", "set HF_TOKEN"),
        ("HfHubHTTPError", "503 Server Error"),
    ],
)
def test_what_the_hub_answers_is_passed_on(monkeypatch, error, said):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_, **__):
        request = errors.Response.__init__.__globals__["Request"]("GET", "https://example.org")
        answer = errors.Response(503, request=request)
        raise getattr(errors, error)("503 Server Error\nand more", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError) as caught:
        hub.fetch("me/mine", "v9")
    assert said in str(caught.value)
