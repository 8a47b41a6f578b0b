"""Every error a user can cause or meet, each printed as one message without a traceback.

A message has up to four parts, in this order: what is wrong, where it came from, what would be
accepted, what to do. Config problems are collected and reported together (`ConfigError`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class Problem:
    """One thing that is wrong, with its origin and its remedy."""

    __slots__ = ("accepted", "remedy", "what", "where")

    def __init__(self, what: str, *, where: str = "", accepted: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.accepted = accepted
        self.remedy = remedy

    def __str__(self) -> str:
        rest = (self.where and f"at {self.where}", self.accepted, self.remedy)
        return "\n".join([self.what, *(f"  {part}" for part in rest if part)])

    def __repr__(self) -> str:
        return f"Problem({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


class VexpError(Exception):
    """Base of all errors that are shown to the user as they are, without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", accepted: str = "", remedy: str = "") -> None:
        self.problem = Problem(what, where=where, accepted=accepted, remedy=remedy)
        super().__init__(what)

    def __str__(self) -> str:
        return str(self.problem)


class ConfigError(VexpError):
    """A configuration that cannot be used; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        found = [problems] if isinstance(problems, Problem) else list(problems)
        if not found:
            raise ValueError("a ConfigError needs at least one problem")
        self.problems: tuple[Problem, ...] = tuple(dict.fromkeys(found))
        super().__init__(self.problems[0].what)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        head = f"{len(self.problems)} problems in this configuration"
        return "\n\n".join([head, *map(str, self.problems)])


class DataError(VexpError):
    """A dataset, image or record that cannot be read; names the file and the row."""

    exit_code = 2


class CheckpointError(VexpError):
    """A checkpoint that is damaged or belongs to another architecture."""


class HubError(VexpError):
    """The Hugging Face hub does not give what was asked of it, or cannot be asked."""


class EndpointError(VexpError):
    """An endpoint that gives no answer that can be used; the answers it gave before are kept."""


class Diverged(VexpError):
    """Training produced a number that is no longer one; the last checkpoint is intact."""


class RunError(VexpError):
    """A run folder that cannot be used as asked: another config, another owner, or damage."""


class Damaged(RunError):
    """A file that vexp wrote and that is no longer what it was; names the file and the field.

    `fault` is what is wrong with the content; `content` is false where that may be in order and
    only cannot be read here.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        accepted: str = "",
        remedy: str = "",
        fault: str = "",
        content: bool = True,
    ) -> None:
        super().__init__(what, where=where, accepted=accepted, remedy=remedy)
        self.fault = fault or what
        self.content = content


class ClaimLost(RunError):
    """Another worker took this run over; nothing more may be written to it."""


class StorageError(VexpError):
    """The disk refused a write (full, read-only, no permission); nothing published was touched."""


class ProcessLost(VexpError):
    """A process of a run on several processes failed, was killed or fell silent.

    `kind` is the kind of failure (`vexp.runs.failure`) that the run ends in by it.
    """

    kind = "infra"


class EngineFailed(VexpError):
    """What generates the tokens broke down; the last checkpoint is intact."""


class Interrupted(VexpError):
    """Stopped on request (Ctrl-C or SIGTERM) after saving; the same command goes on from there."""

    exit_code = 130


class Pruned(VexpError):
    """Stopped for good by a search's pruner, after saving; its trial counts as finished."""


def suggest(word: str, known: Iterable[str], *, noun: str = "") -> str:
    """A sentence that names the close matches of `word` among `known`, and the rest.

    Long lists are cut at 20 names with a total.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    rest = [name for name in names if name not in close]
    shown: Sequence[str] = rest[: max(0, 20 - len(close))]
    more = f", … {len(names)} in all" if len(shown) < len(rest) else ""
    label = f"{noun}: " if noun else ""
    if close:
        also = f"   (also: {', '.join(shown)}{more})" if shown else ""
        return f"did you mean {' or '.join(map(repr, close))}?{also}"
    return f"accepted {label}{', '.join(shown)}{more}" if names else "there are none"


def indefinite(noun: str) -> str:
    """`noun` with its article: "a reward", "an algorithm"."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
