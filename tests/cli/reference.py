"""The reference part of docs/cli.md, made from the commands themselves.

python -m tests.cli.reference     # writes it anew
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from turnout.cli.main import root

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
MARK = "<!-- From here on written by `python -m tests.cli.reference`. -->\n"
WIDTH = 100


def commands(command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[str, click.Context]]:
    """Every command below this one, itself first, by its full name."""
    settings = {**command.context_settings, "max_content_width": WIDTH}  # as a call on the command line has them
    context = click.Context(command, info_name=command.name, parent=parent, **settings)
    context.terminal_width = WIDTH
    yield context.command_path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, context)


def reference() -> str:
    parts = [MARK]
    for path, context in commands(root):
        parts.append(f"\n## {path}\n\n```text\n{context.get_help().rstrip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + reference())
