"""`vexp doctor`: what it finds of a machine, what a config lacks, and how much memory it needs."""

from __future__ import annotations

import json
import sys
import types
from importlib import metadata

import pytest
import torch
from click.testing import CliRunner

from vexp.cli.main import cli
from vexp.doctor import lacking, machine
from vexp.doctor.memory import Shapes, estimate
from vexp.errors import ConfigError
from vexp.policy import zero
from vexp.spec.resolve import resolve

SECRET = "0123456789abcdef0123456789abcdef01234567"


def doctor(*arguments):
    found = CliRunner().invoke(cli, ["doctor", *arguments])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_a_machine_is_described_without_a_config(project) -> None:
    found = json.loads(doctor("--json").output)["machine"]
    states = {finding["name"]: finding["state"] for finding in found}
    assert states["torch"] == states["transformers"] == states["python"] == states["disk"] == "ok"
    assert set(states.values()) <= {"ok", "absent"}
    assert not list(project.iterdir()), "nothing is written"


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_key_is_found_and_never_shown(where, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not machine.wandb_key()
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
    else:
        (tmp_path / "netrc").write_text(
            f"machine api.wandb.ai\n  login user\n  password {SECRET}\n"
        )
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert machine.wandb_key()
    run = doctor("tracker.w=wandb", "tracker.w.mode=online")
    assert "with a key" in run.output
    assert SECRET not in run.output


def test_a_damaged_key_file_is_no_key(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("nonsense {")
    assert not machine.wandb_key()


def test_flash_attention_that_does_not_import_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(machine, "package_version", lambda name: "2.8.3")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    found = machine.flash_attention()
    assert found.state == "absent"
    assert "2.8.3 cannot be imported" in found.detail
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    assert machine.flash_attention().state == "ok"


def test_deepspeed_is_there_if_it_imports_and_can_do_what_is_needed(monkeypatch) -> None:
    lacks = resolve(["compute.shard=zero1", "compute.processes=2", "compute.device=cpu"])

    def found(version, imported=lambda: None):
        monkeypatch.setattr(machine, "package_version", lambda name: version)
        monkeypatch.setattr(metadata, "version", lambda name: version)
        monkeypatch.setattr(zero, "imported", imported)
        needed = by_name(lacking.findings(lacks)).get("compute.shard")
        return machine.deepspeed(), needed

    assert [each and each.state for each in found("0.19.8")] == ["ok", None]
    for version, imported, why in (
        (None, None, "not installed"),
        ("0.18.9", lambda: None, "needs deepspeed 0.19.8 or newer, and 0.18.9 is installed"),
        ("0.20.0", lambda: 1 / 0, "0.20.0 cannot be imported: division by zero"),
    ):
        here, needed = found(version, imported)
        assert (here.state, needed.state) == ("absent", "missing")
        assert why in here.detail
        assert why in needed.detail
        assert here.remedy == needed.remedy == "pip install 'vexp[deepspeed]'"


def test_the_network_is_used_only_when_asked(monkeypatch, project) -> None:
    asked = []

    def opened(request, timeout):
        asked.append(request.full_url)
        raise OSError("no route")

    monkeypatch.setattr(machine.urllib.request, "urlopen", opened)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    doctor()
    assert asked == []
    found = doctor("--online")
    assert asked == ["http://127.0.0.1:9"]
    assert "cannot be reached: no route" in found.output
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("overrides", "name", "message"),
    [
        (("compute.device=cuda",), "compute.device", "torch sees no GPU"),
        (("compute.attention=flash_attention_2",), "compute.attention", "not installed"),
        (("tracker.w=wandb", "tracker.w.mode=online"), "tracker.w", "no key for wandb"),
        (("launcher=slurm",), "launcher", "no sbatch"),
        (("backbone=qwen2_5_vl_7b",), "backbone", "weights of Qwen/Qwen2.5-VL-7B-Instruct"),
        (("backbone=qwen2_5_vl_7b", "backbone.path=./nowhere"), "backbone.path", "no folder"),
    ],
)
def test_what_a_config_lacks_is_named(overrides, name, message, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = by_name(lacking.findings(resolve(list(overrides))))
    assert found[name].state == "missing"
    assert message in found[name].detail
    assert found[name].remedy


def test_more_processes_than_gpus_are_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = by_name(lacking.findings(resolve(["compute.processes=4"])))
    assert found["compute.processes"].detail == "4 processes, one for each GPU, but torch sees 2"
    assert not by_name(lacking.findings(resolve(["compute.processes=2"])))


def test_a_disk_that_is_too_small_is_named(monkeypatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 1000)
    (found,) = lacking.findings(resolve([]))
    assert found.name == "results_dir"
    assert "1.0 kB are free" in found.detail


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(lacking, "package_version", lambda name: None)
    found = by_name(lacking.findings(resolve(["mix.datasets.main=charts_vqa"])))
    assert found["mix.datasets.main"].remedy == "pip install vega_datasets"


def test_the_exit_code_says_whether_something_is_missing(project) -> None:
    good, bad = doctor("experiment=ease"), doctor("compute.attention=flash_attention_2")
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "nothing is missing for this config" in good.output
    assert "use auto or sdpa" in bad.output


def test_the_data_is_looked_at(project) -> None:
    found = doctor("--data", "--json", "mix.datasets.main=charts_vqa")
    content = json.loads(found.output)
    assert content["prompts"][0]["image_tokens"] == 192
    assert content["too_long"] == []
    parts = {part["name"]: part for part in content["memory"]["parts"]}
    assert "backbone.max_image_tokens" in parts["activations"]["keys"], "the twin's own key"
    assert content["memory"]["bytes"] == max(
        content["memory"]["update"], content["memory"]["generation"]
    )
    text = doctor("--data", "mix.datasets.main=charts_vqa", "prompt.max_length=50")
    assert text.exit_code == 1
    assert "there is room for 50" in text.output
    assert "memory of a process, about" in text.output


def test_what_is_to_know_of_the_data_is_said(project) -> None:
    rows = [{"question": f"{n}+0?", "answer": float(n)} for n in range(40)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (project / "data.jsonl").write_text(lines)
    table = ("mix.datasets.main=table", "mix.datasets.main.path=data.jsonl", "stages=[rl]")
    text = doctor("--data", *table).output
    assert "the data can be read; note that:" in text
    assert "mix.datasets.main: 40 rows: the answer is written as an integer" in text
    (note,) = json.loads(doctor("--data", "--json", *table).output)["data"]
    assert note.startswith("mix.datasets.main: 40 rows")
    rows[3]["image"] = "nowhere.png"
    (project / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ConfigError, match=r"nowhere.png"):
        doctor("--data", *table)


def test_nothing_is_fetched_to_look_at_the_data(project, monkeypatch) -> None:
    from vexp import hub

    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = doctor("--data", "backbone=qwen2_5_vl_3b")
    assert "are not on this machine" in found.output
    assert "longest of" not in found.output
    assert found.exit_code == 0, "a run would fetch it"


# --- memory


def kept_for_backward(run) -> tuple[int, int, int]:
    """Bytes that autograd keeps of one micro-batch; tokens of its prompts and of their images."""
    policy = run.backbone.load()
    rows, length = run.compute.micro_batch_size, run.rollout.max_response_length
    items = [run.mix.draw(n, seed=1) for n in range(rows // run.rollout.group_size)]
    prompts = policy.encode(items, run.prompt)
    tokens = torch.full((rows, length), 30)
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    index = torch.arange(rows) // run.rollout.group_size
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = policy(prompts, tokens, torch.ones_like(tokens, dtype=torch.bool), index)
    assert output.logprobs.requires_grad
    of_image = (prompts.input_ids == policy.vision.image_token_id).sum(dim=1)
    return sum(kept.values()), int(prompts.attention_mask.sum(1).max()), int(of_image.max())


def shapes_of(run) -> Shapes:
    policy = run.backbone.load()
    return Shapes.of(sum(p.numel() for p in policy.parameters()), policy.model.config)


@pytest.mark.parametrize(
    "overrides",
    [
        ("compute.micro_batch_size=32",),
        ("compute.micro_batch_size=16", "rollout.max_response_length=96", "backbone.layers=3"),
        ("compute.micro_batch_size=16", "mix.datasets.main=charts_vqa"),
        ("compute.micro_batch_size=16", "mix.datasets.main=charts_vqa", "backbone=tiny_qwen3_vl"),
    ],
)
def test_activations_are_about_what_autograd_keeps(overrides) -> None:
    run = resolve(list(overrides))
    measured, prompt, image = kept_for_backward(run)
    parts = estimate(run, shapes_of(run), prompt, image).parts
    estimated = sum(part.bytes for part in parts if part.name.startswith("activations"))
    assert 0.75 < estimated / measured < 1.33


def test_every_named_key_lowers_its_part() -> None:
    base = ["compute.precision=bf16", "mix.datasets.main=charts_vqa"]
    run = resolve(base)
    shapes = shapes_of(run)
    lower = {
        "compute.micro_batch_size": "compute.micro_batch_size=8",
        "rollout.max_response_length": "rollout.max_response_length=8",
        "rollout.group_size": "rollout.group_size=2",
        "rl.prompts_per_step": "rl.prompts_per_step=2",
        "algorithm.kl_coef=0": "algorithm.kl_coef=0.0",
        "compute.gradient_checkpointing=true": "compute.gradient_checkpointing=true",
    }
    tried = set()
    for part in estimate(resolve([*base, "algorithm.kl_coef=0.1"]), shapes, 261, 192).parts:
        for key in set(part.keys) & lower.keys():
            changed = resolve([*base, "algorithm.kl_coef=0.1", lower[key]])
            others = estimate(changed, shapes, 261, 192).parts
            after = sum(other.bytes for other in others if other.name == part.name)
            assert after < part.bytes, (part.name, key)
            tried.add(key)
    assert tried == lower.keys()


def test_weights_gradients_and_moments_are_exact() -> None:
    run = resolve([])
    shapes = shapes_of(run)
    parts = {part.name: part.bytes for part in estimate(run, shapes, 23, 4).parts}
    assert parts["weights"] == parts["gradients"] == 4 * shapes.parameters
    assert parts["moments of AdamW"] == 8 * shapes.parameters
    untrained = estimate(resolve(["stages=[]"]), shapes, 23, 4).parts
    assert [part.name for part in untrained] == ["weights"]


def test_weights_in_bfloat16_have_a_second_half_and_moments_that_do_not_shrink() -> None:
    half = ["backbone=qwen2_5_vl_3b", "backbone.weights=bf16", "compute.precision=bf16"]
    shapes = shapes_of(resolve([]))
    found = estimate(resolve(half), shapes, 23, 4).parts
    parts = {part.name: part for part in found}
    each = {name: part.bytes / shapes.parameters for name, part in parts.items()}
    assert each["weights"] == each["gradients"] == each["second halves of the weights"] == 2
    assert each["moments of AdamW"] == 6
    for part in estimate(resolve([half[0], half[2]]), shapes, 23, 4).parts:
        if part.name in ("weights", "gradients", "moments of AdamW"):
            assert ("backbone.weights=bf16" in part.keys) == (part.name != "moments of AdamW")
    adapted = estimate(resolve([*half, "backbone.lora.rank=8"]), shapes, 23, 4).parts
    assert "second halves of the weights" not in {part.name for part in adapted}


def test_shards_divide_what_lies_still_and_gather_what_is_used() -> None:
    plain = resolve(["algorithm.kl_coef=0.1", "compute.processes=4"])
    sharded = resolve(["algorithm.kl_coef=0.1", "compute.processes=4", "compute.shard=fsdp2"])
    shapes = shapes_of(plain)
    whole = 4 * shapes.parameters
    parts = {part.name: part for part in estimate(sharded, shapes, 23, 4).parts}
    before = {part.name: part for part in estimate(plain, shapes, 23, 4).parts}
    for name in ("weights", "gradients", "moments of AdamW", "reference model"):
        assert parts[name].bytes == before[name].bytes // 4
        assert "compute.shard=fsdp2" in before[name].keys
        assert "compute.processes" in parts[name].keys
    assert parts["weights, gathered"].bytes == whole
    assert parts["weights, gathered"].when == "generation"
    assert parts["gradients before they are summed"].bytes == whole
    assert whole / 4 < parts["weights, gathered for a layer"].bytes < whole
    added = {"weights, gathered", "weights, gathered for a layer", "reference model, gathered"}
    assert parts.keys() - before.keys() == added | {"gradients before they are summed"}


@pytest.mark.parametrize(("shard", "divided"), [("zero1", 1), ("zero2", 2)])
def test_zero_divides_moments_and_with_stage_2_gradients(shard, divided) -> None:
    base = ["compute.processes=4", "compute.micro_batch_size=32"]  # one for each process
    plain, spread = resolve(base), resolve([*base, f"compute.shard={shard}"])
    shapes = shapes_of(plain)
    whole = 4 * shapes.parameters
    before, parts = (
        {part.name: part.bytes for part in estimate(run, shapes, 23, 4).parts}
        for run in (plain, spread)
    )
    names = ("moments of AdamW", "gradients", "weights")
    shares = [4] * divided + [1] * (3 - divided)
    assert [before[name] / parts[name] for name in names] == pytest.approx(shares)
    assert parts["weights that DeepSpeed updates"] == pytest.approx(whole / 4)
    passing = "gradients before they are summed"
    assert (passing in parts) == (shard == "zero2")
    several = resolve([*base, f"compute.shard={shard}", "compute.micro_batch_size=31"])
    again = {part.name: part.bytes for part in estimate(several, shapes, 23, 4).parts}
    assert again[passing] == whole
