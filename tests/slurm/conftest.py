"""One cluster for all tests of a session, and the same sweep done without any disturbance."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.slurm_project import ROOT, Project, science

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("slurm"))  # two cores: one cluster is enough


@pytest.fixture(scope="session")
def cluster():
    reason = missing()
    if reason:
        pytest.skip(f"no Slurm cluster can be started here: {reason}")
    # Not below pytest's folder: munge wants one that everybody may enter.
    made = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    made.start()
    yield made
    made.stop()
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path, cluster, monkeypatch):
    """A user's folder; its jobs are gone afterwards, and the cluster is whole."""
    monkeypatch.chdir(tmp_path)
    yield Project(tmp_path, cluster)
    if "slurmctld" not in cluster.daemons:
        cluster.start_controller()
    cluster.ask("scancel", "--user", "root")
    for name in cluster.names:
        if name not in cluster.daemons:
            cluster.start_node(name)
    for name in cluster.names:
        for pid in cluster.processes(name):
            if b"vexp" in _command(pid):
                _end(pid)
    cluster.resume()
    Project(tmp_path, cluster).wait(lambda: cluster.ready() and not cluster.ask("squeue", "-h"), 60)


@pytest.fixture(scope="session")
def calm(tmp_path_factory):
    """A function from a number of steps to the results of four runs that nobody disturbed."""
    made: dict[int, dict[str, bytes]] = {}

    def results(steps: int = 20) -> dict[str, bytes]:
        if steps not in made:
            quiet = Project(tmp_path_factory.mktemp("calm"))
            quiet.write(steps=steps)
            sweep = quiet.folder / "s.yaml"
            sweep.write_text(sweep.read_text().partition("launcher:")[0])
            quiet.environment = {"PYTHONPATH": f"{HERE / 'site'}:{ROOT}", **quiet.stub(0)}
            quiet.vexp("launch", "s.yaml", "--wait")
            made[steps] = science(quiet)
            assert len(made[steps]) > 12
        return made[steps]

    return results


@pytest.fixture
def undisturbed(calm, project):
    """A function that compares the project's results with those of the calm sweep."""

    def compare(steps: int = 20) -> None:
        found, expected = science(project), calm(steps)
        assert found.keys() <= expected.keys() and found
        assert [name for name in found if found[name] != expected[name]] == []

    return compare


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
