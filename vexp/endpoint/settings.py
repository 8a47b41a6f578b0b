"""Which endpoint is asked, and how."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from vexp.config.types import UNHASHED, Count, NonNegative, Positive, PositiveInt
from vexp.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind `POST <base_url>/chat/completions`. The key itself is never a setting."""

    base_url: str = ""  # with the version, e.g. http://localhost:8000/v1
    model: str = ""  # as the endpoint calls it
    # Name of the environment variable that holds the key; null: the endpoint wants none.
    key_variable: Annotated[str | None, UNHASHED] = None
    temperature: NonNegative | None = 0.0  # null: it is not sent, for models that refuse it
    max_tokens: PositiveInt = 512  # of an answer
    # What the endpoint calls the length of an answer; newer OpenAI models take only the second.
    length_key: Annotated[Literal["max_tokens", "max_completion_tokens"], UNHASHED] = "max_tokens"
    max_pixels: PositiveInt = 2_000_000  # images with more are sent smaller
    asked_again: Count = 1  # times a question is put again whose answer cannot be read
    timeout_s: Annotated[Positive, UNHASHED] = 120.0  # without a byte
    retries: Annotated[Count, UNHASHED] = 6  # after 408, 425, 429, 5xx, time-outs and lost lines
    # Pause before the first of them; it doubles, up to a minute. Retry-After is kept to.
    first_pause_s: Annotated[Positive, UNHASHED] = 1.0
    requests_per_minute: Annotated[Positive | None, UNHASHED] = None  # null: no limit of our own
    prompt_price: Annotated[NonNegative | None, UNHASHED] = None  # US$ per million tokens
    reply_price: Annotated[NonNegative | None, UNHASHED] = None  # US$ per million tokens
    # Pixels of an image that count as a token, for the estimate of a dry run (Qwen2.5-VL: 28 x 28).
    pixels_per_token: Annotated[Positive, UNHASHED] = 784.0

    def problems(self) -> Iterator[Problem]:
        """What keeps this endpoint from being asked."""
        if not self.model:
            yield Problem(
                "no model is named", where="model", remedy="set it to what the endpoint calls it"
            )
        try:
            parts = urllib.parse.urlsplit(self.base_url)
        except ValueError:  # brackets of an IPv6 address that do not close
            parts = urllib.parse.urlsplit("")
        if parts.username or parts.password or parts.query or parts.fragment:
            yield Problem(
                "an address must not hold a key or a password; it would be stored",
                where="base_url",
                accepted="scheme, host, port and path: http://localhost:8000/v1",
                remedy="put the key into an environment variable, and its name into key_variable",
            )
        elif parts.scheme not in ("http", "https") or not parts.hostname:
            yield Problem(
                f"{self.base_url!r} is not the address of an endpoint" if self.base_url
                else "no endpoint is named",
                where="base_url",
                accepted="e.g. http://localhost:8000/v1",
            )  # fmt: skip
