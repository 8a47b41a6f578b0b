"""Manifests: complete, checked by content, and what was in order is not read twice."""

from __future__ import annotations

import json
import os

import pytest

from vexp.errors import CheckpointError
from vexp.train import manifest
from vexp.train.manifest import check, damage, listed_hash, write_manifest


@pytest.fixture
def folder(tmp_path):
    """A checkpoint that nobody has touched for a while."""
    home = tmp_path / "step-000001"
    (home / "model").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (home / "model" / name).write_text(f"content of {name}")
    (home / "optimizer.safetensors").write_text("moments")
    write_manifest(home)
    return home


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read; times are those of files that have settled."""
    read, original = [], manifest.sha256
    monkeypatch.setattr(
        manifest, "sha256", lambda path: (read.append(path.name), original(path))[1]
    )
    monkeypatch.setattr(manifest, "_SETTLED_NS", -(10**12))
    return read


ALL = ["config.json", "model.safetensors", "optimizer.safetensors"]


def test_what_was_found_in_order_is_not_read_again(folder, hashed):
    assert damage(folder, remembered=True) is None and sorted(hashed) == ALL
    assert damage(folder, remembered=True) is None and sorted(hashed) == ALL
    assert damage(folder) is None and len(hashed) == 6  # who resumes reads all of it


def test_a_file_that_changed_is_read_again_whatever_its_time_says(folder, hashed):
    assert damage(folder, remembered=True) is None
    path = folder / "model" / "model.safetensors"
    before = path.stat()
    path.write_bytes(b"C" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    del hashed[:]
    assert damage(folder, remembered=True) == "the content of model/model.safetensors has changed"
    assert hashed == ["model.safetensors"]


def test_what_changed_a_moment_ago_is_not_remembered(folder):
    assert damage(folder, remembered=True) is None
    assert not list(folder.parent.glob(".*.verified"))


@pytest.mark.parametrize("content", ["", "[]", '{"model/config.json": 3}', "\0" * 40])
def test_a_damaged_memory_costs_time_and_nothing_else(folder, hashed, content):
    assert damage(folder, remembered=True) is None
    (path,) = folder.parent.glob(".*.verified")
    good = path.read_bytes()
    path.write_text(content)
    assert damage(folder, remembered=True) is None
    assert len(hashed) == 6 and path.read_bytes() == good


def test_a_memory_of_other_content_is_no_proof(folder, hashed):
    assert damage(folder, remembered=True) is None
    (path,) = folder.parent.glob(".*.verified")
    known = json.loads(path.read_text())
    known["model/model.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(known))
    assert damage(folder, remembered=True) == "the content of model/model.safetensors has changed"


def test_results_that_may_only_be_read_are_checked_all_the_same(folder, hashed, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert damage(folder, remembered=True) is None
    assert not list(folder.parent.glob(".*.verified"))


def without(*names):
    def change(files):
        return {name: entry for name, entry in files.items() if name not in names}

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda files: {}, "lists no model"),
        (without("model/config.json", "model/model.safetensors"), "lists no model"),
        (without("model/model.safetensors"), "model/model.safetensors is not listed"),
        (lambda files: [], "manifest.json is damaged: expected `object`, got `array`"),
        (lambda files: {"model/x": {"sha256": "0", "size": -1}}, "manifest.json is damaged"),
        (lambda files: {"model/x": {"sha256": "0", "size": 1}}, "model/x is missing"),
    ],
)
def test_a_manifest_that_lacks_files_is_named(folder, change, what):
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"files": change(found["files"])}))
    assert what in damage(folder)
    with pytest.raises(CheckpointError, match="not those that were published"):
        check(folder / "model")


def test_tensors_that_nothing_lists_are_not_resumed_from(folder):
    (folder / "memory.safetensors").write_text("of nobody")
    assert damage(folder) == "memory.safetensors is not listed in manifest.json"


def test_notes_beside_a_model_do_no_harm(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "model" / ".DS_Store").write_text("of a desktop")
    assert damage(folder) is None
    check(folder / "model", listed_hash(folder))
