"""What `engine=vllm` does: a vLLM per process of the run, given new weights, asked for responses.

It runs in this process (`_Here`), in one of its own (`_Apart`), to which weights go through a file
in shared memory, or in one on another node (`_Elsewhere`), to which that file is sent. Whoever
comes with another model gets a new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.engine._process import (
    LOG,
    PYTHON,
    EngineDied,
    Message,
    Process,
    RemoteProcess,
    memory_folder,
)
from vexp.engine._vllm_server import (
    WHERE,
    GenerateRequest,
    ModelSpec,
    Server,
    chosen,
    first_line,
    write_home,
)
from vexp.engine.base import Generated, Sampling
from vexp.errors import ConfigError, DataError, EngineFailed, Problem, VexpError
from vexp.policy import lora, parallel, sharding
from vexp.policy.parallel import packed

if TYPE_CHECKING:
    from vexp.engine.vllm import VLLM
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch

_WEIGHTS = "weights.safetensors"
_CHUNK = 1 << 26  # bytes of a file that are sent at once


def generate(
    engine: VLLM,
    policy: Policy,
    prompts: PromptBatch,
    item_ids: Sequence[str],
    sampling: Sampling,
) -> Generated:
    """Sample a group of responses per prompt; see `VLLM.generate`.

    If the engine's own process dies, another one is started and asked for the same; responses
    depend on weights and noise alone, so they are the same.
    """
    _check_lengths(engine, prompts, sampling)
    request = GenerateRequest.of(prompts, item_ids, sampling)
    try:
        found = _answered(engine, policy, request)
    except EngineDied as gone:
        close()
        logging.getLogger("vexp").warning("%s; a new one is asked for the same", gone.problem.what)
        found = _guarded(engine, policy, request)
    return Generated(**{name: tensor.to(policy.device) for name, tensor in found.items()})


def prefetch(
    engine: VLLM,
    policy: Policy,
    prompts: PromptBatch,
    item_ids: Sequence[str],
    sampling: Sampling,
) -> None:
    """Have an engine in a process of its own begin with what `generate` will be asked for."""
    _check_lengths(engine, prompts, sampling)
    try:
        with _breakdowns():
            live = _Connection.of(engine, policy)
            live.sync(policy)
            live.prefetch(GenerateRequest.of(prompts, item_ids, sampling))
    except EngineDied:
        close()  # `generate` starts another one


def release_memory() -> None:
    """Have this process's vLLM, if it has one, give memory back until it is needed again."""
    if _live is None:
        return
    try:
        with _breakdowns():
            _live.release_memory()
    except EngineDied:
        close()  # so it has


def close() -> None:
    """Stop this process's vLLM, if it has one, and give its memory back."""
    global _live
    live, _live = _live, None
    if live is not None:
        live.home.cleanup()  # first: ending a job step may take longer than this process has
        live.stop()


def _guarded(engine: VLLM, policy: Policy, request: GenerateRequest) -> dict[str, Tensor]:
    """As `_answered`; that a process has ended is now a breakdown like any other."""
    try:
        return _answered(engine, policy, request)
    except EngineDied as gone:
        close()
        raise _failed(f"twice in one batch: {gone.problem.what}") from gone


def _answered(engine: VLLM, policy: Policy, request: GenerateRequest) -> dict[str, Tensor]:
    with _breakdowns():
        live = _Connection.of(engine, policy)
        live.sync(policy)
        return live.answer(request)


@contextlib.contextmanager
def _breakdowns() -> Iterator[None]:
    """Say of whatever breaks vLLM that it broke down. That its process has ended is for others."""
    try:
        yield
    except EngineDied:
        raise
    except BaseException as error:
        close()  # unfinished requests must not meet the next batch
        if isinstance(error, EngineFailed):
            raise _failed(error.problem.what) from error
        if _is_vllms(error):
            raise _failed(f"{type(error).__name__}: {first_line(error)}") from error
        raise


def _is_vllms(error: BaseException) -> bool:
    """Whether vLLM broke down, which it may do in any way; our messages are no breakdown of it."""
    ours = isinstance(error, VexpError | torch.OutOfMemoryError)
    return isinstance(error, Exception) and not ours


class _Connection(ABC):
    """The running vLLM of this process."""

    def __init__(self, key: str, home: tempfile.TemporaryDirectory[str]) -> None:
        self.key = key  # what it was started for
        self.home = home
        self.weights: Tensor | None = None  # sums of those it has

    @staticmethod
    def of(engine: VLLM, policy: Policy) -> _Connection:
        """The vLLM that serves such a policy; the first call starts it.

        Raises:
            ConfigError: if vLLM cannot serve this model on this machine.
            EngineDied: if its process ends while it starts.
        """
        global _live
        served = ModelSpec.of(engine, policy)
        key = f"{served.key(policy)} {engine.separate} {engine.nodes} {engine.patience_s}"
        if _live is not None and _live.key == key:
            return _live
        close()
        served.check_model(policy.model.config)
        where = memory_folder(_bytes(policy)) if engine.separate else None
        home = tempfile.TemporaryDirectory("", "vexp-vllm-", where, ignore_cleanup_errors=True)
        try:
            write_home(policy, Path(home.name))
            apart = _RemoteNode if engine.nodes else _Subprocess
            kind = apart if engine.separate else _InProcess
            _live = kind(key, home, served, engine, policy)
        except BaseException:
            home.cleanup()
            raise
        return _live

    def sync(self, policy: Policy) -> None:
        """Give vLLM the policy's weights, unless it has them."""
        sums = parallel.checksums(policy.model)
        if self.weights is not None and torch.equal(self.weights, sums):
            return
        self.weights = None
        self.load(lora.merged(policy.model) or sharding.state_dict(policy.model))
        self.weights = sums

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Serve these weights from now on."""

    @abstractmethod
    def answer(self, request: GenerateRequest) -> dict[str, Tensor]:
        """Responses as the fields of `Generated`, on the CPU."""

    @abstractmethod
    def prefetch(self, request: GenerateRequest) -> None:
        """Begin with what `answer` will be asked for, where that is possible."""

    def release_memory(self) -> None:
        """Give memory back; it has no weights then."""
        self.weights = None
        self._rest()

    @abstractmethod
    def _rest(self) -> None: ...

    @abstractmethod
    def stop(self) -> None:
        """End it."""


class _InProcess(_Connection):
    """vLLM in this process."""

    def __init__(
        self,
        key: str,
        home: tempfile.TemporaryDirectory[str],
        served: ModelSpec,
        engine: VLLM,
        policy: Policy,
    ) -> None:
        super().__init__(key, home)
        self.server = Server.start(served, Path(home.name))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.server.load(weights.items())

    def prefetch(self, request: GenerateRequest) -> None:
        pass  # this process has other things to do

    def answer(self, request: GenerateRequest) -> dict[str, Tensor]:
        return self.server.answer(request)

    def _rest(self) -> None:
        self.server.release_memory()

    def stop(self) -> None:
        self.server.stop()


class _Subprocess(_Connection):
    """vLLM in a process of its own, which ends when this one does.

    It does what it is told in that order, so that one may begin with a batch and ask for it later.
    """

    def __init__(
        self,
        key: str,
        home: tempfile.TemporaryDirectory[str],
        served: ModelSpec,
        engine: VLLM,
        policy: Policy,
    ) -> None:
        super().__init__(key, home)
        self.dtype = getattr(torch, served.dtype)
        self.begun: list[bytes] = []  # hashes of batches whose answers are still to come
        self.process = self._process(engine, policy)
        try:
            self._start(served, engine)
        except BaseException:
            self.process.end()
            raise

    def _process(self, engine: VLLM, policy: Policy) -> Process:
        environment = _threads() | _device(policy.device, engine.tensor_parallel)
        command = [*PYTHON, "-m", "vexp", "_engine", self.home.name]
        return Process(command, Path(self.home.name), engine.patience_s, environment)

    def _start(self, served: ModelSpec, engine: VLLM, share: Sequence[int] | None = None) -> None:
        self.process.send(
            {
                "do": "start",
                "served": dataclasses.asdict(served),
                "threads": torch.get_num_threads(),
                "share": share,
            }
        )
        self._receive()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self._forget()
        path = Path(self.home.name) / _WEIGHTS
        _write(weights, path, self.dtype)
        self.process.send(self._handed_over(path))
        self._receive()
        path.unlink(missing_ok=True)

    def _handed_over(self, path: Path) -> dict[str, str]:
        """The message that has these weights loaded, once the process can read them."""
        return {"do": "load", "path": str(path)}

    def prefetch(self, request: GenerateRequest) -> None:
        payload = _message(request)
        self.process.send_bytes(payload)
        self.begun.append(_hash(payload))

    def answer(self, request: GenerateRequest) -> dict[str, Tensor]:
        payload = _message(request)
        if self.begun and self.begun[0] == _hash(payload):
            self.begun.pop(0)
        else:
            self._forget()
            self.process.send_bytes(payload)
        tensors, _ = self._receive()
        return dict(tensors)

    def _rest(self) -> None:
        self._forget()
        self.process.send({"do": "release_memory"})
        self._receive()

    def stop(self) -> None:
        self.process.end()

    def _forget(self) -> None:
        """Let go of what was begun with and is not wanted."""
        while self.begun:
            self.begun.pop(0)
            self._receive()

    def _receive(self) -> Message:
        tensors, plain = self.process.receive()
        if "refused" in plain:
            raise ConfigError(Problem(**plain["refused"]))
        if "failed" in plain:
            raise EngineFailed(plain["failed"], where=WHERE)
        return tensors, plain


class _RemoteNode(_Subprocess):
    """vLLM on another node of this run's Slurm job; files are sent, for no memory is shared.

    The last `engine.nodes` nodes of the job have the engines of all processes, dealt out in turn.
    """

    def _process(self, engine: VLLM, policy: Policy) -> Process:
        nodes, rank = engine.nodes, parallel.rank()
        first = int(os.environ["SLURM_JOB_NUM_NODES"]) - nodes
        on_each = -(-parallel.world_size() // nodes)
        cpus = int(os.environ.get("SLURM_CPUS_PER_TASK") or 1) // on_each
        name = f"{os.environ['SLURM_JOB_ID']}-{rank}"
        return RemoteProcess(
            [*PYTHON, "-m", "vexp", "_engine", "--name", name],
            Path(self.home.name),
            engine.patience_s,
            _threads(),
            node=first + rank % nodes,
            cpus=max(1, cpus),
        )

    def _start(self, served: ModelSpec, engine: VLLM, share: Sequence[int] | None = None) -> None:
        for path in sorted(Path(self.home.name).iterdir()):
            if path.name != LOG:
                self._send({"do": "file", "name": path.name}, path)
        super()._start(served, engine, [parallel.rank() // engine.nodes, engine.tensor_parallel])

    def _handed_over(self, path: Path) -> dict[str, str]:
        self._send({"do": "weights"}, path)
        return {"do": "load"}

    def _send(self, plain: Mapping[str, str], path: Path) -> None:
        """Send a file in pieces; if this process is killed meanwhile, nothing of it is left."""
        with path.open("rb") as file:
            path.unlink()
            while chunk := bytearray(file.read(_CHUNK)):
                self.process.send(plain, {"content": torch.frombuffer(chunk, dtype=torch.uint8)})
                self._receive()


_live: _Connection | None = None


def _message(request: GenerateRequest) -> bytes:
    tensors, plain = request.parts()
    return packed(tensors, {"do": "answer", "asked": plain})


def _hash(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


def _write(weights: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Weights for the other process; of tensors that share memory, each gets its own."""
    from safetensors.torch import save_file

    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        value = tensor.detach()
        value = value.to("cpu", dtype if value.is_floating_point() else None).contiguous()
        found[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    save_file(found, path)


def _bytes(policy: Policy) -> int:
    """Size of the weights."""
    return sum(p.numel() * p.element_size() for p in policy.model.parameters())


def _threads() -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def _device(device: torch.device, count: int) -> dict[str, str]:
    """What has the engine's process see `count` GPUs, this process's own first where it is one.

    Raises:
        ConfigError: if this machine has too few.
    """
    if device.type != "cuda":
        return {}
    index = torch.cuda.current_device() if device.index is None else device.index
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = seen.split(",") if seen else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen(known, index, count))}


def _check_lengths(engine: VLLM, prompts: PromptBatch, sampling: Sampling) -> None:
    lengths = prompts.attention_mask.sum(1).tolist()
    for item, length in zip(prompts.item_ids, lengths, strict=True):
        if length + sampling.max_response_length > engine.max_length:
            raise DataError(
                f"the prompt of item {item!r} has {length} tokens; with a response of up to "
                f"{sampling.max_response_length} that is more than engine.max_length "
                f"({engine.max_length})",
                where=f"item {item}",
                remedy="raise engine.max_length (it does not change the run's id), or leave the "
                "item out",
            )


def _failed(what: str) -> EngineFailed:
    return EngineFailed(
        f"vLLM broke down: {what}",
        where=WHERE,
        remedy="nothing is lost: the same command goes on from the last checkpoint; with "
        "`--switch engine=hf` it goes on with the other engine, and the run is called mixed; "
        "VLLM_LOGGING_LEVEL=INFO shows more",
    )
