"""`turnout`: the root command. Subcommands are imported when they are asked for."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from turnout.cli import exits, terminal
from turnout.cli.options import Verbs

_COMMANDS = {
    "dev": "turnout.cli.commands.worker:dev",
    "worker": "turnout.cli.commands.worker:worker",
    "supervisor": "turnout.cli.commands.supervisor:supervisor",
    "job": "turnout.cli.commands.job:job",
    "workflow": "turnout.cli.commands.workflow:workflow",
    "schedule": "turnout.cli.commands.schedule:schedule",
    "group": "turnout.cli.commands.group:group",
    "node": "turnout.cli.commands.node:node",
    "activity": "turnout.cli.commands.activity:activity",
    "limit": "turnout.cli.commands.limit:limit",
    "fault": "turnout.cli.commands.fault:fault",
    "setup": "turnout.cli.commands.server:setup",
    "doctor": "turnout.cli.commands.server:doctor",
}


class _ReaderGone(Exception):
    """Whoever read our output has enough of it."""


class _Root(Verbs):
    """Knows its subcommands by name, and imports one when it is needed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would make a failure of it
            raise _ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from turnout.version import version

        click.echo(f"turnout {version()}")
        context.exit()


@click.command("turnout", cls=_Root, epilog=exits.EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def root() -> None:
    """Durable jobs and workflows; NATS JetStream is the only moving part."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        colour = False if terminal.plain() else None  # None: as the stream is
        result: Any = root.main(args=arguments, prog_name="turnout", standalone_mode=False, color=colour)
        sys.stdout.flush()
        return int(result or 0)
    except click.ClickException as error:
        error.show()
        return exits.USAGE if isinstance(error, click.UsageError) else exits.FAILED
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        # The interpreter must not find out once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except Exception as error:  # what is no error of ours is raised again
        return _known(error)


def _known(error: Exception) -> int:
    from turnout.errors import TurnoutError

    if isinstance(error, TurnoutError):
        return exits.complain(error)
    raise error


def _open_standard_streams() -> None:
    """Give those that were closed to nobody: the next file or socket would get their number, and be written to."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def main() -> NoReturn:
    """The console script."""
    gc.set_threshold(20_000, 10, 10)  # half of the time goes into imports, none of which are garbage
    _open_standard_streams()
    # What a terminal can't show is shown escaped: an odd character in a job must not be the end of a listing.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run())
