"""What of the hub runs read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vexp.errors import ConfigError, HubError, Problem
from vexp.hub import Listing, Repository, listed

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


def needs(runs: Iterable[RunSpec]) -> dict[Repository, list[str]]:
    """The repositories that runs read, each with the config keys that name it.

    Raises:
        ConfigError: with everything that cannot be told on this machine.
    """
    found: dict[Repository, list[str]] = {}
    problems: list[Problem] = []
    for run in runs:
        for path, component in run.components():
            try:
                for repository in component.repositories():
                    keys = found.setdefault(repository, [])
                    if path not in keys:
                        keys.append(path)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def look_up(repositories: Mapping[Repository, list[str]]) -> list[Listing]:
    """What the hub has of each.

    Raises:
        HubError: with everything that it has not, or does not give.
    """
    found: list[Listing] = []
    wrong: list[HubError] = []
    for repository in repositories:
        try:
            found.append(listed(repository))
        except HubError as error:
            wrong.append(error)
    if wrong:
        raise wrong[0] if len(wrong) == 1 else _together(wrong)
    return found


def _together(wrong: list[HubError]) -> HubError:
    return HubError("\n\n".join([f"{len(wrong)} repositories cannot be fetched", *map(str, wrong)]))
