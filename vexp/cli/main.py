"""Entry point of `vexp`: a lazy command group, and the one place where errors become messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

# command -> (module, one line of help); modules are imported only when their command is used
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Train and evaluate one run here and now; the same command resumes it."),
    "plan": ("plan", "Show what a sweep would run and what exists already."),
    "launch": ("launch", "Start what is missing of a sweep."),
    "status": ("status", "States and progress of a sweep's runs, failures grouped."),
    "retry": ("retry", "Run a sweep's failed runs again."),
    "cancel": ("cancel", "Stop a sweep's workers; runs can be resumed."),
    "eval": ("eval", "Evaluate a run or a checkpoint."),
    "table": ("table", "The table of a sweep, from results alone."),
    "report": ("report", "Table, curves and examples of a sweep as one HTML page."),
    "tokens": ("tokens", "Responses with each token coloured by the credit it gets."),
    "search": ("search", "What a sweep's search found: best, pareto, importance."),
    "show": ("show", "A run's resolved config with the origin of each value."),
    "diff": ("diff", "What differs between two runs."),
    "list": ("list", "Components, one line each, with their fields."),
    "new": ("new", "Write a component file and its test, ready to fill in."),
    "doctor": ("doctor", "What works on this machine, and what a config lacks here."),
    "fetch": ("fetch", "Download what a config reads from the hub, for a machine without one."),
    "convert": ("convert", "Write a published dataset as a table to train on."),
    "annotate": ("annotate", "Find evidence boxes for a dataset."),
    "export": ("export", "Write small portable results of finished runs."),
    "import": ("import_", "Bring exported results back as finished evaluations."),
    "clean": ("clean", "List what can be deleted, and delete it when told to."),
}
HIDDEN: dict[str, str] = dict.fromkeys(("_engine", "_follow", "_run", "_task", "_work"), "work")


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import importlib

        if cmd_name in COMMANDS:
            module = importlib.import_module(f"vexp.cli.{COMMANDS[cmd_name][0]}")
            return module.command  # type: ignore[no-any-return]
        if cmd_name in HIDDEN:
            module = importlib.import_module(f"vexp.cli.{HIDDEN[cmd_name]}")
            return getattr(module, cmd_name.strip("_"))  # type: ignore[no-any-return]
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in {*COMMANDS, *HIDDEN}:
            from vexp.errors import suggest

            ctx.fail(f"there is no command {args[0]!r}: {suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from vexp import __version__

        click.echo(f"vexp {__version__}")
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Overrides follow Hydra's grammar: key=value, group=option, +key=value, ~key. "
    "Set VEXP_DEBUG=1 to see tracebacks.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Print the version.",
)  # fmt: skip
def cli() -> None:
    """Declarative ablations for multimodal reinforcement learning."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 a mistake in the request, 130 stopped."""
    try:
        code: Any = cli.main(args, prog_name="vexp", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `vexp list | head`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (keeps the interpreter's last flush quiet)
        sys.exit(0)
    except Exception as error:
        from vexp.errors import VexpError
        from vexp.masking import mask

        if not isinstance(error, VexpError) or os.environ.get("VEXP_DEBUG"):
            raise
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(mask(str(error)), err=True)
        sys.exit(error.exit_code)
