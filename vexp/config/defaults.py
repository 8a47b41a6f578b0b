"""Which config files take part in a run, in which order and at which place: asked of Hydra.

Hydra's machinery is used without its application: no global state, no `hydra/...` settings (which
would take most of the time), and one more place where options are found, the registry.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from pathlib import Path

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

from vexp.errors import ConfigError, Problem
from vexp.registry import KINDS, REGISTRY


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
    except HydraException as error:
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
        self.sources = [FileConfigSource("vexp", f"file://{folder}") for folder in dirs]
        self.sources.append(_Components("vexp", "registry://"))


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
