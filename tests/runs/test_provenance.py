"""What a run was made of, recorded without secrets and without ever failing a run."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from vexp.runs import provenance
from vexp.runs.provenance import git_state, record

CONFIG = {"seed": 3, "warm_start": {"seed": 0, "steps": 5}, "mix": {"datasets": {"a": {"seed": 9}}}}


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(project):
    git(project, "init", "-q")
    (project / "kept.txt").write_text("before\n")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "first")
    yield project
    git_state.cache_clear()


def recorded(folder, out):
    out.mkdir(exist_ok=True)
    git_state.cache_clear()
    record(out, CONFIG, "2026-01-01T00:00:00+00:00")
    return json.loads((out / "provenance.json").read_text())


def test_commit_diff_and_untracked_files(repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    clean = recorded(repository, out)["project"]
    assert clean["commit"] == git(repository, "rev-parse", "HEAD")
    assert clean["dirty"] is False and not (out / "diff.patch").exists()
    (repository / "kept.txt").write_text("after\n")
    (repository / "new.txt").write_text("new\n")
    dirty = recorded(repository, out)["project"]
    assert dirty["dirty"] is True and dirty["untracked"] == ["new.txt"]
    assert "+after" in (out / "diff.patch").read_text()
    git(repository, "checkout", "-q", "kept.txt")
    git(repository, "apply", str(out / "diff.patch"))
    assert (repository / "kept.txt").read_text() == "after\n"


def test_long_lists_and_diffs_are_cut_and_counted(repository, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(provenance, "MAX_DIFF", 50)
    monkeypatch.setattr(provenance, "MAX_UNTRACKED", 2)
    (repository / "kept.txt").write_text("long\n" * 100)
    for number in range(5):
        (repository / f"{number}.txt").touch()
    out = tmp_path_factory.mktemp("out")
    found = recorded(repository, out)["project"]
    assert found["diff_cut"] is True and (out / "diff.patch").stat().st_size == 50
    assert found["untracked_count"] == 5 and len(found["untracked"]) == 2


def test_machine_packages_and_seeds(project, tmp_path):
    found = recorded(project, tmp_path / "out")
    assert f"numpy=={metadata.version('numpy')}" in found["packages"]
    assert found["packages"] == sorted(found["packages"], key=str.lower)
    assert found["seeds"] == {"seed": 3, "warm_start.seed": 0, "mix.datasets.a.seed": 9}
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["machine"]["cpus"] >= 1 and found["machine"]["memory_bytes"] > 0
    assert "no git repository" in found["project"]["git"]


def test_vexp_itself_is_described_when_it_runs_from_a_checkout(project, tmp_path):
    found = recorded(project, tmp_path / "out")
    if provenance._tracked(provenance.Path(provenance.__file__).parents[1]):
        assert len(found["vexp_checkout"]["commit"]) == 40


def test_without_git_the_run_goes_on(project, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))
    assert "git" in recorded(project, tmp_path / "out")["project"]


def test_a_repository_without_a_commit(project, tmp_path_factory):
    git(project, "init", "-q")
    found = recorded(project, tmp_path_factory.mktemp("out"))["project"]
    assert found["commit"] is None


def test_no_secret_is_written(project, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-of-the-environment")
    monkeypatch.setattr(
        sys, "argv", ["vexp", "run", "tracker.wandb.api_key=s3cret", "--token=s3cret", "seed=1"]
    )
    recorded(project, tmp_path / "out")
    assert "s3cret" not in (tmp_path / "out" / "provenance.json").read_text()
