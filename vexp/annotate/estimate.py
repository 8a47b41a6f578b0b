"""What an annotation would ask, before anything is asked: requests, tokens, money.

The requests for phrases are those that would be sent. How many phrases and boxes come of them is
not known: `phrases_expected` of an item, and a box by each localizer, are assumed. Tokens are
counted from lengths: four characters or `pixels_per_token` to a token; replies as their limit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from vexp.annotate.spec import SPLIT, Annotation
from vexp.dataset.base import Item
from vexp.endpoint.request import ChatRequest
from vexp.endpoint.settings import Endpoint
from vexp.errors import DataError, EndpointError

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4.0
LOOKED_AT = 64  # items, evenly spread, whose images are opened; the rest is scaled
_TYPICAL = "the small red cup on the left side of the table"


@dataclass
class Estimate:
    """The requests of one step."""

    step: str
    model: str
    requests: float = 0.0
    prompt_tokens: float = 0.0
    reply_tokens_at_most: float = 0.0
    cost_at_most: float | None = None  # US$; None where no price is set

    def add(self, request: ChatRequest, times: float) -> None:
        endpoint = request.endpoint
        prompt = len(request.text) / CHARACTERS_PER_TOKEN
        if request.picture:
            width, height = request.picture.image.size
            prompt += width * height / endpoint.pixels_per_token
        self.requests += times
        self.prompt_tokens += times * prompt
        self.reply_tokens_at_most += times * endpoint.max_tokens
        if endpoint.prompt_price is not None or endpoint.reply_price is not None:
            cost = prompt * (endpoint.prompt_price or 0)
            cost += endpoint.max_tokens * (endpoint.reply_price or 0)
            self.cost_at_most = (self.cost_at_most or 0.0) + times * cost / 1e6

    def to_dict(self) -> dict[str, Any]:
        rounded = {k: round(v) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return rounded | {"cost_at_most": self.cost_at_most}


class _Counted(EndpointError):
    """Raised instead of asking."""


class _Counting:
    """Implements `Ask` by taking down what would be asked."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    def __call__(self, request: ChatRequest, read: Callable[[str], T]) -> T:
        self.asked.append(request)
        raise _Counted("a dry run asks nothing")


def estimate(spec: Annotation, missing: list[int]) -> list[Estimate]:
    """What would be asked for the items `missing`, by step."""
    found: dict[str, Estimate] = {}
    endpoints = spec.endpoints()
    seen = missing[:: max(1, -(-len(missing) // LOOKED_AT))]
    for index in seen:
        try:
            item = spec.dataset.item(SPLIT, index)
        except DataError:
            continue
        for step, times, request in _requests(spec, item):
            place = found.setdefault(step, Estimate(step, _model(endpoints, step, request)))
            place.add(request, times * len(missing) / len(seen))
    return list(found.values())


def _requests(spec: Annotation, item: Item) -> Iterator[tuple[str, float, ChatRequest]]:
    """Step, how often, and what is asked."""
    if item.image is None:
        return
    localizers = {"localizer": spec.localizer, "second_localizer": spec.second_localizer}
    given = item.boxes if spec.existing_boxes != "ignored" else ()
    if not given:
        for request in _asked(functools.partial(spec.extractor.phrases, item)):
            yield "extractor", 1, request
        for step, one in localizers.items():
            if one is not None and one.asks:
                for request in _asked(functools.partial(one.locate, item, _TYPICAL)):
                    yield step, spec.phrases_expected, request
    if spec.validator is None or (given and spec.existing_boxes == "kept"):
        return
    boxes = len(given) or spec.phrases_expected * sum(
        one is not None for one in localizers.values()
    )
    whole = (0.0, 0.0, float(item.image.width), float(item.image.height))
    for request in _asked(functools.partial(spec.validator.accepts, item, _TYPICAL, whole)):
        yield "validator", boxes, request


def _asked(call: Callable[[Any], object]) -> list[ChatRequest]:
    counting = _Counting()
    with contextlib.suppress(_Counted):
        call(counting)
    return counting.asked


def _model(endpoints: Mapping[str, Endpoint], step: str, request: ChatRequest) -> str:
    return endpoints.get(step, request.endpoint).model
