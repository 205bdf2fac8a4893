"""`turnout fault`: the dead letters of jobs that faulted."""

from __future__ import annotations

import datetime as dt

import click

from turnout.cli.options import Since, Verbs


@click.group(cls=Verbs)
def fault() -> None:
    """The dead letters of jobs that faulted."""


@fault.command("ls")
@click.option("--activity", metavar="NAME", help="Of this activity.")
@click.option("--since", type=Since(), metavar="WHEN", help="Faulted since: 2h, 7d, or an instant.")
def ls(activity: str | None, since: dt.datetime | float | None) -> int:
    """List the dead letters, the oldest first."""
    from turnout.cli import catalog, session

    return session.run_listing(lambda s: catalog.faults(s, activity, since))


@fault.command()
@click.argument("id_", metavar="ID")
@click.option("--activity", metavar="NAME", help="The job's activity, where an id alone says too little.")
def show(id_: str, activity: str | None) -> int:
    """Show the newest dead letter of a job."""
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.fault(s, id_, activity))
