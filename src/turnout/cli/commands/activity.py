"""`turnout activity`: what can be submitted, and what is paused."""

from __future__ import annotations

import click

from turnout.cli.options import Duration, Verbs


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


@activity.command()
@click.argument("name")
@click.option("--note", default="", help="Why: shown to whoever asks what its jobs wait for.")
@click.option("--for", "duration", type=Duration(), help="For how long; otherwise until it is resumed.")
def pause(name: str, note: str, duration: float | None) -> int:
    """Begin no job of an activity any more, on any node; those that run go on."""
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.pause(s, name, note, duration))


@activity.command()
@click.argument("name")
def resume(name: str) -> int:
    """Begin the jobs of an activity again."""
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.resume(s, name))
