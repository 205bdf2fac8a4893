"""`turnout job`: submit jobs, ask about them, and act on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from turnout.cli.commands.shared import JAEGER, YES, begins, either, filtered, of_state, without_none
from turnout.cli.options import Duration, Properties, Since, Verbs

if TYPE_CHECKING:  # what waits is loaded once a verb runs, so that the help is quick
    from turnout.cli.waiting import Patience

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
@begins("job")
@click.option("--debounce", type=Duration(), help="Not before so long without another one; they are one job.")
@click.option("--debounce-key", metavar="KEY", help="Another one is one with this key; by default, with none.")
@click.option("--expires-in", type=Duration(), help="It must have ended by then, from the submission on.")
@click.option("--start-within", type=Duration(), help="Its first attempt must have begun by then.")
@click.option(
    "--require", "requires", cls=Properties, multiple=True, metavar="NAME=VALUE", help="What its node must have."
)
@click.option("--priority", type=click.IntRange(1, 5), help="Whether it starts before others: 1 first, 3 as usual.")
def submit(activity: str, payload: str | None, options: dict[str, Any], patience: Patience, **further: Any) -> int:
    """Submit a job of ACTIVITY and print its id.

    PAYLOAD is JSON: as an argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout job submit convert_video '{"path": "a.mp4"}' --label customer=42 --follow
    """
    from turnout.cli import submitting

    return submitting.submit(activity, payload, options | without_none(further), patience)


_filtered = filtered(
    {
        "state": of_state(_STATES),
        "activity": click.option("--activity", metavar="NAME", help="Of this activity."),
        "label": click.option("--label", metavar="KEY[=VALUE]", help="With this label."),
        "since": click.option("--since", type=Since(), metavar="WHEN", help="Submitted since: 2h, 7d, or an instant."),
        "workflow": click.option("--workflow", metavar="ID", help="Activities of this workflow."),
        "schedule": click.option("--schedule", metavar="NAME", help="Runs of this schedule."),
        "group": click.option("--group", metavar="ID", help="Members of this group."),
        "error": click.option("--error", metavar="NAME", help="Whose last error is of this class, such as ValueError."),
    }
)
_NODE = click.option("--node", metavar="NODE", help="Running on this node (its id or its name).")


def _either(ids: tuple[str, ...], filters: Mapping[str, Any]) -> bool:
    hint = "which jobs? Name ids, or filters: --state, --activity, --label, --since, ..."
    return either(ids, filters, hint, beside=["activity"])


@job.command("ls")
@_filtered
@_NODE
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many at most; 0: all.")
def ls(filters: dict[str, Any], node: str | None, limit: int) -> int:
    """List jobs, newest first."""
    from turnout.cli import jobs, session

    return session.run_listing(lambda s: jobs.ls(s, {**filters, "node": node}, limit))


@job.command()
@_filtered
@_NODE
def count(filters: dict[str, Any], node: str | None) -> int:
    """Count jobs by their state."""
    from turnout.cli import bulk, session

    return session.run(lambda s: bulk.count(s, {**filters, "node": node}))


@job.command()
@click.argument("id_", metavar="ID")
@_of_activity
def show(id_: str, activity: str | None) -> int:
    """Show where a job stands, why, and every attempt."""
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.show(s, id_, activity))


@job.command()
@click.argument("id_", metavar="ID")
@JAEGER
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
    from turnout.cli import jobs

    return jobs.follow(id_, activity, timeout)


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
    from turnout.cli import job_logs, session

    if follow:
        return job_logs.follow(id_, activity, limit, attempt)
    return session.run(lambda s: job_logs.logs(s, id_, activity, limit, attempt))


@job.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to wait for the end; 0: not at all. By default for ever.")
@_of_activity
def result(id_: str, timeout: float | None, activity: str | None) -> int:
    """Wait for a job's end and print its result, as JSON."""
    from turnout.cli import jobs

    return jobs.result(id_, activity, timeout)


@job.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", default="", help="Why: kept with the job.")
@_filtered
@YES
def cancel(ids: tuple[str, ...], reason: str, filters: dict[str, Any], yes: bool) -> int:
    """Cancel jobs, by their ids or all that match.

    One that has not started never will; one that runs is asked to stop.

    \b
      turnout job cancel --activity convert_video --label customer=42 --reason 'wrong files'
    """
    from turnout.cli import bulk, jobs, session

    if _either(ids, filters):
        return session.run(lambda s: jobs.cancel(s, ids, filters["activity"], reason))
    return bulk.act("cancel", filters, yes=yes, more={"reason": reason})


@job.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--no-checkpoint", is_flag=True, help="Begin without the checkpoint that is kept.")
@_filtered
@YES
def retry(ids: tuple[str, ...], no_checkpoint: bool, filters: dict[str, Any], yes: bool) -> int:
    """Run faulted or cancelled jobs again, by their ids or all that match.

    The id stays, the budgets are fresh, and the last checkpoint is kept.

    \b
      turnout job retry --state faulted --error ConnectionError --since 2h
    """
    from turnout.cli import bulk, jobs, session

    if _either(ids, filters):
        return session.run(lambda s: jobs.retry(s, ids, filters["activity"], checkpoint=not no_checkpoint))
    return bulk.act("retry", filters, yes=yes, more={"checkpoint": not no_checkpoint})


@job.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--unbegun", is_flag=True, help="Those that wait and that nobody has begun, instead of ended ones.")
@_filtered
@YES
def delete(ids: tuple[str, ...], unbegun: bool, filters: dict[str, Any], yes: bool) -> int:
    """Forget jobs that have ended, by their ids or all that match.

    With --unbegun jobs that wait instead, without a trace: the way out where so many wait that the store is full, and
    there is no room to cancel them. One of which an attempt has begun stays, and so does one that a workflow waits for.

    \b
      turnout job delete --unbegun --activity convert_video --label batch=7
    """
    from turnout.cli import bulk, jobs, session

    if _either(ids, filters):
        return session.run(lambda s: jobs.delete(s, ids, filters["activity"], unbegun=unbegun))
    return bulk.act("delete", filters, yes=yes, kind=bulk.UNBEGUN_JOBS if unbegun else bulk.JOBS)


@job.command("set-priority")
@click.argument("priority", metavar="N", type=click.IntRange(1, 5))
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_of_activity
def set_priority(priority: int, ids: tuple[str, ...], activity: str | None) -> int:
    """Let jobs that wait start before others, or after them.

    N is 1 for those that start first, 3 as usual, 5 for the last. One that waits for its time keeps waiting for it.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.set_priority(s, ids, activity, priority))


@job.command("run-now")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_of_activity
def run_now(ids: tuple[str, ...], activity: str | None) -> int:
    """Let jobs that wait start as soon as they can.

    They have priority 1 from then on, and one that waits for a delay or a retry is due at once. A pause of the
    activity, its limits, and nodes that are busy hold them up still.
    """
    from turnout.cli import jobs, session

    return session.run(lambda s: jobs.run_now(s, ids, activity))


@job.command()
@click.argument("job_id", metavar="ID")
@click.argument("value", required=False)
@click.option("--attempt", type=int, metavar="N", help="Only if it is in this attempt.")
@_of_activity
def complete(job_id: str, value: str | None, attempt: int | None, activity: str | None) -> int:
    """Complete a job whose code has left that to others. VALUE is its result: JSON, `-` for stdin, or @FILE."""
    from turnout.cli import outside, session

    return session.run(lambda s: outside.complete(s, s.client.job(job_id, activity), value, attempt))


@job.command()
@click.argument("job_id", metavar="ID")
@click.argument("message", required=False, default="it failed")
@click.option("--fatal", is_flag=True, help="Never retry it.")
@click.option("--attempt", type=int, metavar="N", help="Only if it is in this attempt.")
@_of_activity
def fail(job_id: str, message: str, fatal: bool, attempt: int | None, activity: str | None) -> int:
    """Let a job fail whose code has left that to others. MESSAGE says why."""
    from turnout.cli import outside, session

    return session.run(lambda s: outside.fail(s, s.client.job(job_id, activity), message, fatal, attempt))
