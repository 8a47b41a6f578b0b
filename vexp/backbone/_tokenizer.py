"""The tokenizer of the tiny twins: byte-level, built from the word list below, no file, no network.

Any text encodes: a word of the list is one token, a digit is one token, and everything else falls
back to its UTF-8 bytes. The special tokens and the chat template are Qwen's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

PAD = "<|endoftext|>"
END = "<|im_end|>"
IMAGE = "<|image_pad|>"
VIDEO = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
SPECIAL = (PAD, "<|im_start|>", END, VISION_START, VISION_END, IMAGE, VIDEO)

# Pieces that are one token although they are not words. None of them is special: a policy may
# write them.
MARKUP = (
    "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\n", "\n\n",
    "+", "-", "*", "/", "=", "<", ">", "(", ")", "{", "}", "[", "]", ".", ",", ":", ";", "?", "!",
)  # fmt: skip

# Words as they stand within a sentence (with a leading space) and as they begin a text.
WITHIN = (
    "red green blue yellow orange purple black white gray pink brown cyan magenta "
    "top bottom left right upper lower middle center above below row column corner grid "
    "first second third last of in on at the a an is are and or than with from for to "
    "what which how many much where that this digit digits number color colors colour colours "
    "cell image picture shows see sum add total difference minus plus times product larger largest "
    "smaller smallest greater less equal same different count even odd both two three one zero "
    "not no yes answer question think then so find put inside box your you as single A B C D"
)
BEGINNING = (
    "red green blue yellow orange purple black white gray pink brown cyan magenta top bottom left "
    "right the system user assistant yes no A B C D "
    "What Which How Is Are The There Where In Sum Count Add Put Think Answer Yes No You First Give"
)

# What one token may be: a piece of markup, a digit, a word with its space, a run of letters of any
# script, spaces, or one other character. Pieces that are no token fall back to bytes.
PATTERN = (
    r"</?(?:think|answer)>|\\boxed\{|\n+|\p{N}| ?\p{L}+|[^\S\n]+(?=\S)|[^\S\n]+|[^\s\p{L}\p{N}]"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pieces() -> list[str]:
    """Every token that is more than a byte and not special, in the order of its id."""
    words = [*(f" {word}" for word in WITHIN.split()), *BEGINNING.split()]
    return list(dict.fromkeys([*map(str, range(10)), *MARKUP, *words]))


def digest() -> str:
    """SHA-256 of all that decides which ids a text becomes; part of the backbone's identity."""
    content = json.dumps([SPECIAL, pieces(), PATTERN, CHAT_TEMPLATE])
    return hashlib.sha256(content.encode()).hexdigest()


def build() -> Any:
    """A `PreTrainedTokenizerFast` with special tokens and chat template; the same everywhere."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast  # transformers leaves it untyped
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    for piece in pieces():
        vocabulary.setdefault(_as_bytes(piece), len(vocabulary))
    # `ignore_merges` takes a piece that is in the vocabulary whole, as Llama 3's tokenizer does;
    # with no merges at all, any other piece becomes its bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return wrap(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _as_bytes(piece: str) -> str:
    """A piece as the byte-level alphabet spells it (a space becomes `Ġ`)."""
    from tokenizers import pre_tokenizers

    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(token for token, _ in spelled.pre_tokenize_str(piece))
