"""Text as tokens in which nothing is a control token, whatever the text spells.

A tokenizer takes `<|im_end|>` in a question for the end of a turn. Here such text is cut after its
first character before it is tokenised, so that it stays the characters that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any


def ids_of(tokenizer: Any, reserved: Iterable[int] = ()) -> set[int]:
    """Ids that no text and no response may contain: special tokens, and `reserved` ones.

    Added tokens that are not special, such as Qwen3's `<think>`, are ordinary text.
    """
    added = tokenizer.added_tokens_decoder.items()
    special = [number for number, token in added if token.special]
    return {*special, *tokenizer.all_special_ids, *reserved}


def pattern_of(tokenizer: Any, reserved: Iterable[int] = ()) -> re.Pattern[str]:
    """A pattern of what spells a control token; group 1 is its first character.

    It also has what is written like one, such as Qwen's `<|fim_prefix|>`, which is not special.
    """
    known = tokenizer.convert_ids_to_tokens(sorted(ids_of(tokenizer, reserved)))
    names = {name for name in known if name}
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    names |= {name for name in added if name.startswith("<|")}
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(f"(?={'|'.join(map(re.escape, longest_first))})(.)", re.DOTALL)


def unused_character(texts: Iterable[str]) -> str:
    """A character for private use that none of the texts has, to mark where they are cut."""
    used = set(chain.from_iterable(texts))
    return next(char for char in map(chr, range(0xE000, 0xF900)) if char not in used)


def marked(text: str, controls: re.Pattern[str], mark: str) -> str:
    """The text with `mark` within everything that spells a control token."""
    return controls.sub(rf"\1{mark}", text)


def token_ids(tokenizer: Any, texts: Sequence[str], mark: str) -> list[list[int]]:
    """Ids of the texts, tokenised in the pieces between the marks, which are left out."""
    pieces = [text.split(mark) for text in texts]
    flat = list(chain.from_iterable(pieces))
    found = iter(tokenizer(flat, add_special_tokens=False).input_ids if flat else ())
    return [list(chain.from_iterable(next(found) for _ in own)) for own in pieces]
