"""What a hub calls its files, commits and repositories never leads out of a folder."""

from __future__ import annotations

import json

import pytest

from vexp.errors import HubError, RunError
from vexp.fetch import manifest
from vexp.hub import Repository, _answers, _check_names, is_name

COMMIT = "ab" * 20
HOSTILE = ["../x.json", "a/../../x.json", "/etc/x.json", "a//x.json", "./x.json", "a\\..\\x.json",
           "a\nb.json", "a\x00b.json", "a\u202eb.json", ""]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_file_that_would_lie_elsewhere_is_refused(path, tmp_path):
    with pytest.raises(HubError, match="can be no file of a model"):
        _check_names(Repository("model", "me/mine"), COMMIT, ["config.json", path])
    row = {"path": path, "source": "s", "repository": "r", "revision": "v", "bytes": 1,
           "sha256": "x"}  # fmt: skip
    content = {"format": 1, "repositories": [], "files": [row]}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="the manifest is damaged"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("commit", ["..", "main", "../" * 13 + "a", ""])
def test_a_commit_that_is_none_is_refused(commit):
    with pytest.raises(HubError, match="can be no file"):
        _check_names(Repository("model", "me/mine"), commit, [])


def test_plain_names_are_taken():
    _check_names(Repository("model", "me/mine"), COMMIT, ["config.json", "a/b c-1.safetensors"])


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", True), ("me/a_b", True), ("a/..", False), ("../a", False),
        ("a/b/c", False), ("a/b..c", False), ("a--b/c", False), ("a/.b", False), ("a/b-", False),
        ("a", False), ("a\n/b", False), ("a/b\n", False),
    ],
)  # fmt: skip
def test_names_of_repositories(path, named):
    assert is_name(path) is named


@pytest.mark.parametrize(
    "error", [ValueError("x\ny"), KeyError("sha"), TypeError("none"), OSError()]
)
def test_whatever_the_hub_answers_is_one_message(error):
    with (
        pytest.raises(HubError, match="the hub did not give the dataset"),
        _answers(Repository("dataset", "me/../x")),
    ):
        raise error


@pytest.mark.parametrize("bad", [5, "x", [5], [{}], [{"path": "x"}]])
@pytest.mark.parametrize("field", ["repositories", "files"])
def test_a_manifest_of_another_shape_is_damaged(field, bad, tmp_path):
    content = {"format": 1, "repositories": [], "files": []} | {field: bad}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="the manifest is damaged"):
        manifest.read(tmp_path)
