"""The model that lmms-eval asks: any backbone and checkpoint of vexp, with vexp's own decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from vexp.bridge.journal import Journal, Response
from vexp.bridge.unwrap import unwrapped
from vexp.dataset.base import Item
from vexp.engine.base import Sampling
from vexp.errors import DataError, RunError
from vexp.evaluator.benchmarks import Unwrap
from vexp.files import open_regular, read_json
from vexp.policy.policy import Policy
from vexp.spec.run import Prompt
from vexp.train import manifest

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@dataclass(frozen=True)
class BenchmarkQuestion:
    """What one request shows the model."""

    key: str  # document
    system: str
    item: Item


class VexpModel(lmms):  # type: ignore[misc]
    """Answers questions with a policy of vexp; the task's own generation settings do not count.

    For lmms-eval's command line: `--model vexp --model_args config=RUN/…/config.json,…`. `prompt`
    is `run` (the run's system message and instruction) or `task` (the system message of the task);
    the task's question stays as it is either way. A `max_response_length` of 0 is that of training.
    """

    is_simple = False

    def __init__(
        self,
        config: str = "",
        checkpoint: str = "",
        journal: str = "",
        weights: str = "",
        prompt: str = "run",
        unwrap: Unwrap = "none",
        max_response_length: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int | str = 16,
        device: str | None = None,
        max_batch_size: int | None = None,
        run: RunSpec | None = None,
    ) -> None:
        super().__init__()
        self.run = run or _run_of(config)
        self.prompt, self.unwrap = prompt, unwrap
        self.temperature, self.top_p, self.seed = float(temperature), float(top_p), int(seed)
        self.limit = int(max_response_length) or self.run.rollout.max_response_length
        self.batch_size_per_gpu = int(batch_size)
        self.generated = 0  # by this process
        self.asked: Callable[[int], None] = lambda _number: None
        about = {
            "weights": weights or checkpoint,
            "prompt": prompt,
            "max_response_length": self.limit,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        self.journal = Journal(Path(journal) if journal else None, about)
        self._checkpoint = Path(checkpoint) if checkpoint else None
        self._policy: Policy | None = None

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    def clean(self) -> None:
        """Keep the policy: the next seed needs it. (The base class deletes every module.)"""

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """The responses in the requests' order, as their scorers are given them.

        Which questions share a batch does not depend on what is journalled already.
        """
        self.asked(len(requests))
        found: list[Response] = []
        for first in range(0, len(requests), self.batch_size):
            batch = requests[first : first + self.batch_size]
            kept = [self._kept(request) for request in batch]
            if any(response is None for response in kept):
                made = self._answered(batch)
                self.journal.add([new for new, old in zip(made, kept, strict=True) if old is None])
                kept = [old or new for new, old in zip(made, kept, strict=True)]
            found += [response for response in kept if response is not None]
        return [
            GenerationResult(
                text=unwrapped(response.text, self.unwrap),
                token_counts=TokenCounts(output_tokens=response.tokens),
            )
            for response in found
        ]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise RunError(
            "this task compares likelihoods, and vexp's model answers questions only",
            where=str(requests[0].task_name),
            remedy="choose a task with output_type: generate_until",
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise RunError(
            "this task talks in several rounds, and vexp's model answers once",
            where=str(requests[0].task_name),
            remedy="choose another task",
        )

    def response(self, task: str, document: Any) -> Response | None:
        """What was answered, as a whole, with the present seed."""
        return self.journal.found((task, str(document), self.seed))

    def _kept(self, request: Any) -> Response | None:
        context, _, _, document, task, _ = request.args
        return self.journal.get((task, str(document), self.seed), _hash(context))

    def _answered(self, requests: Sequence[Any]) -> list[Response]:
        from vexp.train.device import arithmetic

        questions = [self._question(request) for request in requests]
        with arithmetic(self.run.compute) as device:
            parts = [
                part
                for system, group in groupby(questions, key=lambda question: question.system)
                for part in self._generated(list(group), system, device)
            ]
        self.generated += len(parts)
        return [
            Response(
                task=request.args[4],
                document=str(request.args[3]),
                seed=self.seed,
                question=_hash(request.args[0]),
                text=text,
                tokens=tokens,
                truncated=truncated,
            )
            for request, (text, tokens, truncated) in zip(requests, parts, strict=True)
        ]

    def _generated(
        self, questions: Sequence[BenchmarkQuestion], system: str, device: str
    ) -> Iterator[tuple[str, int, bool]]:
        policy = self._loaded(device)
        prompt = self.run.prompt if self.prompt == "run" else Prompt(system=system)
        batch = policy.encode([question.item for question in questions], prompt)
        sampling = Sampling(
            group_size=1,
            max_response_length=self.limit,
            temperature=self.temperature or 1.0,
            top_p=self.top_p,
            greedy=not self.temperature,
            seed=self.seed,
            purpose="evaluation",
        )
        ids = [question.key for question in questions]
        found = self.run.engine.generate(policy, batch, ids, sampling)
        texts = policy.decode(found.tokens, found.mask)
        lengths, finished = found.mask.sum(dim=1).tolist(), found.finished.tolist()
        for text, length, ended in zip(texts, lengths, finished, strict=True):
            yield text, int(length), not ended

    def _question(self, request: Any) -> BenchmarkQuestion:
        _, to_messages, _, document, task, split = request.args
        messages = to_messages(self.task_dict[task][split][document])
        return question(f"{task}/{document}", messages, keep_system=self.prompt == "task")

    def _loaded(self, device: str) -> Policy:
        if self._policy is None:
            compute = self.run.compute
            if self._checkpoint is not None:
                manifest.check_if_listed(self._checkpoint)
            self._policy = self.run.backbone.load(
                self._checkpoint,
                device=device,
                precision=compute.precision,
                attention=compute.attention,
            )
        return self._policy


def question(
    key: str, messages: Sequence[Mapping[str, Any]], *, keep_system: bool
) -> BenchmarkQuestion:
    """One turn of a user as an item: its texts in order, with at most one image before them.

    Raises:
        DataError: there is something else in it, which vexp's prompts do not take.
    """
    system: list[str] = []
    texts: list[str] = []
    media: list[tuple[str, Any]] = []
    users = 0
    for message in messages:
        users += message["role"] == "user"
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        into = system if message["role"] == "system" else texts
        into += [part["text"] for part in parts if part["type"] == "text"]
        media += [(part["type"], part["url"]) for part in parts if part["type"] != "text"]
    kinds = [kind for kind, _ in media]
    if users != 1 or any(message["role"] == "assistant" for message in messages):
        raise _unsupported(key, "is a conversation of several turns")
    if len(media) > 1 or any(kind != "image" for kind in kinds):
        raise _unsupported(key, f"shows {', '.join(kinds)}")
    item = Item(
        id=key,
        question="\n".join(texts),
        answer="",
        image=_image(media[0][1], key) if media else None,
    )
    return BenchmarkQuestion(key, "\n".join(system) if keep_system else "", item)


def _image(found: Any, key: str) -> Any:
    from PIL import Image

    if isinstance(found, Image.Image):
        return found.convert("RGB")
    try:
        with open_regular(Path(found)) as file:
            return Image.open(file).convert("RGB")
    except OSError as error:
        raise DataError(f"the image of question {key} cannot be read: {error}") from error


def _unsupported(key: str, what: str) -> DataError:
    return DataError(
        f"question {key} {what}",
        accepted="one turn with text and at most one image",
        remedy="leave it out, or evaluate it with lmms-eval itself and use `vexp import`",
    )


def _run_of(config: str) -> RunSpec:
    from vexp.bridge.worker import run_of

    found = read_json(config) if config else None
    if not isinstance(found, dict):
        raise RunError(
            "the model needs the config of a run",
            where=f"config={config}",
            accepted="--model_args config=results/runs/…/attempts/0001/config.json",
        )
    return run_of(found)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
