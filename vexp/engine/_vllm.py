"""vLLM in the training process: started once, given new weights in memory, asked for responses.

Prompts arrive as the trainer's own tokens and image patches, so that nothing is processed twice or
differently. vLLM starts from a folder that holds the model's configuration and no weights. There is
one vLLM per process; whoever comes with another model gets a new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.engine.base import Generated, Sampling
from vexp.engine.vllm import FAMILIES, unserved
from vexp.errors import ConfigError, DataError, EngineFailed, Problem, VexpError
from vexp.train import lora, parallel

if TYPE_CHECKING:
    from vexp.engine.vllm import VLLM
    from vexp.train.policy import Policy
    from vexp.train.prompts import PromptBatch

_GB = 1024**3
_WHERE = "engine (vllm)"
_IMAGE = "image"
# Read by vLLM when it is first imported; what the user has set stays.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where the weights are
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the one `_vllm_draw` is written for
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def generate(
    engine: VLLM,
    policy: Policy,
    prompts: PromptBatch,
    item_ids: Sequence[str],
    sampling: Sampling,
) -> Generated:
    """Sample a group of responses per prompt; see `VLLM.generate`."""
    rows = [
        row[mask].tolist()
        for row, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True)
    ]
    _check_lengths(engine, prompts, rows, sampling)
    live = _Live.of(engine, policy)
    try:
        live.sync(policy)
        found = live.answer(_requests(policy, prompts, rows), item_ids, sampling)
    except BaseException as error:
        close()  # unfinished requests must not meet the next batch
        if _is_vllms(error):
            raise _failed(error) from error
        raise
    return _together(found, policy)


def _is_vllms(error: BaseException) -> bool:
    """Whether vLLM broke down, which it may do in any way; our messages are no breakdown of it."""
    ours = isinstance(error, VexpError | torch.OutOfMemoryError)
    return isinstance(error, Exception) and not ours


def close() -> None:
    """Stop this process's vLLM, if it has one, and give its memory back."""
    global _live
    live, _live = _live, None
    if live is not None:
        live.stop()


@dataclass
class _Live:
    """The running vLLM of this process."""

    key: str  # what it was started for
    llm: Any
    home: tempfile.TemporaryDirectory[str]
    weights: Tensor | None = None  # sums of those it has
    asked: int = field(default=0)  # requests so far

    @classmethod
    def of(cls, engine: VLLM, policy: Policy) -> _Live:
        """The vLLM that serves such a policy; the first call starts it.

        Raises:
            ConfigError: if vLLM cannot serve this model on this machine.
        """
        global _live
        key = _key(engine, policy)
        if _live is None or _live.key != key:
            close()
            home = tempfile.TemporaryDirectory(prefix="vexp-vllm-")
            try:
                _live = cls(key, _started(engine, policy, Path(home.name)), home)
            except BaseException:
                _clean_up()
                home.cleanup()
                raise
        return _live

    def sync(self, policy: Policy) -> None:
        """Give vLLM the policy's weights, unless it has them."""
        sums = parallel.sums(policy.model)
        if self.weights is not None and torch.equal(self.weights, sums):
            return
        self.weights = None
        weights = lora.merged(policy.model) or policy.model.state_dict()
        named = iter(list(weights.items()))
        with _quiet():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        # What was computed with the former weights: keys and values, and encoded images.
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.weights = sums

    def answer(
        self, requests: Sequence[Any], item_ids: Sequence[str], sampling: Sampling
    ) -> list[Any]:
        """vLLM's completions, `group_size` of each request in turn."""
        from vllm import SamplingParams

        from vexp.engine._vllm_draw import KEY

        settings = dataclasses.asdict(sampling)
        first, engine = self.asked, self.llm.llm_engine
        for request, item in zip(requests, item_ids, strict=True):
            for place in range(sampling.first, sampling.first + sampling.group_size):
                extra = {KEY: {"sampling": settings, "item": item, "place": place}}
                parameters = SamplingParams(
                    temperature=0.0,  # the token is drawn before vLLM comes to it
                    max_tokens=sampling.max_response_length,
                    logprobs=0,
                    detokenize=False,
                    ignore_eos=True,  # of the model's files: the policy's own counts
                    stop_token_ids=[] if sampling.ignore_eos else [self.llm_eos],
                    extra_args=extra,
                )
                engine.add_request(str(self.asked), request, parameters)
                self.asked += 1
        found: dict[int, Any] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    found[int(output.request_id)] = output.outputs[0]
        return [found[number] for number in range(first, self.asked)]

    @property
    def llm_eos(self) -> int:
        from vexp.engine._vllm_draw import KEY

        settings = self.llm.llm_engine.vllm_config.additional_config[KEY]
        return int(settings["eos_id"])

    def stop(self) -> None:
        with contextlib.suppress(Exception), _quiet():  # it may be broken already
            self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        _clean_up()
        self.home.cleanup()


def _clean_up() -> None:
    """Give back what vLLM holds of the process: its memory, and torch's process group."""
    with contextlib.suppress(Exception), _quiet():
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


_live: _Live | None = None


def _key(engine: VLLM, policy: Policy) -> str:
    """Two policies with one key can be served by one vLLM, one after the other."""
    parts = [
        policy.model.config.to_json_string(use_diff=False),
        dataclasses.asdict(engine),
        policy.precision,
        str(policy.device),
        policy.banned.nonzero().flatten().tolist(),
        policy.eos_id,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _started(engine: VLLM, policy: Policy, home: Path) -> Any:
    """A vLLM for models like the policy's, with weights that mean nothing yet.

    Raises:
        ConfigError: if it cannot serve them on this machine.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            from vllm import LLM

            importlib.import_module("vexp.engine._vllm_draw")
    except Exception as error:  # a broken installation may fail in any way
        raise ConfigError(
            Problem(
                f"vLLM is installed but cannot be imported: {_first_line(error)}",
                where=_WHERE,
                remedy="install it as docs/engines.md says, or use engine=hf",
            )
        ) from error
    _check_served(policy)
    _write(policy, home)
    from vexp.engine._vllm_draw import KEY, Draw

    try:
        with _quiet():
            return LLM(
                model=str(home),
                load_format="dummy",
                dtype="bfloat16" if policy.precision == "bf16" else "float32",
                max_model_len=engine.max_length,
                max_num_seqs=engine.max_sequences,
                kv_cache_memory_bytes=int(engine.cache_gb * _GB),
                enforce_eager=policy.device.type == "cpu",  # compiling takes minutes there
                limit_mm_per_prompt={_IMAGE: 1, "video": 0},
                mm_processor_cache_gb=0,
                skip_mm_profiling=True,
                mm_device_do_normalize=False,  # the patches are as the model takes them
                async_scheduling=False,  # a draw has to know how many tokens came before it
                logits_processors=[Draw],
                logprobs_mode="processed_logits",
                additional_config={
                    KEY: {
                        "banned": policy.banned.nonzero().flatten().tolist(),
                        "eos_id": policy.eos_id,
                    }
                },
                disable_log_stats=True,
                seed=0,
            )
    except Exception as error:
        raise _refused(error) from error


def _write(policy: Policy, home: Path) -> None:
    """What vLLM reads of a model before its weights."""
    config = type(policy.model.config).from_dict(policy.model.config.to_dict())
    config.architectures = [type(policy.model).__name__]
    config.save_pretrained(home)
    policy.tokenizer.save_pretrained(home)
    policy.image_processor.save_pretrained(home)
    for name, content in policy.files.items():
        (home / name).write_bytes(content)


def _check_served(policy: Policy) -> None:
    """Refuse what vLLM would refuse, in words that say what to do.

    Raises:
        ConfigError: if vLLM was built for another device, or lacks the model or its head size.
    """
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    here, there = policy.device.type, current_platform.device_type
    if here != there:
        raise _config_error(
            f"this vLLM is built for {there!r}, the policy is on {here!r}",
            "use compute.device to match, install vLLM's build for this device, or use engine=hf",
        )
    family, architecture = policy.model.config.model_type, type(policy.model).__name__
    if family not in FAMILIES or architecture not in ModelRegistry.get_supported_archs():
        raise ConfigError(unserved(family))
    if here == "cpu":
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        text = policy.model.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if sizes and size not in sizes:
            raise _config_error(
                f"vLLM's attention on CPUs has no kernel for heads of size {size}",
                "use engine=hf, or another backbone",
                accepted="sizes: " + ", ".join(map(str, sizes)),
            )


def _check_lengths(
    engine: VLLM, prompts: PromptBatch, rows: Sequence[Sequence[int]], sampling: Sampling
) -> None:
    for item, row in zip(prompts.item_ids, rows, strict=True):
        if len(row) + sampling.max_response_length > engine.max_length:
            raise DataError(
                f"the prompt of item {item!r} has {len(row)} tokens; with a response of up to "
                f"{sampling.max_response_length} that is more than engine.max_length "
                f"({engine.max_length})",
                where=f"item {item}",
                remedy="raise engine.max_length (it does not change the run's id), or leave the "
                "item out",
            )


def _requests(policy: Policy, prompts: PromptBatch, rows: Sequence[list[int]]) -> list[Any]:
    """Each prompt as vLLM takes it when everything is processed already."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import PlaceholderRange

    placeholder = policy.vision.image_token_id
    found = []
    for index, row in enumerate(rows):
        alone = prompts.select([index])
        if alone.pixel_values is None:
            found.append(tokens_input(row))
            continue
        where = PlaceholderRange(row.index(placeholder), row.count(placeholder))
        kwargs, digest = _image(alone)
        found.append(mm_input(row, kwargs, {_IMAGE: [digest]}, {_IMAGE: [where]}))
    return found


def _image(prompt: PromptBatch) -> tuple[Any, str]:
    """The patches of a prompt's image as vLLM's arguments, and a hash of them."""
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    assert prompt.pixel_values is not None and prompt.image_grid_thw is not None
    patches, grid = prompt.pixel_values.cpu(), prompt.image_grid_thw.cpu()
    kwargs = MultiModalKwargsItems.from_hf_inputs(
        {"pixel_values": patches, "image_grid_thw": grid},
        {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes(_IMAGE, grid.prod(-1)),
            "image_grid_thw": MultiModalFieldConfig.batched(_IMAGE, keep_on_cpu=True),
        },
    )
    digest = hashlib.blake2b(patches.numpy().tobytes(), digest_size=16)
    digest.update(grid.numpy().tobytes())
    return kwargs, digest.hexdigest()


def _together(found: Sequence[Any], policy: Policy) -> Generated:
    """vLLM's completions as one batch."""
    width = max(len(one.token_ids) for one in found)
    tokens = torch.full((len(found), width), policy.pad_id, dtype=torch.int64)
    logprobs = torch.zeros(len(found), width)
    mask = torch.zeros(len(found), width, dtype=torch.bool)
    for row, one in enumerate(found):
        ids, length = list(one.token_ids), len(one.token_ids)
        tokens[row, :length] = torch.tensor(ids)
        logprobs[row, :length] = torch.tensor(
            [step[token].logprob for token, step in zip(ids, one.logprobs, strict=True)]
        )
        mask[row, :length] = True
    ends = torch.tensor([one.token_ids[-1] == policy.eos_id for one in found])
    device = policy.device
    return Generated(tokens.to(device), mask.to(device), logprobs.to(device), ends.to(device))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Undo what vLLM changes in the whole process: threads, and random numbers."""
    threads, numbers = torch.set_num_threads, torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads = threads
        torch.set_rng_state(numbers)


def _refused(error: Exception) -> ConfigError:
    text = _first_line(error)
    if "KV cache" in str(error) or "kv cache" in str(error):
        return _config_error(
            f"vLLM has too little memory for keys and values: {text}",
            "lower engine.max_length, or set engine.cache_gb to what it needs and the machine has; "
            "neither changes the run's id",
        )
    return _config_error(
        f"vLLM cannot serve this model here: {text}",
        "VLLM_LOGGING_LEVEL=INFO shows more; engine=hf works with every backbone",
    )


def _config_error(what: str, remedy: str, accepted: str = "") -> ConfigError:
    return ConfigError(Problem(what, where=_WHERE, accepted=accepted, remedy=remedy))


def _failed(error: BaseException) -> EngineFailed:
    return EngineFailed(
        f"vLLM broke down: {type(error).__name__}: {_first_line(error)}",
        where=_WHERE,
        remedy="nothing is lost: the same command goes on from the last checkpoint; with "
        "`--switch engine=hf` it goes on with the other engine, and the run is called mixed; "
        "VLLM_LOGGING_LEVEL=INFO shows more",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's first line only counts its complaints
    if lines and "validation error" in lines[0] and len(lines) > 1:
        return lines[1]
    return lines[0] if lines else type(error).__name__
