"""Posting requests to an OpenAI-compatible endpoint, with retries that do as they are told.

Tried again: 408, 425, 429 and 5xx, time-outs, lost lines, and answers that are no chat completion.
Not tried again: what this one request is refused for (400, 413, 422), and what every request would
be refused for (401, 403, 404, a used-up quota). The key goes into the header of requests and
nowhere else; where an endpoint repeats it in a message, it is replaced.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vexp.endpoint.parse_json import shown
from vexp.endpoint.rate_limit import Pace
from vexp.endpoint.request import ChatRequest
from vexp.endpoint.settings import Endpoint
from vexp.errors import EndpointError

if TYPE_CHECKING:
    from httpx2 import Response

LONGEST_PAUSE_S = 60.0  # between two tries, unless the endpoint asks for more
LONGEST_RETRY_AFTER_S = 600.0  # an endpoint that asks for more is as good as down
_LATER = (408, 425, 429)
_THIS_ONE = (400, 413, 415, 422)
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")


class Unavailable(EndpointError):
    """No answer after all retries; the same request may work later."""


class Refused(EndpointError):
    """The endpoint does not want this one request."""


class Unusable(EndpointError):
    """The endpoint refuses every request: the key, the model or the address is wrong."""


@dataclass(frozen=True)
class Reply:
    """An answer, and what it cost as the endpoint counts it (None where it does not say)."""

    text: str
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class Client:
    """Asks one endpoint. Threads may share it; they keep to one pace."""

    def __init__(self, endpoint: Endpoint, key: str | None, stop: threading.Event) -> None:
        import httpx2

        self.endpoint = endpoint
        self.troubles: Counter[str] = Counter()  # why requests were tried again
        self._key = key
        self._pace = Pace(endpoint.requests_per_minute, stop)
        self._random = random.Random()  # noqa: S311  (only spreads retries)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(
            headers=headers,
            timeout=endpoint.timeout_s,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )

    def close(self) -> None:
        self._http.close()

    def complete(self, request: ChatRequest) -> Reply:
        """The answer to a request.

        Raises:
            Unavailable: after all retries.
            Refused: if the endpoint does not want this request.
            Unusable: if it would refuse every request.
            Interrupted: if everything is to stop, and nothing is under way.
        """
        body = json.dumps(request.body()).encode("utf-8", "surrogatepass")
        why = ""
        for number in range(self.endpoint.retries + 1):
            self._pace.wait()
            trouble, wanted = self._try(body)
            if isinstance(trouble, Reply):
                return trouble
            why = trouble
            self.troubles[_kind(why)] += 1
            if wanted is not None and wanted > LONGEST_RETRY_AFTER_S:
                why += f"; it asks to be left alone for {wanted:.0f} s"
                break
            if wanted is not None:
                self._pace.hold(wanted)
            if number < self.endpoint.retries:
                self._pace.pause(self._backoff(number) if wanted is None else 0.0)
        raise Unavailable(
            f"the endpoint gives no answer: {why}",
            where=self._where,
            remedy="run the same command when it is back; what was answered is kept",
        )

    def _try(self, body: bytes) -> tuple[Reply | str, float | None]:
        """The reply; or why there is none yet, and how long the endpoint wants to be left alone."""
        import httpx2

        try:
            response = self._http.post(
                f"{self.endpoint.base_url.rstrip('/')}/chat/completions",
                content=body,
                headers={"Content-Type": "application/json"},
            )
        except httpx2.TimeoutException:
            return f"time-out: nothing came for {self.endpoint.timeout_s:g} s", None
        except httpx2.HTTPError as error:
            return f"lost line: {self._clean(str(error)) or type(error).__name__}", None
        text = self._clean(response.text)
        if response.is_success:
            try:
                return _reply(text), None
            except ValueError as error:
                return f"garbage: {error}", None
        return self._failure(response, text)

    def _failure(self, response: Response, text: str) -> tuple[str, float | None]:
        status = response.status_code
        message, code = _message(text)
        what = f"HTTP {status}: {message}" if text else f"HTTP {status}"
        if code in _QUOTA:
            raise Unusable(
                f"the quota is used up: {what}", where=self._where, remedy="top it up and go on"
            )
        if status in _LATER or status >= 500:
            return what, _retry_after(response.headers.get("retry-after"))
        if status in _THIS_ONE:
            raise Refused(f"the endpoint refuses a request: {what}", where=self._where)
        variable = self.endpoint.key_variable
        remedies = {
            401: f"look at the key in {variable}" if variable else "set key_variable",
            403: "look at what this key is allowed to use",
            404: "look at base_url (it ends in a version, e.g. /v1) and at model",
        }
        raise Unusable(
            f"the endpoint cannot be used: {what}",
            where=self._where,
            remedy=remedies.get(status, "look at base_url"),
        )

    @property
    def _where(self) -> str:
        return f"{self.endpoint.base_url}, model {self.endpoint.model}"

    def _backoff(self, number: int) -> float:
        """Doubling pauses, each shortened at random, so that threads do not come back together."""
        longest = min(LONGEST_PAUSE_S, self.endpoint.first_pause_s * 2.0 ** min(number, 30))
        return longest * self._random.uniform(0.5, 1.0)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _kind(why: str) -> str:
    return why.partition(":")[0]


def _reply(text: str) -> Reply:
    """The reply in the body of a response.

    Raises:
        ValueError: if it is no chat completion.
    """
    try:
        found = json.loads(text)
        content = found["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"the answer is no chat completion but {shown(text)}") from error
    if isinstance(content, list):  # parts, as some endpoints send them
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return Reply(content if isinstance(content, str) else "", *map(_count, counts))


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _message(text: str) -> tuple[str, str]:
    """The endpoint's message and code from the body of an error, whatever its form."""
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
    except (ValueError, RecursionError):
        return shown(text), ""
    if not isinstance(error, dict):
        return shown(error), ""
    return shown(error.get("message") or error.get("detail") or error), str(error.get("code") or "")


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date; None for anything else."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) if float(header) < float("inf") else None
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.fromtimestamp(time.time(), UTC)).total_seconds())
