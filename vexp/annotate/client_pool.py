"""Asking for one item: answers come from the journal if they are there, or the endpoint."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from vexp.annotate.journal import AnnotationJournal
from vexp.endpoint.client import Client
from vexp.endpoint.request import ChatRequest
from vexp.endpoint.settings import Endpoint
from vexp.errors import ConfigError, EndpointError, Problem

T = TypeVar("T")


class Nonsense(EndpointError):
    """A question whose answer could not be read, however often it was put."""


def open_clients(
    endpoints: Mapping[str, Endpoint], stop: threading.Event
) -> dict[Endpoint, Client]:
    """A client for each endpoint; keys are taken from the environment.

    Raises:
        ConfigError: for every variable that is not set.
    """
    missing = [
        Problem(
            f"the environment variable {endpoint.key_variable} is not set",
            where=f"{path}.endpoint.key_variable",
            remedy="set it to the key, or key_variable to null where no key is wanted",
        )
        for path, endpoint in endpoints.items()
        if endpoint.key_variable and not os.environ.get(endpoint.key_variable)
    ]
    if missing:
        raise ConfigError(missing)
    return {endpoint: Client(endpoint, _key(endpoint), stop) for endpoint in endpoints.values()}


def _key(endpoint: Endpoint) -> str | None:
    return os.environ[endpoint.key_variable].strip() if endpoint.key_variable else None


class Asking:
    """Implements `Ask` for one item; counts the answers that could not be read."""

    def __init__(
        self, journal: AnnotationJournal, clients: Mapping[Endpoint, Client], item_id: str
    ) -> None:
        self._journal = journal
        self._clients = clients
        self._id = item_id
        self.step = ""  # who asks now
        self.misread: Counter[str] = Counter()  # answers that could not be read, by step

    def __call__(self, request: ChatRequest, read: Callable[[str], T]) -> T:
        reason = ""
        for _ in range(request.endpoint.asked_again + 1):
            answer = self._answer(request)
            try:
                return read(answer)
            except ValueError as error:
                reason = str(error)
                self.misread[self.step] += 1
                request = request.again(answer, reason)
        raise Nonsense(f"an answer cannot be read: {reason}", where=f"{self.step}, {self._id}")

    def _answer(self, request: ChatRequest) -> str:
        def find() -> Mapping[str, Any]:
            return vars(self._clients[request.endpoint].complete(request)) | {
                "endpoint": request.endpoint.base_url,
                "model": request.endpoint.model,
            }

        found = self._journal.once(request.key, find, step=self.step, id=self._id)
        return str(found["text"])


def tokens(answers: Iterable[Any]) -> dict[tuple[str, str], Counter[str]]:
    """What was asked and answered so far, by address and model: requests and tokens as counted."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for answer in answers:
        if isinstance(answer, dict) and "model" in answer:
            count = found.setdefault((answer["endpoint"], answer["model"]), Counter())
            count["requests"] += 1
            count["prompt_tokens"] += answer["prompt_tokens"] or 0
            count["reply_tokens"] += answer["reply_tokens"] or 0
    return found
