"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

overrides_argument = click.argument("overrides", nargs=-1, metavar="[OVERRIDE]...")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def config_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--config-dir`, may be given several times; ./conf is always searched as well."""
    return click.option(
        "--config-dir",
        "config_dirs",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A folder with further conf files (groups as in conf/); searched first.",
    )(function)


results_option = click.option(
    "--results-dir",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where runs are kept.",
)
