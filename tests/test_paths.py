"""Paths as users write them, in every place that takes one."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vexp.cli.main import cli
from vexp.cli.options import UserPathType
from vexp.dataset._rows import Stamp
from vexp.errors import ConfigError, DataError
from vexp.paths import expanded, is_file
from vexp.spec.resolve import resolve
from vexp.sweeps.adhoc import adhoc_sweep, is_adhoc
from vexp.sweeps.locate import find_sweep

NOBODY = "~nobody_of_this_name"


def options(command, name=""):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for key in command.list_commands(context):
            yield from options(command.get_command(context, key), f"{name} {key}")
    elif not command.hidden:
        yield from ((f"{name} {p.name}", p.type) for p in command.params)


def test_every_path_of_the_command_line_expands_the_home_folder():
    paths = [(name, kind) for name, kind in options(cli) if isinstance(kind, click.Path)]
    assert len(paths) > 15
    assert [name for name, kind in paths if not isinstance(kind, UserPathType)] == []


def test_home_folders(monkeypatch, tmp_path, registry):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert UserPathType().convert("~/x", None, None) == tmp_path / "x"
    assert expanded("~/x") == tmp_path / "x"
    assert expanded(f"{NOBODY}/x") == Path(f"{NOBODY}/x")
    (tmp_path / "p.py").write_text("")
    assert resolve(["plugins=['~/p.py']"]).plugins == (str(tmp_path / "p.py"),)
    (tmp_path / "s.yaml").write_text("")
    assert find_sweep("~/s.yaml") == tmp_path / "s.yaml"
    assert adhoc_sweep(["results_dir=~/r"])[0].parent == tmp_path / "r/sweeps"


def test_a_home_folder_of_nobody_is_answered(registry):
    with pytest.raises(ConfigError, match=NOBODY):
        find_sweep(f"{NOBODY}/x.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        resolve([f"plugins=['{NOBODY}/p.py']"])
    with pytest.raises(DataError, match="there is no file"):
        Stamp.of(Path(f"{NOBODY}/x.jsonl"))


def test_what_no_path_can_be_is_no_file():
    assert not any(is_file(Path(text)) for text in ("x" * 5000, "a\0b", f"{NOBODY}/x"))
    assert is_adhoc("~evaluator.heldout")
    assert not is_adhoc("~/sweep.yaml")
