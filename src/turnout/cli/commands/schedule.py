"""`turnout schedule`: run activities and workflows again and again, by cron or at intervals."""

from __future__ import annotations

import datetime as dt

import click

from turnout.cli.commands.shared import without_none
from turnout.cli.options import Duration, Instant, Properties, Verbs

_OVERLAPS = ["skip", "queue", "allow", "cancel"]
_CATCH_UPS = ["one", "none", "all"]


@click.group(cls=Verbs)
def schedule() -> None:
    """Run activities and workflows again and again, by cron or at intervals."""


@schedule.command()
@click.argument("name")
@click.argument("activity")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--cron", metavar="CRON", help="Five fields, or six with seconds first: '0 3 * * *', or @daily.")
@click.option("--every", type=Duration(), help="At intervals instead: 90, 2m, 1h30m.")
@click.option("--timezone", metavar="ZONE", help="Where the cron's times are meant: Europe/Berlin. By default UTC.")
@click.option("--start", type=Instant(), metavar="INSTANT", help="Not before this instant: 2026-01-31T12:00:00Z.")
@click.option("--end", type=Instant(), metavar="INSTANT", help="Not after this instant.")
@click.option("--overlap", type=click.Choice(_OVERLAPS), help="What to do while the run before goes on.")
@click.option("--catch-up", type=click.Choice(_CATCH_UPS), help="Which missed ticks run after a downtime or a pause.")
@click.option("--jitter", type=Duration(), help="Begin each run up to so much later.")
@click.option("--require", cls=Properties, multiple=True, metavar="NAME=VALUE", help="What its runs' node must have.")
@click.option("--priority", type=click.IntRange(1, 5), help="Whether its runs start before others: 1 first.")
@click.option("--workflow", is_flag=True, help="ACTIVITY is the name of a workflow.")
def add(
    name: str,
    activity: str,
    payload: str | None,
    cron: str | None,
    every: float | None,
    timezone: str | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    overlap: str | None,
    catch_up: str | None,
    jitter: float | None,
    require: dict[str, str] | None,
    priority: int | None,
    workflow: bool,
) -> int:
    """Run ACTIVITY by the schedule NAME, which replaces one of this name.

    JSON is its payload: as an argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout schedule add nightly report '{"of": "sales"}' --cron '0 3 * * *' --timezone Europe/Berlin
    """
    from turnout.cli import schedules

    plan = {"cron": cron, "every": every, "timezone": timezone, "start": start, "end": end, "overlap": overlap}
    plan |= {"catch_up": catch_up, "jitter": jitter}
    options = without_none({"requires": require, "priority": priority})
    if workflow and options:
        raise click.UsageError("--require and --priority are for jobs: a workflow runs on every worker that knows it")
    return schedules.add(name, activity, payload, without_none(plan), None if workflow else options)


@schedule.command("ls")
def ls() -> int:
    """List the schedules, with their next time and their last run."""
    from turnout.cli import schedules, session

    return session.run_listing(schedules.ls)


@schedule.command()
@click.argument("name")
def show(name: str) -> int:
    """Show a schedule: its plan, its next five times, its last ten runs."""
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.show(s, name))


@schedule.command("next")
@click.argument("name")
def next_(name: str) -> int:
    """Show the next five times of a schedule."""
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.coming(s, name))


@schedule.command()
@click.argument("name")
def run(name: str) -> int:
    """Run it now, also while it is paused, and print the run's id.

    The plan stays as it is.
    """
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.run(s, name))


@schedule.command()
@click.argument("name")
@click.option("--start", type=Instant(), metavar="INSTANT", required=True, help="From here on: 2026-01-31T12:00:00Z.")
@click.option("--end", type=Instant(), metavar="INSTANT", required=True, help="Up to here, which has passed.")
def backfill(name: str, start: dt.datetime, end: dt.datetime) -> int:
    """Run the ticks of a time that has passed, and print the runs' ids.

    A tick whose run is there already does not run again.
    """
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.backfill(s, name, start, end))


@schedule.command()
@click.argument("name")
@click.option("--note", default="", help="Why: shown with the schedule.")
def pause(name: str, note: str) -> int:
    """Fire no more until `resume`; runs that have begun go on."""
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.pause(s, name, note))


@schedule.command()
@click.argument("name")
def resume(name: str) -> int:
    """Fire again; missed ticks go by the schedule's --catch-up."""
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.resume(s, name))


@schedule.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> int:
    """Delete schedules; runs that have begun go on."""
    from turnout.cli import schedules, session

    return session.run(lambda s: schedules.rm(s, names))
