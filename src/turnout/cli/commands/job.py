"""`turnout job`: submit jobs, ask about them, and act on them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import click

from turnout.cli.options import Duration, Instant, Label, Since, Verbs, WebAddress

_STATES = ["scheduled", "queued", "running", "retrying", "completed", "faulted", "cancelled"]


def _of_activity(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--activity", metavar="NAME", help="The job's activity, where an id alone says too little.")(
        command
    )


@click.group(cls=Verbs)
def job() -> None:
    """Submit jobs, ask about them, and act on them."""


@job.command()
@click.argument("activity")
@click.argument("payload", required=False)
@click.option("--id", "id_", metavar="ID", help="The job's id; by default one is made up.")
@click.option("--if-exists", type=click.Choice(["raise", "join"]), help="What to do when the id is taken.")
@click.option("--delay", type=Duration(), help="Not before so long: 90, 2m, 1h30m.")
@click.option("--at", type=Instant(), metavar="INSTANT", help="Not before this instant: 2026-01-31T12:00:00Z.")
@click.option("--expires-in", type=Duration(), help="It must have ended by then, from the submission on.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option("--wait", is_flag=True, help="Wait for the end, and print the result.")
@click.option("--follow", is_flag=True, help="Show the progress until the end, and print the result.")
@click.option("--timeout", type=Duration(), help="How long to wait; the job goes on after that.")
def submit(
    activity: str,
    payload: str | None,
    id_: str | None,
    if_exists: str | None,
    delay: float | None,
    at: dt.datetime | None,
    expires_in: float | None,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    follow: bool,
    timeout: float | None,
) -> int:
    """Submit a job of ACTIVITY and print its id.

    PAYLOAD is JSON: as an argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout job submit convert_video '{"path": "a.mp4"}' --label customer=42 --follow
    """
    from turnout.cli import submitting

    options = {
        "id": id_,
        "if_exists": if_exists,
        "delay": delay,
        "at": at,
        "expires_in": expires_in,
        "labels": dict(labels),
    }
    given = {name: value for name, value in options.items() if value is not None}
    return submitting.submit(activity, payload, given, submitting.Patience(wait, follow, timeout))


@job.command("ls")
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="In this state; may be repeated.")
@click.option("--activity", metavar="NAME", help="Of this activity.")
@click.option("--node", metavar="NODE", help="Running on this node (its id or its name).")
@click.option("--label", metavar="KEY[=VALUE]", help="With this label.")
@click.option("--since", type=Since(), metavar="WHEN", help="Submitted since: 2h, 7d, or an instant.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many at most; 0: all.")
def ls(
    states: tuple[str, ...],
    activity: str | None,
    node: str | None,
    label: str | None,
    since: dt.datetime | float | None,
    limit: int,
) -> int:
    """List jobs, newest first."""
    from turnout.cli import jobs, session

    filters = {"activity": activity, "node": node, "label": label, "since": since}
    return session.run_listing(lambda s: jobs.ls(s, states, filters, limit))


@job.command()
@click.argument("id_", metavar="ID")
@_of_activity
def show(id_: str, activity: str | None) -> int:
    """Show where a job stands, why, and every attempt."""
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.show(s, id_, activity))


@job.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--jaeger",
    type=WebAddress(),
    metavar="URL",
    envvar="TURNOUT_JAEGER_URL",
    help="Where Jaeger's pages are, for a link to the trace there; else $TURNOUT_JAEGER_URL.",
)
@_of_activity
def trace(id_: str, jaeger: str | None, activity: str | None) -> int:
    """Show a job's attempts as a tree, and where its time went.

    Times count from the submission. What a job waited for is told apart: a delay, and then a worker. It is read from
    the job's record: no collector is asked, and it is there also when nobody traced.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.trace(s, id_, activity, jaeger))


@job.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to follow; the job goes on after that.")
@_of_activity
def follow(id_: str, timeout: float | None, activity: str | None) -> int:
    """Show a job's progress until it ends.

    The exit code tells how it did.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.follow(s, id_, activity, timeout))


@job.command()
@click.argument("id_", metavar="ID")
@click.option("--limit", type=click.IntRange(1), help="How many of the last lines; by default all that are kept.")
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt alone.")
@click.option("--follow", is_flag=True, help="Go on with new lines until the job ends; exit by how it did.")
@_of_activity
def logs(id_: str, limit: int | None, attempt: int | None, follow: bool, activity: str | None) -> int:
    """Show what a job has logged, also after its end.

    These are the last lines that its code has given to job.log, of all attempts, on whatever node they ran.
    """
    from turnout.cli import joblogs, session

    if follow:
        return session.run(lambda s: joblogs.follow(s, id_, activity, limit, attempt))
    return session.run(lambda s: joblogs.logs(s, id_, activity, limit, attempt))


@job.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to wait for the end; 0: not at all. By default for ever.")
@_of_activity
def result(id_: str, timeout: float | None, activity: str | None) -> int:
    """Wait for a job's end and print its result, as JSON."""
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.result(s, id_, activity, timeout))


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Why: kept with the job.")
@_of_activity
def cancel(ids: tuple[str, ...], reason: str, activity: str | None) -> int:
    """Cancel jobs.

    One that has not started never will; one that runs is asked to stop.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.cancel(s, ids, activity, reason))


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_of_activity
def retry(ids: tuple[str, ...], activity: str | None) -> int:
    """Run faulted or cancelled jobs again.

    The id stays, the budgets are fresh, and the last checkpoint is kept.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.retry(s, ids, activity))


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_of_activity
def delete(ids: tuple[str, ...], activity: str | None) -> int:
    """Forget jobs that have ended."""
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.delete(s, ids, activity))
