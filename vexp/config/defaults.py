"""Which config files take part in a run, in which order and at which place: asked of Hydra.

Hydra's machinery is used without its application: no global state, no `hydra/...` settings (which
would take most of the time), and one more place where options are found, the registry.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vexp.config.folders import load, short
from vexp.errors import ConfigError, Problem
from vexp.registry import KINDS, REGISTRY

_CHOICE = re.compile(r"\$\{[A-Za-z0-9_/.@]+\}")


def defaults_list(
    primary: str, overrides: Sequence[Override], dirs: Sequence[Path]
) -> DefaultsList:
    """The config files of a run; `dirs` are searched in order, then the registry.

    Raises:
        ConfigError: if an option, or a file that a defaults list names, does not exist.
    """
    version.setbase("1.3")
    repository = CachingConfigRepository(_Repository(dirs))
    try:
        return create_defaults_list(
            repository, primary, list(overrides), prepend_hydra=False, skip_missing=False
        )
    except RecursionError as error:
        what = f"the defaults lists behind {primary!r} lead back to themselves"
        raise ConfigError(Problem(what, accepted="a file names other ones only")) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra has these three
        raise ConfigError(_problem(error)) from error


def chooses_files(override: Override, dirs: Sequence[Path]) -> bool:
    """Whether an override takes part in the defaults list, as Hydra tells it; else it sets a value.

    The list depends on nothing but these overrides.
    """
    named = not isinstance(override.value(), dict)
    return named and _Repository(dirs).group_exists(override.key_or_group)


class _Repository(ConfigRepository):
    def __init__(self, dirs: Sequence[Path]) -> None:
        super().__init__(ConfigSearchPathImpl())
        self.sources = [_Files("vexp", f"file://{folder}") for folder in dirs]
        self.sources.append(_Components("vexp", "registry://"))


class _Files(FileConfigSource):
    """The conf files of a folder: what Hydra needs of them, read as every YAML file is.

    Hydra's own reader expands aliases without end and asks resolvers, also for the environment.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        listed = load(file).get("defaults")
        if listed is not None:
            _check_list(listed, file)
        with file.open(encoding="utf-8") as opened:
            head = opened.read(512)
        try:
            header = self._get_header_dict(head)
        except ValueError as error:
            what, accepted = "this header is not understood", "# @package _global_, or none"
            raise ConfigError(Problem(what, where=f"{short(file)}:1", accepted=accepted)) from error
        config = OmegaConf.create({} if listed is None else {"defaults": _plain(listed)})
        return ConfigResult("vexp", self.full_path(), config, header)


def _check_list(listed: Any, file: Path) -> None:
    """Raises:
    ConfigError: for a defaults list that is none, and for `${…}` other than another group's choice.
    """
    where = f"{short(file)}:{load(file).lines['defaults']}"
    if not isinstance(listed, list) or not all(map(_is_entry, listed)):
        what = "`defaults` is a list of options, each by its name or as one `group: option`"
        accepted = "defaults: [name, {/group: option}, {override /group: option}, _self_]"
        raise ConfigError(Problem(what, where=where, accepted=accepted))
    for text in _texts(listed):
        if "${" in _CHOICE.sub("", text):
            raise ConfigError(
                Problem(
                    f"{text!r} is not accepted in a defaults list",
                    where=where,
                    accepted="the name of an option, or ${group}: what is chosen of another group",
                    remedy="resolvers are off; name the option, or choose it on the command line",
                )
            )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return isinstance(entry, str)
    (option,) = entry.values() if len(entry) == 1 else (0,)
    several = isinstance(option, list) and all(isinstance(each, str) for each in option)
    return option is None or isinstance(option, str) or several


def _plain(value: Any) -> Any:
    """Without the lines that a mapping remembers, which OmegaConf does not take."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (str(key), *_texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


class _Components(ConfigSource):
    """Every registered component is an option of its kind: its name, and its own defaults."""

    @staticmethod
    def scheme() -> str:
        return "registry"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in KINDS

    def is_config(self, config_path: str) -> bool:
        kind, _, name = config_path.rstrip("/").partition("/")
        return kind in KINDS and name in REGISTRY.names(kind)

    def load_config(self, config_path: str) -> ConfigResult:
        name = OmegaConf.create({"name": config_path.rpartition("/")[2]})
        return ConfigResult("vexp", "registry://", name, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        kind = config_path.rstrip("/")
        return REGISTRY.names(kind) if kind in KINDS else []


def _problem(error: Exception) -> Problem:
    text = re.sub(r"\n+", "\n", str(error)).strip().splitlines()
    text = [
        line
        for line in text
        if not line.startswith(("Config search path", "\tprovider", "Set the"))
    ]
    return Problem(text[0], accepted="; ".join(line.strip() for line in text[1:4]))
