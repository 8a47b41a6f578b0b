"""A running vLLM: started from a description of the model, given weights, asked for responses.

It knows nothing of the trainer, so that it can run in the training process or in one of its own.
Prompts are the trainer's own tokens and pieces of images: nothing is processed twice.
vLLM starts from a folder that holds the model's configuration and no weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.engine._vllm_images import FAMILIES, IMAGE, Processed, request
from vexp.engine._vllm_world import own_world
from vexp.engine.base import Sampling
from vexp.engine.vllm import unserved
from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.engine.vllm import VLLM
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch

WHERE = "engine (vllm)"
_GB = 1024**3
_ALIVE_EVERY_S = 1.0
# Read by vLLM when it needs them. What this code relies on is set, whatever the user has set.
_RELIED_ON = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where the weights come to
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the one `_vllm_draw` is written for
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # torch has threads, which do not survive a fork
}
_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class ModelSpec:
    """What vLLM has to know of a model besides its configuration; all of it is plain data."""

    architecture: str
    family: str  # `model_type` of the configuration
    head_size: int
    dtype: str  # of weights and arithmetic
    weights: str  # dtype of the policy's own weights
    device: str
    banned: tuple[int, ...]
    eos_id: int
    pad_id: int
    image_token_id: int
    max_length: int
    cache_gb: float
    max_sequences: int
    tensor_parallel: int = 1
    sleep: bool = False

    @classmethod
    def of(cls, engine: VLLM, policy: Policy) -> ModelSpec:
        text = policy.model.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            architecture=type(policy.model).__name__,
            family=policy.model.config.model_type,
            head_size=int(size),
            dtype="bfloat16" if policy.precision == "bf16" else "float32",
            weights=str(policy.model.dtype).removeprefix("torch."),
            device=policy.device.type,
            banned=tuple(policy.banned.nonzero().flatten().tolist()),
            eos_id=policy.eos_id,
            pad_id=policy.pad_id,
            image_token_id=policy.vision.image_token_id,
            max_length=engine.max_length,
            cache_gb=engine.cache_gb,
            max_sequences=engine.max_sequences,
            tensor_parallel=engine.tensor_parallel,
            sleep=engine.sleep,
        )

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> ModelSpec:
        return cls(**{**plain, "banned": tuple(plain["banned"])})

    def check_model(self, config: Any) -> None:
        """
        Raises:
            ConfigError: if the model's heads cannot be dealt out to `tensor_parallel` processes, or
                its context is shorter than `max_length`.
        """
        count, text = self.tensor_parallel, config.get_text_config()
        context = getattr(text, "max_position_embeddings", None)
        if context is not None and self.max_length > context:
            raise _config_error(
                f"engine.max_length ({self.max_length}) is more than the model's {context} places",
                f"set engine.max_length={context} or less; it does not change a run's id",
            )
        vision = config.vision_config
        own = getattr(vision, "num_heads", None) or vision.num_attention_heads
        heads = {"attention": text.num_attention_heads, "vision": own}
        keys = text.num_key_value_heads  # fewer than processes: each is kept by several
        whole = all(number % count == 0 for number in heads.values())
        if not (whole and (keys % count == 0 or count % keys == 0)):
            raise _config_error(
                f"the model's heads cannot be shared by {count}: {heads['attention']} for "
                f"attention, {keys} for keys and values, {heads['vision']} for images",
                "set engine.tensor_parallel to a divisor of them; it does not change a run's id",
            )

    def key(self, policy: Policy) -> str:
        """Two policies with one key can be served by one vLLM, one after the other."""
        parts = [policy.model.config.to_json_string(use_diff=False), dataclasses.asdict(self)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class GenerateRequest:
    """Prompts to which responses are wanted, as tokens and pieces of images on the CPU."""

    rows: Sequence[list[int]]  # tokens of each prompt
    pieces: Sequence[int]  # patches or tiles of each prompt's image; 0 without one
    keys: Sequence[str]  # what each prompt's noise is drawn for
    sampling: Sampling
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None

    @classmethod
    def of(cls, prompts: PromptBatch, keys: Sequence[str], sampling: Sampling) -> GenerateRequest:
        ids, masks = prompts.input_ids.cpu(), prompts.attention_mask.cpu()
        pixels, grids = prompts.pixel_values, prompts.image_grid_thw
        return cls(
            rows=[row[mask].tolist() for row, mask in zip(ids, masks, strict=True)],
            pieces=list(prompts.pieces),
            keys=list(keys),
            sampling=sampling,
            pixel_values=None if pixels is None else pixels.cpu(),
            image_grid_thw=None if grids is None else grids.cpu(),
        )

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces and grid [1, 3] of each image, in the order of the prompts that have one."""
        if self.pixel_values is None or self.image_grid_thw is None:
            return iter(())
        own = torch.split(self.pixel_values, [count for count in self.pieces if count])
        return zip(own, self.image_grid_thw.unsqueeze(1), strict=True)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold."""
        tensors = {"pixel_values": self.pixel_values, "image_grid_thw": self.image_grid_thw}
        plain = {
            "rows": list(self.rows),
            "pieces": list(self.pieces),
            "keys": list(self.keys),
            "sampling": dataclasses.asdict(self.sampling),
        }
        return {name: value for name, value in tensors.items() if value is not None}, plain

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> GenerateRequest:
        sampling = Sampling(**plain["sampling"])
        return cls(plain["rows"], plain["pieces"], plain["keys"], sampling, **tensors)


def write_home(policy: Policy, home: Path) -> None:
    """Write what vLLM reads of a model before its weights."""
    config = type(policy.model.config).from_dict(policy.model.config.to_dict())
    config.architectures = [type(policy.model).__name__]
    config.save_pretrained(home)
    policy.tokenizer.save_pretrained(home)
    policy.image_processor.save_pretrained(home)
    for name, content in policy.files.items():
        (home / name).write_bytes(content)


@dataclass
class Server:
    """vLLM in this process; its weights mean nothing until the first `load`."""

    served: ModelSpec
    llm: Any
    asked: int = field(default=0)  # requests so far
    asleep: bool = field(default=False)  # its memory is given back, and its weights with it

    @classmethod
    def start(cls, served: ModelSpec, home: Path) -> Server:
        """
        Raises:
            ConfigError: if vLLM cannot serve this model on this machine.
        """
        try:
            return cls(served, _started(served, home))
        except BaseException:
            _clean_up()
            raise

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take new weights, and forget what was computed with the former ones."""
        self._reload("reload_weights", {"weights_iterator": iter(weights)})

    def load_file(self, path: Path) -> None:
        """As `load`, from a file that all processes of this vLLM can read."""
        self._reload("take_weights", {"path": str(path)})

    def release_memory(self) -> None:
        """Give back the memory of weights, keys and values until the next `load`."""
        if self.served.sleep and not self.asleep:
            with _quiet():
                self.llm.sleep(level=2)  # 1 would keep a copy of the weights in host memory
            self.asleep = True

    def _reload(self, method: str, arguments: dict[str, Any]) -> None:
        with _quiet():
            if self.asleep:  # one after the other, so that both need not fit beside the update's
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc(method, kwargs=arguments)
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
            # keys and values, and encoded images
            if not self.llm.reset_prefix_cache():
                raise RuntimeError("it still has keys and values of the former weights in use")
            self.llm.reset_mm_cache()
            self.llm.llm_engine.reset_encoder_cache()

    @own_world()
    def answer(
        self, request: GenerateRequest, alive: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Responses as the fields of `Generated`, on the CPU; `alive` is called now and then."""
        from vllm import SamplingParams

        from vexp.engine._vllm_draw import KEY

        sampling = request.sampling
        settings = dataclasses.asdict(sampling)
        first, engine = self.asked, self.llm.llm_engine
        for prompt, item in zip(_requests(self.served, request), request.keys, strict=True):
            for place in range(sampling.first, sampling.first + sampling.group_size):
                extra = {KEY: {"sampling": settings, "item": item, "place": place}}
                parameters = SamplingParams(
                    temperature=0.0,  # the token is drawn before vLLM comes to it
                    max_tokens=sampling.max_response_length,
                    logprobs=0,
                    detokenize=False,
                    ignore_eos=True,  # of the model's files: the policy's own counts
                    stop_token_ids=[] if sampling.ignore_eos else [self.served.eos_id],
                    extra_args=extra,
                )
                engine.add_request(str(self.asked), prompt, parameters)
                self.asked += 1
        found: dict[int, Any] = {}
        told = time.monotonic()
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    found[int(output.request_id)] = output.outputs[0]
            if time.monotonic() - told > _ALIVE_EVERY_S:
                alive()
                told = time.monotonic()
        return _together([found[number] for number in range(first, self.asked)], self.served)

    @property
    def lost(self) -> bool:
        """Whether one of the processes that share the weights has ended."""
        return bool(getattr(self.llm.llm_engine.model_executor, "is_failed", False))

    def stop(self) -> None:
        """Stop vLLM and give its memory back."""
        with contextlib.suppress(Exception), _quiet():  # it may be broken already
            self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        _clean_up()


def first_line(error: BaseException) -> str:
    """The line of an error's message that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's first line only counts its complaints
    if lines and "validation error" in lines[0] and len(lines) > 1:
        return lines[1]
    return lines[0] if lines else type(error).__name__


def _started(served: ModelSpec, home: Path) -> Any:
    os.environ.update(_RELIED_ON)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            from vllm import LLM

            importlib.import_module("vexp.engine._vllm_draw")
    except Exception as error:  # a broken installation may fail in any way
        raise _config_error(
            f"vLLM is installed but cannot be imported: {first_line(error)}",
            "install it as docs/engines.md says, or use engine=hf",
        ) from error
    _check_served(served)
    try:
        with _quiet():
            llm = LLM(**arguments(served, home))
            llm.collective_rpc("adapt", args=(served.family, served.weights))
            return llm
    except Exception as error:
        raise _refused(error) from error


def arguments(served: ModelSpec, home: Path) -> dict[str, Any]:
    """Of vLLM's `LLM`."""
    from vexp.engine import _vllm_worker
    from vexp.engine._vllm_draw import KEY, DrawProcessor

    return {
        "model": str(home),
        "load_format": "dummy",
        "dtype": served.dtype,
        "max_model_len": served.max_length,
        "max_num_seqs": served.max_sequences,
        "kv_cache_memory_bytes": int(served.cache_gb * _GB),
        # The cache's size is given. vLLM would still refuse to start where less than this share of
        # the GPU is free, and the trainer may have most of it.
        "gpu_memory_utilization": 0.01,
        "enforce_eager": served.device == "cpu",  # compiling takes minutes there
        "limit_mm_per_prompt": {IMAGE: 1, "video": 0},
        "mm_processor_cache_gb": 0,
        "skip_mm_profiling": True,
        "mm_device_do_normalize": False,  # the patches are as the model takes them
        "async_scheduling": False,  # a draw has to know how many tokens came before it
        "logits_processors": [
            DrawProcessor
        ],  # in every process of a tensor parallel one: all draw alike
        "logprobs_mode": "processed_logits",
        "additional_config": {KEY: {"banned": list(served.banned), "eos_id": served.eos_id}},
        "disable_log_stats": True,
        "worker_extension_cls": _vllm_worker.NAME,
        "seed": 0,
        "tensor_parallel_size": served.tensor_parallel,
        "distributed_executor_backend": _executor(served),
        "enable_sleep_mode": served.sleep,
    }


def _executor(served: ModelSpec) -> Any:
    if served.tensor_parallel > 1:
        return "mp"
    if served.device != "cuda" or torch.cuda.current_device() == 0:
        return None
    from vexp.engine._vllm_executor import OnThisDevice

    return OnThisDevice


def chosen(gpus: Sequence[str], place: int, count: int) -> Sequence[str]:
    """The GPUs of the engine number `place` on a node, of which each gets `count`.

    Raises:
        ConfigError: if the node has too few.
    """
    found = gpus[place * count : (place + 1) * count]
    if len(found) == count:
        return found
    raise _config_error(
        f"engine number {place + 1} on {socket.gethostname()} needs {count} GPU(s), and "
        f"{len(gpus)} are there for all of them",
        "lower engine.tensor_parallel, have fewer processes, or give engines more nodes of a Slurm "
        "job (engine.nodes)",
    )


def _clean_up() -> None:
    """Give back what vLLM holds of the process: its memory, and its process groups."""
    with contextlib.suppress(Exception), _quiet():
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def _check_served(served: ModelSpec) -> None:
    """Refuse what vLLM would refuse, in words that say what to do.

    Raises:
        ConfigError: if vLLM was built for another device, or lacks the model or its head size.
    """
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    here, there = served.device, current_platform.device_type
    if here != there:
        raise _config_error(
            f"this vLLM is built for {there!r}, the policy is on {here!r}",
            "use compute.device to match, install vLLM's build for this device, or use engine=hf",
        )
    known = ModelRegistry.get_supported_archs()
    if served.family not in FAMILIES or served.architecture not in known:
        raise ConfigError(unserved(served.family))
    if here == "cpu":
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if sizes and served.head_size not in sizes:
            raise _config_error(
                f"vLLM's attention on CPUs has no kernel for heads of size {served.head_size}",
                "use engine=hf, or another backbone",
                accepted="sizes: " + ", ".join(map(str, sizes)),
            )


def _requests(served: ModelSpec, asked: GenerateRequest) -> Iterator[Any]:
    """Each prompt as vLLM takes it when everything is processed already."""
    from vllm.inputs.engine import tokens_input

    images = asked.images()
    for row, pieces in zip(asked.rows, asked.pieces, strict=True):
        if pieces:
            image = Processed(*next(images), served.image_token_id)
            yield request(served.family, row, image)
        else:
            yield tokens_input(row)


def _together(found: Sequence[Any], served: ModelSpec) -> dict[str, Tensor]:
    """vLLM's completions as one batch."""
    width = max(len(one.token_ids) for one in found)
    tokens = torch.full((len(found), width), served.pad_id, dtype=torch.int64)
    logprobs = torch.zeros(len(found), width)
    mask = torch.zeros(len(found), width, dtype=torch.bool)
    for row, one in enumerate(found):
        ids, length = list(one.token_ids), len(one.token_ids)
        tokens[row, :length] = torch.tensor(ids)
        logprobs[row, :length] = torch.tensor(
            [step[token].logprob for token, step in zip(ids, one.logprobs, strict=True)]
        )
        mask[row, :length] = True
    finished = torch.tensor([one.token_ids[-1] == served.eos_id for one in found])
    return {"tokens": tokens, "mask": mask, "logprobs": logprobs, "finished": finished}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Undo what vLLM changes in the whole process: process groups, threads, random numbers."""
    threads, numbers = torch.set_num_threads, torch.get_rng_state()
    try:
        with own_world():
            yield
    finally:
        torch.set_num_threads = threads
        torch.set_rng_state(numbers)


def _refused(error: Exception) -> ConfigError:
    text, whole = first_line(error), str(error).lower()
    if "kv cache" in whole or "cache blocks" in whole:
        needed = text.partition(" Try ")[0].rstrip(".")  # it tries vLLM's settings, not the user's
        return _config_error(
            f"vLLM has too little memory for keys and values: {needed}",
            "lower engine.max_length, or set engine.cache_gb to what it needs and the machine has; "
            "neither changes the run's id",
        )
    return _config_error(
        f"vLLM cannot serve this model here: {text}",
        "VLLM_LOGGING_LEVEL=INFO shows more; engine=hf works with every backbone",
    )


def _config_error(what: str, remedy: str, accepted: str = "") -> ConfigError:
    return ConfigError(Problem(what, where=WHERE, accepted=accepted, remedy=remedy))
