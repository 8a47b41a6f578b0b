"""Hydra's side of planning: `compose` in a loop, and a multirun of a job that does nothing."""

from __future__ import annotations

import json
import sys
import time

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from vexp.paths import shipped
from vexp.registry import KINDS, REGISTRY


def offer_components() -> None:
    """Registered components as options of their groups, as vexp offers them to Hydra."""
    for kind in KINDS:
        for name in REGISTRY.names(kind):
            ConfigStore.instance().store(group=kind, name=name, node={"name": name})


def loop(points: list[list[str]]) -> dict[str, float]:
    """Seconds per point of composing them one after the other, after one that is not counted."""
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        compose("config", points[0])
        wall, cpu = time.perf_counter(), time.process_time()
        for overrides in points:
            compose("config", overrides)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall / len(points), "cpu_s": cpu / len(points)}


@hydra.main(config_path=str(shipped("conf").resolve()), config_name="config", version_base="1.3")
def job(_config: DictConfig) -> None:
    """Does nothing."""


if __name__ == "__main__":
    offer_components()
    if sys.argv[1:] == ["loop"]:
        print(json.dumps(loop(json.load(sys.stdin))))
    else:
        job()
