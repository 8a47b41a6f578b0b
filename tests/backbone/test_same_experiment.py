"""One experiment on every family: nothing but `backbone=` changes."""

from __future__ import annotations

import json

import pytest

from tests.backbone.plain import CROSSED, QWEN, SIZES, TILED, TWINS
from vexp.cli.main import main

SMALL = (
    "stages=[rl]", "rl.steps=2", "rl.prompts_per_step=2", "rl.prompts_per_update=null",
    "rollout.group_size=2", "rollout.max_response_length=6", "mix.datasets.main.test_size=4",
    "compute.threads=1", *(f"backbone.{key}={value}" for key, value in SIZES.items()),
)  # fmt: skip


def run(capsys, *overrides):
    """The metrics of each step of a run."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *overrides, "--json"])
    written = capsys.readouterr()
    assert ended.value.code == 0, written.err
    return json.loads(written.out)


@pytest.mark.parametrize("name", [*QWEN, *TILED])
def test_ease_trains(name, tmp_path, capsys):
    found = run(
        capsys,
        "experiment=ease",
        f"backbone={name}",
        *SMALL,
        "auxiliary.ease.gate=always",
        f"results_dir={tmp_path}",
    )
    assert found["state"] == "finished"
    (metrics,) = tmp_path.glob("runs/*/attempts/*/metrics.jsonl")
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    trained = [step for step in steps if "auxiliary/ease" in step]
    assert len(trained) == 2
    assert all(step["auxiliary/ease"] > 0 for step in trained)


@pytest.mark.parametrize("name", TWINS)
def test_dapo_trains(name, tmp_path, capsys):
    more = ("compute.gradient_checkpointing=true", "verifier=exact", f"results_dir={tmp_path}")
    found = run(capsys, "experiment=dapo", "group_filter=none", f"backbone={name}", *SMALL, *more)
    assert found["state"] == "finished"


@pytest.mark.parametrize("name", CROSSED)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("experiment=ease", "auxiliary 'ease' reads attention on image tokens"),
        ("experiment=vgpo", "credit 'vgpo' compares states with those of image tokens"),
        ("experiment=sayo", "reward 'attention' reads attention on image tokens"),
        ("experiment=faithful_mr1", "adds a token to the vocabulary"),
        ("evaluator.look=diagnostics", "evaluator 'diagnostics' reads attention on image tokens"),
    ],
)
def test_what_reads_image_tokens_is_refused_where_there_are_none(name, override, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["show", override, f"backbone={name}"])
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert said in written
    assert f"which backbone {name!r} does not have" in written
    assert "such as a Qwen-VL" in written
