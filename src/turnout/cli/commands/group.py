"""`turnout group`: many jobs that were submitted as one."""

from __future__ import annotations

import click

from turnout.cli.options import Duration, Verbs


@click.group(cls=Verbs)
def group() -> None:
    """Many jobs that were submitted as one."""


@group.command("ls")
def ls() -> int:
    """List the groups, newest first, with the states of their jobs."""
    from turnout.cli import groups, session

    return session.run_listing(groups.ls)


@group.command()
@click.argument("id_", metavar="ID")
def show(id_: str) -> int:
    """Show how far a group is, and which job follows it."""
    from turnout.cli import groups, session

    return session.run(lambda s: groups.show(s, id_))


@group.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Why: kept with each job.")
def cancel(ids: tuple[str, ...], reason: str) -> int:
    """Ask every job of a group to end that has not."""
    from turnout.cli import groups, session

    return session.run(lambda s: groups.cancel(s, ids, reason))


@group.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to wait; the group goes on after that.")
def results(id_: str, timeout: float | None) -> int:
    """Wait for a group, and print how each job has ended, in order."""
    from turnout.cli import groups

    return groups.results(id_, timeout)
