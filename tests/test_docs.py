"""Snippets of the README and the docs run as they stand, in an empty project folder.

The project has its own `conf/scale/tiny.yaml`, which is found before the shipped one, so that
commands that train do so for seconds instead of minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
]
SECONDS_NOT_MINUTES = """\
# @package _global_
warm_start: {steps: 4, batch_size: 8, learning_rate: 1e-3}
rl: {steps: 2, prompts_per_step: 2, learning_rate: 1e-4}
rollout: {group_size: 4, max_response_length: 8}
checkpoint: {every: 1}
compute: {threads: 1}
evaluator:
  heldout: {size: 8}
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks that are to be run, indented ones included."""
    found = []
    pattern = r"^( *)```(bash|python)\n(.*?)^ *```$"
    for indent, language, text in re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE):
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        found.append((language, "\n".join(lines) + "\n"))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page, tmp_path):
    snippets = blocks(ROOT / page)
    if not snippets:
        assert "```bash" not in (ROOT / page).read_text()
        return
    (tmp_path / "conf/scale").mkdir(parents=True)
    (tmp_path / "conf/scale/tiny.yaml").write_text(SECONDS_NOT_MINUTES)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, text in snippets:
        if language == "python" and text.startswith("# "):  # its first line names a file
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
            continue
        command = (
            [sys.executable, "-c", text]
            if language == "python"
            else ["bash", "-euo", "pipefail", "-c", text]
        )
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout}\n{done.stderr}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_step_in_the_docs_is_the_step_in_the_code():
    code = (ROOT / "vexp/train/step.py").read_text()
    page = (ROOT / "docs/training.md").read_text()
    quoted = re.search(r"```py\n(def train_step.*?)\n```", page, re.DOTALL)
    assert quoted and [part for part in quoted[1].split("\n\n\n") if part not in code] == []
    assert re.findall(r"^def (\w+)", quoted[1], re.MULTILINE) == re.findall(
        r"^def (\w+)", code, re.MULTILINE
    )


def test_the_picture_of_the_layers_is_that_of_the_imports():
    from tests.draw_architecture import PICTURE, draw

    assert PICTURE.read_text("utf-8") == draw(), "python -m tests.draw_architecture"


def test_the_map_names_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"`((?:vexp/)?[a-z_]+/[\w/]+\.(?:py|yaml))[`:]", page)
    assert len(named) > 15
    found = [name for name in named if not (ROOT / "vexp" / name.removeprefix("vexp/")).exists()]
    assert [name for name in found if not (ROOT / name).exists()] == []
