"""`turnout`: the root command. Subcommands are imported when they are asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from turnout.cli import exits
from turnout.cli.options import Verbs

_COMMANDS = {
    "dev": "turnout.cli.commands.worker:dev",
    "worker": "turnout.cli.commands.worker:worker",
    "supervisor": "turnout.cli.commands.supervisor:supervisor",
    "job": "turnout.cli.commands.job:job",
    "node": "turnout.cli.commands.node:node",
    "activity": "turnout.cli.commands.activity:activity",
    "fault": "turnout.cli.commands.fault:fault",
    "setup": "turnout.cli.commands.server:setup",
    "doctor": "turnout.cli.commands.server:doctor",
}


class _Root(Verbs):
    """Knows its subcommands by name, and imports one when it is needed."""

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
    """Durable, long-running jobs with NATS JetStream as the only moving part."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        result: Any = root.main(args=arguments, prog_name="turnout", standalone_mode=False)
        sys.stdout.flush()
        return int(result or 0)
    except click.ClickException as error:
        error.show()
        return exits.USAGE if isinstance(error, click.UsageError) else exits.FAILED
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except OSError as error:
        if error.errno != errno.EPIPE:
            return _known(error)
        # Whoever read our output has enough of it. The interpreter must not find out once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except Exception as error:  # what is no error of ours is raised again
        return _known(error)


def _known(error: Exception) -> int:
    from turnout.errors import TurnoutError

    if isinstance(error, TurnoutError):
        return exits.complain(error)
    raise error


def main() -> NoReturn:
    """The console script."""
    # What a terminal can't show is shown escaped: an odd character in a job must not be the end of a listing.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run())
