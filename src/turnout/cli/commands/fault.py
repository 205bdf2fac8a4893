"""`turnout fault`: the dead letters of jobs that faulted."""

from __future__ import annotations

import datetime as dt

import click

from turnout.cli.commands.shared import YES
from turnout.cli.options import Since, Verbs


@click.group(cls=Verbs)
def fault() -> None:
    """The dead letters of jobs that faulted."""


@fault.command("ls")
@click.option("--activity", metavar="NAME", help="Of this activity.")
@click.option("--since", type=Since(), metavar="WHEN", help="Faulted since: 2h, 7d, or an instant.")
@click.option("--all", "every", is_flag=True, help="Those of jobs that have gone on since, too.")
def ls(activity: str | None, since: dt.datetime | float | None, every: bool) -> int:
    """List the dead letters that wait for somebody, the oldest first.

    A job that was retried or replayed has left the list; its dead letter is kept.
    """
    from turnout.cli import catalog, session

    return session.run_listing(lambda s: catalog.faults(s, activity, since, mended=every))


@fault.command()
@click.argument("id_", metavar="ID")
@click.option("--activity", metavar="NAME", help="The job's activity, where an id alone says too little.")
def show(id_: str, activity: str | None) -> int:
    """Show the newest dead letter of a job."""
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.fault(s, id_, activity))


@fault.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--activity", metavar="NAME", help="Of this activity.")
@click.option("--since", type=Since(), metavar="WHEN", help="Faulted since: 2h, 7d, or an instant.")
@click.option("--label", metavar="KEY[=VALUE]", help="With this label.")
@click.option("--error-type", "--error", metavar="NAME", help="Faulted by an error of this class, such as ValueError.")
@click.option("--all", "every", is_flag=True, help="All of them.")
@YES
def replay(
    ids: tuple[str, ...],
    activity: str | None,
    since: dt.datetime | float | None,
    label: str | None,
    error_type: str | None,
    every: bool,
    yes: bool,
) -> int:
    """Run faulted jobs again, by their ids or by a filter.

    The id stays, the budgets are fresh, and the last checkpoint is kept. A filter takes the jobs whose newest
    dead letter matches and that have not gone on since; on a terminal their number is told and asked about first.
    Beside ids, --activity tells two jobs of one id apart.

    \b
      turnout fault replay --activity convert_video --since 2h --error-type ConnectionError
    """
    filters = {"since": since, "label": label, "error_type": error_type}
    filtered = any(value is not None for value in filters.values())
    if ids and (filtered or every):
        raise click.UsageError("either ids or a filter: not both")
    if not ids and not every and activity is None and not filtered:
        raise click.UsageError("which ones? Name ids, a filter (--activity, --since, --label, --error-type) or --all")
    from turnout.cli import catalog, jobs, session

    if ids:
        return session.run(lambda s: jobs.retry(s, ids, activity))
    return session.run(lambda s: catalog.replay(s, {**filters, "activity": activity}, yes=yes))


@fault.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--activity", metavar="NAME", help="The jobs' activity, where an id alone says too little.")
def drop(ids: tuple[str, ...], activity: str | None) -> int:
    """Remove the dead letters of jobs.

    The jobs themselves stay as they are.
    """
    from turnout.cli import catalog, session

    return session.run(lambda s: catalog.drop(s, ids, activity))
