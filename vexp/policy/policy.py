"""The policy: a vision-language model with its tokenizer, and log-probs of responses under it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vexp.errors import ConfigError, Problem
from vexp.files import write_json
from vexp.policy import control_tokens, lora, sharding
from vexp.policy import prefix as prefixes
from vexp.policy import prompts as prompting
from vexp.policy import shared_prefix as attention_kernel
from vexp.policy.log_probs import entropy, log_distribution, log_probs_of
from vexp.policy.options import Attention, Precision
from vexp.policy.predictor_rows import PredictorRows
from vexp.policy.prefix import Prefix
from vexp.policy.prompt_encoder import PromptEncoder
from vexp.policy.prompts import PromptBatch
from vexp.probe.attention import ImageLogits, Probe, register

if TYPE_CHECKING:
    from vexp.backbone._family import Family
    from vexp.dataset.base import Item
    from vexp.policy.zero import ZeroAdamW
    from vexp.spec.run import Prompt

# Largest number of logits held at once with their gradients; more are computed in slices whose
# logits are thrown away and computed again in the backward pass. 2**27 float32 are 0.5 GB.
LOGITS_AT_ONCE = 2**27
EMITS = "emits.json"  # of a saved policy: the special tokens that its responses may contain


@dataclass(frozen=True)
class PolicyOutput:
    """What a forward pass returns; both are zero outside the response mask."""

    logprobs: Tensor  # [rollout, token] of the given tokens, float32
    entropy: Tensor | None = None  # [rollout, token] in nats; None unless asked for
    # [rollout, token] cosine of the token's own last hidden state and its image's mean one
    similarity: Tensor | None = None
    hidden: Tensor | None = None  # [n, hidden] that predicted the n tokens in the mask, in order
    # by decoder layer, of the query rows `rows` [rollout, query] (None: of every token)
    attention: Mapping[int, ImageLogits] = field(default_factory=dict)
    rows: Tensor | None = None
    # log-probs [rollout, token] with distorted images, with gradient, for who asked for that
    counterfactual: Mapping[Any, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a forward pass returns beside log-probs; each costs a little."""

    entropy: bool = False
    similarity: bool = False
    hidden: bool = False
    probe: Probe | None = None  # reads rows of the response tokens
    predictor: bool = False  # rows and states are those of what predicts a token, not its own
    # Nothing is compared with it to the last bit, so prompts need not be encoded apart.
    loose: bool = False

    @property
    def own(self) -> bool:
        """Whether the last token of every response has to go through the model as well."""
        return not self.predictor and (self.similarity or self.probe is not None)


class Policy(nn.Module):
    """A vision-language model of transformers, its tokenizer and its image processor.

    Parameters are what the model has, float32 as a rule; with `precision="bf16"` the arithmetic
    runs under autocast. `files` are
    the rest of what a saved folder holds, by name: what AutoProcessor reads of the model this one
    was made from.
    """

    banned: Tensor  # [vocab] bool: tokens that are never sampled

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        family: Family,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        attention: Attention = "auto",
        emits: tuple[str, ...] = (),
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.kernel = prefixes.choose_kernel(attention, device, precision)
        _use_kernel(model, self.kernel)
        self.model = model.eval()  # no dropout anywhere in these models
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family
        self.files = dict(files)
        self.precision = precision
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self.vision = _vision(family, model.config, tokenizer)
        vocabulary = model.config.get_text_config().vocab_size
        banned = banned_tokens(tokenizer, vocabulary, emits, self.vision.reserved)
        # special tokens that a response may contain besides the end of the sequence, and their ids
        self.emits: dict[str, int] = {t: tokenizer.convert_tokens_to_ids(t) for t in emits}
        self.register_buffer("banned", banned, persistent=False)
        # Whether its weights are spread over processes, and gathered for now: see `sharding`.
        self.sharded, self.whole = False, False
        self.zero: ZeroAdamW | None = None  # the optimiser, where DeepSpeed spreads its moments
        self.to(device)

    def recompute(self) -> None:
        """Keep only the inputs of each layer for the backward pass, which computes the rest again.

        (Chen et al., arXiv:1604.06174.) Numbers stay the same; a step takes longer. transformers'
        own way drops the keys that responses share, and works in training mode only.
        """
        for block in (*self.model.get_decoder().layers, *self.family.vision_blocks(self.model)):
            block.forward = functools.partial(_recomputed, block.forward)

    @property
    def device(self) -> torch.device:
        return self.banned.device

    def forward(
        self,
        prompts: PromptBatch,
        tokens: Tensor,  # [rollout, token] int64
        mask: Tensor,  # [rollout, token] bool, true from the first token to the end
        prompt_index: Tensor,  # [rollout] int64: the prompt each response answers
        temperature: float = 1.0,
        reading: Reading = Reading(),
    ) -> PolicyOutput:
        """Log-probs of given responses, differentiable; each prompt is encoded once.

        A response's first token is predicted by its prompt's last position, token t by token t-1;
        so the last token of the longest response goes through the model only where its own hidden
        state or attention row is asked for.
        """
        if reading.loose and self._whole_is_cheaper(prompts):
            with self.autocast():
                predicting = prefixes.whole(self.model, self.family, prompts, tokens, prompt_index)
            return self._output(predicting, tokens, mask, temperature, reading)
        probe = reading.probe
        before = PredictorRows.of(probe) if probe and reading.predictor else None
        prefix = self.encode_prefix(prompts, before.ends if before else None)
        fed = tokens.shape[1] - (not reading.own)
        if self.sharded:  # all processes of an update go through the decoder as often
            fed = max(fed, 1)
        first = prefix.last_hidden[prompt_index].unsqueeze(1)
        reader = before.responses if before else probe
        own = self._extend(prefix, tokens[:, :fed], mask[:, :fed], prompt_index, reader)
        if before:
            before.answer(prompt_index)
        predicting = torch.cat([first, own[:, : tokens.shape[1] - 1]], dim=1)
        similarity = None
        if reading.similarity:
            image = prefix.image_hidden[prompt_index].unsqueeze(1).float()
            state = (predicting if reading.predictor else own).float()
            similarity = torch.cosine_similarity(state, image, dim=-1).masked_fill(~mask, 0.0)
        return dataclasses.replace(
            self._output(predicting, tokens, mask, temperature, reading),
            similarity=similarity,
            attention=probe.found if probe else {},
            rows=probe.rows if probe else None,
        )

    def _output(
        self,
        predicting: Tensor,  # [rollout, token, hidden]
        tokens: Tensor,
        mask: Tensor,
        temperature: float,
        reading: Reading,
    ) -> PolicyOutput:
        """What the states that predict the tokens say of them."""
        hidden = predicting[mask]
        logprobs, entropies = self._score(hidden, tokens[mask], temperature, reading.entropy)
        empty = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        return PolicyOutput(
            logprobs=empty.masked_scatter(mask, logprobs),
            entropy=empty.masked_scatter(mask, entropies) if entropies is not None else None,
            hidden=hidden if reading.hidden else None,
        )

    def _whole_is_cheaper(self, prompts: PromptBatch) -> bool:
        without_images = prompts.pixel_values is None and not torch.is_grad_enabled()
        return without_images and self.kernel == attention_kernel.NAME

    def encode_prefix(self, prompts: PromptBatch, probe: Probe | None = None) -> Prefix:
        """Images and prompt texts through vision tower and decoder, with gradients.

        `probe` reads the attention of each prompt's last position.
        """
        with self.autocast():
            return prefixes.encode(self.model, self.family, self.kernel, prompts, probe)

    def _extend(
        self,
        prefix: Prefix,
        tokens: Tensor,
        mask: Tensor,
        prompt_index: Tensor,
        probe: Probe | None,
    ) -> Tensor:  # [rollout, token, hidden]
        """Last hidden states of the response tokens themselves."""
        if tokens.shape[1] == 0:
            return prefix.last_hidden.new_zeros(len(tokens), 0, prefix.last_hidden.shape[1])
        with self.autocast():
            return prefixes.extend(
                self.model, self.family, self.kernel, prefix, tokens, mask, prompt_index, probe
            )

    @torch.no_grad()
    def divergence(
        self, hidden: Tensor, other: Tensor, temperature: float
    ) -> Tensor:  # [n] nats, float32
        """Exact KL(p || q) of the next-token distributions from two sets of states [n, d]."""
        size = max(1, LOGITS_AT_ONCE // (2 * len(self.banned)))
        parts = []
        for here, there in zip(torch.split(hidden, size), torch.split(other, size), strict=True):
            p = log_distribution(self.logits(here), self.banned, temperature)
            q = log_distribution(self.logits(there), self.banned, temperature)
            # A banned token has probability 0 in both: its difference -inf - -inf counts as 0.
            difference = (p - q).masked_fill(self.banned, 0.0)
            parts.append((p.exp() * difference).sum(-1).clamp(min=0.0))
        return torch.cat(parts)

    @property
    def layers(self) -> int:
        """Decoder layers of the language model."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocab]."""
        with self.autocast():
            found: Tensor = self.model.get_output_embeddings()(hidden)
        return found

    def _score(
        self, hidden: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs (and entropies) of tokens [n] from hidden states [n, hidden]."""
        size = max(1, LOGITS_AT_ONCE // len(self.banned))
        if len(tokens) <= size:
            return self._score_slice(hidden, tokens, temperature, with_entropy)
        slices = [
            checkpoint(self._score_slice, h, t, temperature, with_entropy, use_reentrant=False)
            for h, t in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True)
        ]
        logprobs = torch.cat([part[0] for part in slices])
        return logprobs, torch.cat([part[1] for part in slices]) if with_entropy else None

    def _score_slice(
        self, hidden: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        distribution = log_distribution(self.logits(hidden), self.banned, temperature)
        logprobs = log_probs_of(distribution, tokens)
        return logprobs, entropy(distribution) if with_entropy else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The arithmetic's precision; parameters are float32 either way."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def encoder(self) -> PromptEncoder:
        """What encodes this policy's prompts; needs no weights."""
        return PromptEncoder(self.tokenizer, self.image_processor, self.vision, self.model.config)

    def encode(self, items: Sequence[Item], prompt: Prompt) -> PromptBatch:
        """Prompts of the items on the policy's device.

        Raises:
            DataError: names the item whose image or text cannot be used.
        """
        batch = prompting.encode(items, prompt, self.tokenizer, self.image_processor, self.vision)
        return batch.to(self.device)

    def encode_responses(
        self, texts: Sequence[str], max_length: int, first: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:  # [text, token] int64, [text, token] bool
        """Texts as responses with the end of the sequence appended, cut at `max_length` tokens.

        Each begins with the special tokens `first`, which are among those that the policy `emits`.
        Control tokens written out in a text become ordinary characters.
        """
        begin = [self.emits[token] for token in first]
        mark = control_tokens.unused_character(texts)
        cut = [control_tokens.marked(text, self.vision.controls, mark) for text in texts]
        ids = control_tokens.token_ids(self.tokenizer, cut, mark)
        rows = [[*begin, *row, self.eos_id][:max_length] for row in ids]
        length = max((len(row) for row in rows), default=0)
        tokens = torch.full((len(rows), length), self.pad_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return tokens.to(self.device), mask.to(self.device)

    @functools.cached_property
    def opening(self) -> str:
        """The beginning of every response that its prompt has already written; mostly empty."""
        return prompting.opening(self.tokenizer)

    def decode(self, tokens: Tensor, mask: Tensor) -> list[str]:
        """Texts of responses, without the end of the sequence; what `emits` allows stays."""
        kept = (mask & (tokens != self.eos_id)).tolist()
        rows = [
            [token for token, keep in zip(row, keeps, strict=True) if keep]
            for row, keeps in zip(tokens.tolist(), kept, strict=True)
        ]
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=False)
        return texts

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder, which plain transformers can load.

        Adapters are in its weights, and by themselves in a file beside them.

        Raises:
            OSError: if the disk refuses it.
        """
        try:
            with no_progress_bars():
                weights = lora.merged(self.model)
                if weights is None and self.sharded:
                    weights = sharding.state_dict(self.model)
                self.model.save_pretrained(folder, state_dict=weights)
            if own := lora.adapters(self.model):
                save_file(own, folder / lora.ADAPTER)
            self.tokenizer.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)
            if self.emits:
                write_json(folder / EMITS, list(self.emits))
            for name, content in self.files.items():
                (folder / name).write_bytes(content)
        except Exception as error:
            # safetensors wraps the system's error: unwrap it, so that a full disk is known as one.
            number = re.search(r"os error (\d+)", str(error))
            if isinstance(error, OSError) or number is None:
                raise
            code = int(number.group(1))
            raise OSError(code, errno.errorcode.get(code, "error"), str(folder)) from error


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own while it reads or writes files."""
    from transformers.utils import logging

    switch: Any = logging  # untyped there
    before = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            switch.enable_progress_bar()


def _recomputed(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A layer's forward pass; where gradients are wanted, without its activations kept.

    Not the reentrant form: there, what the probe and the prefix take from within a layer would
    carry no gradient, silently.
    """
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


def _use_kernel(model: Any, kernel: str) -> None:
    """Set the attention implementation; a probed one is for the language model only."""
    if kernel == attention_kernel.NAME:
        attention_kernel.register()
        plain, probed = "sdpa", kernel
    else:
        plain, probed = kernel, register(kernel)
    model.set_attn_implementation({"": plain, "vision_config": plain, "text_config": probed})


def banned_tokens(
    tokenizer: Any, vocabulary: int, emits: Sequence[str] = (), reserved: Iterable[int] = ()
) -> Tensor:  # [vocab]
    """Tokens no response may contain: special and reserved ones, and ids without a token.

    Exempt are the end of the sequence and `emits`. Added tokens that are not special, such as
    Qwen3's `<think>`, are ordinary text. An image token in a response would crash the next forward
    pass ("image features and image tokens do not match").

    Raises:
        ConfigError: if one of `emits` is not a single token.
    """
    known = tokenizer.get_vocab()
    unknown = [token for token in emits if token not in known]
    if unknown:
        raise ConfigError(
            Problem(
                f"{unknown[0]!r} is not a token of this backbone",
                remedy="choose a backbone that has it, or another component",
            )
        )
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[sorted(set(range(vocabulary)) - set(known.values()))] = True
    # Llama-3.2-Vision's image token lies behind the vocabulary that can be written.
    never = control_tokens.ids_of(tokenizer, reserved)
    banned[[number for number in never if number < vocabulary]] = True
    banned[[tokenizer.eos_token_id, *(known[token] for token in emits)]] = False
    return banned


def encoder(family: Family, config: Any, tokenizer: Any, image_processor: Any) -> PromptEncoder:
    """What a policy of this model would encode prompts with, without the model."""
    return PromptEncoder(tokenizer, image_processor, _vision(family, config, tokenizer), config)


def _vision(family: Family, config: Any, tokenizer: Any) -> prompting.Vision:
    reserved = family.reserved_ids(config, tokenizer)
    return prompting.Vision(
        family=family,
        config=config,
        image_token_id=family.image_token_id(config),
        reserved=reserved,
        controls=control_tokens.pattern_of(tokenizer, reserved),
    )
