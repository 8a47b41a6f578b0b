"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vexp.paths import expanded


class UserPathType(click.Path):
    """A path with `~` expanded, which shells leave as it is in `--output=~/x`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value), param, ctx)


overrides_argument = click.argument("overrides", nargs=-1, metavar="[OVERRIDE]...")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def config_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--config-dir`, may be given several times; ./conf is always searched as well."""
    return click.option(
        "--config-dir",
        "config_dirs",
        multiple=True,
        type=UserPathType(),
        help="A folder with further conf files (groups as in conf/); searched first.",
    )(function)


results_option = click.option(
    "--results-dir",
    type=UserPathType(),
    default=Path("results"),
    show_default=True,
    help="Where runs are kept.",
)
