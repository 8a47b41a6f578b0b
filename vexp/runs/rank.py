"""A process of a run besides the first: it does its share, and writes nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.errors import Interrupted, ProcessLost, VexpError
from vexp.runs import failure
from vexp.runs.meeting import joined
from vexp.runs.processes import BEREFT, FAILED, HERE, check_gpus
from vexp.runs.stop import StopRequest
from vexp.runs.workspace import now
from vexp.train.workspace import BuildStage, Value

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from vexp.spec.run import RunSpec


# By these accelerate would take a process for one of its own groups; Slurm's MPI plugins set some.
_OTHERS_WORDS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE",
)  # fmt: skip


@dataclass(frozen=True)
class WorkerRank:
    """Which of the run's processes this is, and where they meet."""

    address: str  # of the meeting; see vexp.runs.meeting
    rank: int
    local_rank: int  # among those on this node: which GPU it has
    world: int

    @classmethod
    def in_step(cls, address: str, first: int, world: int) -> WorkerRank:
        """The place of a task of a Slurm step whose first task has rank `first`."""
        return cls(
            address,
            first + int(os.environ["SLURM_PROCID"]),
            int(os.environ["SLURM_LOCALID"]),
            world,
        )


@dataclass(frozen=True)
class Following:
    """The `Workspace` of a process that owns nothing: it can only ask to stop."""

    stop: StopRequest
    run_id: str = ""
    tracking_dir: Path = Path()
    checkpoint_dirs: Sequence[Path] = ()

    def build_once(self, stage: str, key: str, build: BuildStage) -> Path:
        raise AssertionError("only the first process builds a shared stage")

    def resumed(self, step: int) -> None:
        pass

    def log_metrics(self, step: int, row: Mapping[str, Value]) -> None:
        pass

    def log_timing(self, step: int, row: Mapping[str, Value]) -> None:
        pass

    def sync(self) -> None:
        pass

    def progress(self, stage: str, step: int, total: int, row: Mapping[str, Value]) -> None:
        pass

    def stop_requested(self) -> bool:
        return bool(self.stop)

    def note(self, text: str) -> None:
        pass


def follow(run: RunSpec, place: WorkerRank) -> int:
    """Train as one of several processes, until the first one is done or gone; the exit code."""
    import torch

    from vexp.policy import parallel
    from vexp.train.device import device_name
    from vexp.train.stages import train

    for name in _OTHERS_WORDS:
        os.environ.pop(name, None)
    with StopRequest() as stop:
        store = joined(place.address)
        try:
            device = device_name(run.compute)
            check_gpus(run.compute, place.local_rank + 1)
            if device == "cuda":
                torch.cuda.set_device(place.local_rank)
            store.add(HERE, 1)
            with parallel.member(store, place.rank, place.world, device):
                train(run, Following(stop))
        except Interrupted:
            return 0
        except ProcessLost:  # the first process knows why
            return BEREFT
        except BaseException as error:  # noqa: BLE001  (the first process raises it again)
            _report(store, error, place.rank)
            return 1
        finally:
            run.engine.close()
    return 0


def end_with_input() -> None:
    """From now on, end this process at once when its standard input closes."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="vexp-input", daemon=True).start()


def _report(store: Store, error: BaseException, rank: int) -> None:
    """Tell the first process what went wrong; only the first report counts."""
    described = failure.describe(error, now())
    is_message = isinstance(error, VexpError)
    said = {
        "rank": rank,
        "kind": described.kind,
        "message": described.message
        if is_message
        else f"the run failed: {described.signature}: {described.message}",
        "exit_code": error.exit_code if isinstance(error, VexpError) else 1,
        "traceback": f"on {socket.gethostname()}\n{failure.traceback_of(error)}",
    }
    store.compare_set(FAILED, "", json.dumps(said))
