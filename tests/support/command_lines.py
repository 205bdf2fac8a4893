"""Whether a line that somebody would type is one that `turnout` takes."""

from __future__ import annotations

import click

from turnout.cli.main import root


def check_options(words: list[str]) -> None:
    """Parse a command line as `turnout` does, through its groups down to the verb; nothing is run."""
    command: click.Command = root
    context = command.make_context("turnout", list(words))
    while isinstance(command, click.Group):
        with context:
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            context = found.make_context(name, rest, parent=context)
            command = found
