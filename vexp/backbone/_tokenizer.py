"""The tokenizer of the tiny twins: byte-level, built from the word list below, no file, no network.

Any text encodes: a word of the list is one token, a digit is one token, and everything else falls
back to its UTF-8 bytes. Special tokens and chat template are those of the twin's family.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Dialect:
    """The special tokens and the chat template of a family."""

    special: tuple[str, ...]
    end: str  # of a turn
    template: str
    pad: str = PAD
    begin: str | None = None  # of a text
    roles: dict[str, str] = field(default_factory=dict)  # names under which a processor asks for it


QWEN = Dialect(SPECIAL, END, CHAT_TEMPLATE)
INTERNVL = Dialect(
    special=(PAD, "<|im_start|>", END, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    end=END,
    template=CHAT_TEMPLATE.replace(f"{VISION_START}{IMAGE}{VISION_END}", "<IMG_CONTEXT>\n").replace(
        f"{VISION_START}{VIDEO}{VISION_END}", "<video>\n"
    ),
    roles={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
)
MOST_TILES = 6  # along a side, that SmolVLM's tokenizer has names for
SMOLVLM = Dialect(
    special=(
        PAD,
        "<|im_start|>",
        "<end_of_utterance>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        *(f"<row_{r}_col_{c}>" for r in range(1, MOST_TILES + 1) for c in range(1, MOST_TILES + 1)),
    ),
    end="<end_of_utterance>",
    template=(
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'] is string %}: {{ message['content'] }}"
        "{% else %}{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% elif 'text' in part %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
)


MLLAMA = Dialect(
    special=(
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|finetune_right_pad_id|>",
        "<|image|>",  # the last one: its id is the size of the vocabulary that can be written
    ),
    end="<|eot_id|>",
    template=(
        "{{ bos_token }}{% for message in messages %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|image|>{% elif 'text' in part %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    pad="<|finetune_right_pad_id|>",
    begin="<|begin_of_text|>",
)


def pieces() -> list[str]:
    """Every token that is more than a byte and not special, in the order of its id."""
    words = [*(f" {word}" for word in WITHIN.split()), *BEGINNING.split()]
    return list(dict.fromkeys([*map(str, range(10)), *MARKUP, *words]))


def digest(dialect: Dialect = QWEN) -> str:
    """SHA-256 of all that decides which ids a text becomes; part of the backbone's identity."""
    content = json.dumps([dialect.special, pieces(), PATTERN, dialect.template])
    return hashlib.sha256(content.encode()).hexdigest()


def build(dialect: Dialect = QWEN) -> Any:
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
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in dialect.special]
    )
    return wrap(
        tokenizer_object=tokenizer,
        eos_token=dialect.end,
        pad_token=dialect.pad,
        padding_side="left",
        chat_template=dialect.template,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        **({"bos_token": dialect.begin} if dialect.begin else {}),
        **({"extra_special_tokens": dialect.roles} if dialect.roles else {}),
    )


def _as_bytes(piece: str) -> str:
    """A piece as the byte-level alphabet spells it (a space becomes `Ġ`)."""
    from tokenizers import pre_tokenizers

    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(token for token, _ in spelled.pre_tokenize_str(piece))
