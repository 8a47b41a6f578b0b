"""What a cluster cannot do is one message before anything is submitted."""

from __future__ import annotations

import shutil

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"partition": "mian"}, ["no partition 'mian'", "did you mean 'main'"]),
        ({"gpus": 4}, ["Requested node configuration is not available", "gpu:1"]),
        ({"mem_gb": 999}, ["Requested node configuration is not available", "4000 MB"]),
        ({"cpus": 64}, ["Requested node configuration is not available", "4 CPUs"]),
        ({"time_min": 90}, ["90 min are more than the partition allows", "at most 60 min"]),
        ({"nodes": 40}, ["a run on 40 nodes is more than the partition has", "at most 3"]),
        ({"constraint": "a100"}, ["Invalid feature specification"]),
        ({"sbatch": {"nodelist": "n9"}}, ["Invalid node name"]),
    ],
)
def test_what_the_partition_does_not_have(project, settings, says):
    project.write(seeds=2, **settings)
    told = project.vexp("launch", "s.yaml", check=False)
    assert "Traceback" not in told
    assert told.count("error: ") == 1
    for words in says:
        assert words in told
    assert project.tasks() == 0
    assert project.cluster.ask("squeue", "-h") == ""


def test_a_busy_or_drained_cluster_refuses_nothing(project):
    for name in project.cluster.names:
        project.cluster.ask("scontrol", "update", f"nodename={name}", "state=DRAIN", "reason=test")
    try:
        project.write(seeds=2)
        assert "started 2 workers" in project.vexp("launch", "s.yaml")
        assert {job["state"] for job in project.jobs()} == {"pending"}
        assert "asked 2 workers to stop" in project.vexp("cancel", "s.yaml")
        project.wait(lambda: not project.cluster.ask("squeue", "-h"))
    finally:
        project.cluster.resume()


def test_no_slurm_on_this_machine(project, tmp_path):
    project.write(seeds=2)
    project.cluster = None
    where = tmp_path / "bin"
    where.mkdir()
    (where / "git").symlink_to(shutil.which("git"))
    told = project.vexp("launch", "s.yaml", check=False, PATH=str(where))
    assert "there is no Slurm on this machine" in told
    assert "launcher=local" in told
    assert "Traceback" not in told
    assert "2 declared" in project.vexp("plan", "s.yaml", PATH=str(where))
    assert "2 declared" in project.vexp("status", "s.yaml", PATH=str(where))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tasks_per_node": 4, "cpus": 2}, "4 processes cannot share 2 CPUs"),
        ({"tasks_per_node": 2, "gpus": 1, "cpus": 2}, "2 processes cannot share 1 GPU(s)"),
        ({"time_min": 2}, "leaves no time to train"),
    ],
)
def test_what_the_launcher_itself_refuses(project, settings, says):
    project.write(seeds=1, **settings)
    told = project.vexp("plan", "s.yaml", check=False)
    assert says in told
    assert "Traceback" not in told
