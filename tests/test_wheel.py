"""A wheel, installed in an empty environment in another folder, lists, composes, plans and runs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["warm_start.steps=2", "rl.steps=1", "rl.prompts_per_step=2", "evaluator.heldout.size=4"]


def sh(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_wheel_stands_alone(tmp_path):
    sh(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--wheel-dir",
        tmp_path,
        ROOT,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("vexp-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "vexp/_shipped/conf/config.yaml" in names
    assert "vexp/_shipped/sweeps/quickstart.yaml" in names
    assert "vexp/_shipped/reference/vgpo/table12.yaml" in names
    assert {f"vexp/tables/report/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "results/", "benchmarks/"))]

    sh(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    constraints = ROOT / "constraints.txt"
    sh(tmp_path / "env/bin/pip", "install", "-c", constraints, wheel, cwd=tmp_path)
    vexp, home = tmp_path / "env/bin/vexp", tmp_path / "home"
    home.mkdir()
    assert "dapo" in sh(vexp, "list", "algorithm", cwd=home)
    assert "dynamic_sampling" in sh(vexp, "show", "experiment=dapo", cwd=home)
    assert "8 new" in sh(vexp, "plan", "quickstart", cwd=home)
    assert "95.5" in sh(vexp, "table", "vgpo/table12", "--source", "published", cwd=home)
    assert "heldout: accuracy" in sh(vexp, "run", *SMALL, cwd=home)
