"""Secrets are named and never written, whatever form they come in; all else stays as it is."""

from __future__ import annotations

import json
import urllib.parse

import pytest

from vexp import masking
from vexp.errors import ConfigError
from vexp.masking import argument, arguments, mask, masked, restored, stored

SECRET = "s3cret/of+the env"
LINES = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END KEY-----"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(masking, "_given", {})
    monkeypatch.setenv("MY_TOKEN", SECRET)
    monkeypatch.setenv("DEPLOY_PRIVATE_KEY", LINES)
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("SOME_SETTING", "no-secret-at-all")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True), ("WANDB_API_KEY", True), ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_ACCESS_KEY_ID", True), ("DB_PASSWORD", True), ("PGPASSWORD", True),
        ("APIKEY", True), ("GITHUBTOKEN", True), ("awsSecretKey", True), ("CREDENTIALS", True),
        ("DB_PWD", True), ("PWD", False), ("OLDPWD", False), ("TOKENIZERS_PARALLELISM", False),
        ("max_new_tokens", False), ("MONKEY", False), ("HF_TOKEN_PATH", False), ("PATH", False),
        ("KEYBOARD", False), ("SECRET_NAME", False), ("", False),
    ],
)  # fmt: skip
def test_variables_that_are_named_like_secrets(name, secret):
    assert masking.is_secret_name(name) is secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {SECRET}, again {SECRET}", "a ***MY_TOKEN***, again ***MY_TOKEN***"),
        (urllib.parse.quote(SECRET, safe=""), "***MY_TOKEN***"),
        (json.dumps({"x": LINES}), '{"x": "***DEPLOY_PRIVATE_KEY***"}'),
        ("+MIIEvQIBADANBgkqhkiG9w0B", "+***DEPLOY_PRIVATE_KEY***"),
        ("abc no-secret-at-all", "abc no-secret-at-all"),
        ("git clone https://me:pw@h/x.git", "git clone https://***@h/x.git"),
        ("https://ghtoken@h/x", "https://***@h/x"),
        ("ssh://git@h/x and http://h:80/v1", "ssh://git@h/x and http://h:80/v1"),
        ("postgresql://u:p%40w@db/optuna", "postgresql://***@db/optuna"),
        ("token hf_" + "a" * 34, "token ***"),
        ("sk-short and key=lambda x: x", "sk-short and key=lambda x: x"),
    ],
)
def test_texts(text, shown):
    assert mask(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("seed=1", "seed=1"),
        ("rollout.max_new_tokens=12", "rollout.max_new_tokens=12"),
        ("evaluator.x.stop_token=eos", "evaluator.x.stop_token=eos"),
        ("judge.key_variable=OPENAI_API_KEY", "judge.key_variable=OPENAI_API_KEY"),
        ("judge.length_key=max_tokens", "judge.length_key=max_tokens"),
        ("monkey=1", "monkey=1"),
        ("/path/with/key/in/it", "/path/with/key/in/it"),
        ("a.password='x y=z'", "a.password=***"),
        ("+tracker.wandb.api_key=x", "+tracker.wandb.api_key=***"),
        ("HF_TOKEN=abc", "HF_TOKEN=***"),
        ("--api-key=x", "--api-key=***"),
        ("{HF_TOKEN:x,OTHER:y}", "{HF_TOKEN:***,OTHER:y}"),
        ("url=https://h/?password=x&y=1", "url=https://h/?password=***&y=1"),
        ("launcher.environment.X=a", "launcher.environment.X=***X***"),
        ("+launcher.environment={X:a,Y:'b}, c'}", "+launcher.environment={X:***X***,Y:***Y***}"),
        (
            "launcher={name:slurm,environment:{X:'q}',Y:b},cpus:3}",
            "launcher={name:slurm,environment:{X:***X***,Y:***Y***},cpus:3}",
        ),
        ("launcher=slurm", "launcher=slurm"),
        ("launcher.environment.X=[", "launcher.environment.X=["),
        ("launcher.environment={X:1}", "launcher.environment={X:1}"),
    ],
)
def test_arguments(text, shown):
    assert argument(text) == shown


def test_a_value_that_follows_its_option():
    given = ["vexp", "run", "--api-key", "x", "--token", "-v", "--max-tokens", "9", "seed=1"]
    shown = ["vexp", "run", "--api-key", "***", "--token", "-v", "--max-tokens", "9", "seed=1"]
    assert arguments(given) == shown


def test_what_was_named_is_found_again(monkeypatch):
    config = {"backbone": {"name": SECRET, "path": f"/x/{SECRET}"}, "list": [SECRET, 3, None],
              "launcher": {"environment": {"GONE": "***GONE***"}}}  # fmt: skip
    kept = stored(config)
    assert kept["backbone"] == {"name": SECRET, "path": "/x/***MY_TOKEN***"}
    assert restored(kept, "run.json") == config
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(ConfigError, match="environment variable MY_TOKEN, which is not kept"):
        restored(kept, "run.json")


def test_values_of_the_launcher_are_masked_in_texts_but_not_in_configs():
    """A value whose name says nothing may be any word of a config."""
    masking.by_name("launcher.environment={PROJECT_NAME:digits-in-charts,X:***X***}")
    assert mask("in digits-in-charts") == "in ***PROJECT_NAME***"
    assert stored({"x": "digits-in-charts"}) == {"x": "digits-in-charts"}
    assert masking.value_of("PROJECT_NAME", "***PROJECT_NAME***") == "digits-in-charts"
    assert masking.value_of("X", "***X***") is None and masking.value_of("X", "y") == "y"


def test_paths_are_no_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOY_KEY", str(tmp_path))
    assert mask(f"{tmp_path}/results") == f"{tmp_path}/results"


def test_trees_and_their_keys():
    assert masked({SECRET: [SECRET, 1, {"a": None}]}) == {
        "***MY_TOKEN***": ["***MY_TOKEN***", 1, {"a": None}]
    }


def test_a_kept_sweep_finds_its_values_but_for_those_of_the_launcher():
    text = 'base: ["a=\'***MY_TOKEN***\'", "launcher.environment.MY_TOKEN=***MY_TOKEN***"]\n'
    found = masking.restored_text(text, "x.yaml")
    assert found == text.replace("a='***MY_TOKEN***'", f"a='{SECRET}'")
    with pytest.raises(ConfigError, match="GONE"):
        masking.restored_text('base: ["a=***GONE***"]', "x.yaml")
