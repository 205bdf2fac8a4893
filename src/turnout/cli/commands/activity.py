"""`turnout activity`: what can be submitted."""

from __future__ import annotations

import click

from turnout.cli.options import Verbs


@click.group(cls=Verbs)
def activity() -> None:
    """What can be submitted, and with what payload."""


@activity.command("ls")
def ls() -> int:
    """List the activities and how many nodes work on each."""
    from turnout.cli import catalog, session

    return session.run_listing(catalog.activities)


@activity.command()
@click.argument("name")
def schema(name: str) -> int:
    """Show the JSON Schemas of payload and result."""
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.schema(s, name))
