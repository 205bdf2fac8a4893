"""`turnout workflow`: start workflows, ask about them, and act on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from turnout.cli.commands.shared import JAEGER, YES, begins, either, filtered, of_state
from turnout.cli.options import Duration, LinesVerb, Since, Verbs, given

if TYPE_CHECKING:  # what waits is loaded once a verb runs, so that the help is quick
    from turnout.cli.waiting import Patience

_STATES = ["scheduled", "running", "stuck", "completed", "faulted", "cancelled", "terminated"]


@click.group(cls=Verbs)
def workflow() -> None:
    """Start workflows, ask about them, and act on them."""


@workflow.command()
@click.argument("name")
@click.argument("payload", required=False)
@begins("workflow")
def start(name: str, payload: str | None, options: dict[str, Any], patience: Patience) -> int:
    """Start a workflow of NAME and print its id.

    PAYLOAD is JSON: as an argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout workflow start order '{"sku": "a"}' --id o-17 --follow
    """
    from turnout.cli import workflows

    return workflows.start(name, payload, options, patience)


_filtered = filtered(
    {
        "state": of_state(_STATES),
        "name": click.option("--name", metavar="NAME", help="Of this name."),
        "label": click.option("--label", metavar="KEY[=VALUE]", help="With this label."),
        "parent": click.option("--parent", metavar="ID", help="Children of this workflow."),
        "since": click.option("--since", type=Since(), metavar="WHEN", help="Started since: 2h, 7d, or an instant."),
        "schedule": click.option("--schedule", metavar="NAME", help="Runs of this schedule."),
    }
)


def _either(ids: tuple[str, ...], filters: Mapping[str, Any]) -> bool:
    return either(ids, filters, "which workflows? Name ids, or filters: --state, --name, --label, --since, ...")


@workflow.command("ls")
@_filtered
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many at most; 0: all.")
def ls(filters: dict[str, Any], limit: int) -> int:
    """List workflows, the newest start first."""
    from turnout.cli import session, workflows

    return session.run_listing(lambda s: workflows.ls(s, filters, limit))


@workflow.command()
@click.argument("id_", metavar="ID")
def show(id_: str) -> int:
    """Show where a workflow stands, and what it waits for.

    Since when, and on which line of its code, is shown with it.
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.show(s, id_))


@workflow.command(cls=LinesVerb)
@click.argument("id_", metavar="ID")
def history(id_: str) -> int:
    """Show what has happened to a workflow, event by event.

    With `-o jsonl` the records are printed, one a line: what `turnout workflow replay --file` reads.
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.history(s, id_, jsonl=given().get("output") == "jsonl"))


@workflow.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to wait for the end; 0: not at all. By default for ever.")
def result(id_: str, timeout: float | None) -> int:
    """Wait for a workflow's end and print its result, as JSON."""
    from turnout.cli import workflows

    return workflows.result(id_, timeout)


@workflow.command()
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=Duration(), help="How long to follow; the workflow goes on after that.")
def follow(id_: str, timeout: float | None) -> int:
    """Show what a workflow waits for, until it ends.

    The exit code tells how it did.
    """
    from turnout.cli import workflows

    return workflows.follow(id_, timeout)


@workflow.command()
@click.argument("id_", metavar="ID")
@click.argument("name", metavar="NAME")
@click.argument("payload", metavar="[JSON]", required=False)
def signal(id_: str, name: str, payload: str | None) -> int:
    """Send a workflow the signal NAME.

    JSON is its payload: as an argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout workflow signal o-17 approve '{"by": "ann"}'
    """
    from turnout.cli import session, workflows
    from turnout.cli.submitting import read_payload

    body = read_payload(payload)
    return session.run(lambda s: workflows.signal(s, id_, name, body))


@workflow.command()
@click.argument("id_", metavar="ID")
@click.argument("name", metavar="NAME")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--timeout", type=Duration(), help="How long to wait for an answer; by default 10 s.")
def query(id_: str, name: str, payload: str | None, timeout: float | None) -> int:
    """Ask a workflow the query NAME, and print the answer as JSON.

    A worker of the workflow answers, also for one that is stuck or has ended. JSON is the query's payload: as an
    argument, `-` for stdin, or @FILE; without one it is {}.

    \b
      turnout workflow query c-1 total
    """
    from turnout.cli import session, workflows
    from turnout.cli.submitting import read_payload

    body = read_payload(payload)
    return session.run(lambda s: workflows.query(s, id_, name, body, timeout))


@workflow.command()
@click.argument("id_", metavar="ID")
@click.argument("name", metavar="NAME")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--id", "update_id", metavar="UPDATE", help="The update's own id: sent twice, it is done once.")
@click.option("--timeout", type=Duration(), help="How long to wait for the answer; the update goes on after that.")
def update(id_: str, name: str, payload: str | None, update_id: str | None, timeout: float | None) -> int:
    """Send a workflow the update NAME, wait, and print the answer as JSON.

    It is stored at once, and done as soon as a worker lives. JSON is its payload: as an argument, `-` for stdin, or
    @FILE; without one it is {}.

    \b
      turnout workflow update c-1 checkout '{"card": "4242"}' --id order-17
    """
    from turnout.cli import workflows
    from turnout.cli.submitting import read_payload

    body = read_payload(payload)
    return workflows.update(id_, name, body, workflows.Asked(update_id, timeout))


@workflow.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def resume(ids: tuple[str, ...]) -> int:
    """Try stuck or pinned workflows again now.

    They are tried again by themselves when other code is deployed, and now and then. One that is pinned to a build of
    which no worker lives, or that got stuck with it, goes on with any other.
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.resume(s, ids))


@workflow.command()
@click.argument("id_", metavar="ID")
@JAEGER
def trace(id_: str, jaeger: str | None) -> int:
    """Show what a workflow's newest run did and waited for, and how long.

    Times count from the begin of the run. It is read from the history: no collector is asked. An activity is shown
    with its job, for `turnout job trace`.
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.trace(s, id_, jaeger))


@workflow.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", default="", help="Why: kept with the workflow.")
@_filtered
@YES
def cancel(ids: tuple[str, ...], reason: str, filters: dict[str, Any], yes: bool) -> int:
    """Ask workflows to end, by their ids or all that match.

    Their code sees a cancellation and may clean up.

    \b
      turnout workflow cancel --name order --label region=eu --reason 'wrong prices'
    """
    from turnout.cli import bulk, session, workflows

    if not _either(ids, filters):
        return bulk.act("cancel", filters, yes=yes, more={"reason": reason}, kind=bulk.WORKFLOWS)
    return session.run(lambda s: workflows.cancel(s, ids, reason))


@workflow.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", default="", help="Why: kept with the workflow.")
@_filtered
@YES
def terminate(ids: tuple[str, ...], reason: str, filters: dict[str, Any], yes: bool) -> int:
    """End workflows at once, by their ids or all that match.

    No code of theirs runs any more.

    \b
      turnout workflow terminate --state stuck --since 2h
    """
    from turnout.cli import bulk, session, workflows

    if not _either(ids, filters):
        return bulk.act("terminate", filters, yes=yes, more={"reason": reason}, kind=bulk.WORKFLOWS)
    return session.run(lambda s: workflows.terminate(s, ids, reason))


@workflow.command()
@click.argument("id_", metavar="ID")
@click.option("--at", type=int, metavar="N", required=True, help="The first event that is not shared.")
@click.option("--id", "fork_id", metavar="NEW", help="The id of the fork; by default one is made up.")
def fork(id_: str, at: int, fork_id: str | None) -> int:
    """Start a workflow that shares another's history before event N.

    Prints its id. `turnout workflow history ID` numbers the events. Nothing of the shared part is run again; what was
    waited for there is asked for anew. The workflow ID stays as it is, running, stuck or ended.

    \b
      turnout workflow fork o-17 --at 9
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.fork(s, id_, at, fork_id))


@workflow.command()
@click.argument("id_", metavar="ID")
@click.option("--id", "fork_id", metavar="NEW", help="The id of the new workflow; by default one is made up.")
def retry(id_: str, fork_id: str | None) -> int:
    """Go on from where a workflow faulted, as a new workflow.

    Prints its id. It is a fork: what has completed is not run again, the activity or child that it failed by is.
    """
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.retry(s, id_, fork_id))


@workflow.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def delete(ids: tuple[str, ...]) -> int:
    """Forget workflows that have ended."""
    from turnout.cli import session, workflows

    return session.run(lambda s: workflows.delete(s, ids))


@workflow.command()
@click.argument("module")
def check(module: str) -> int:
    """Look in the workflows of MODULE for what would not be the same again.

    Clocks, chance, files, the environment, threads, sets: each with file, line, and what to do instead. The code is
    read, with the functions that it calls of the same package or directory. A line that ends in `# turnout: ok` is left
    alone. Exits 1 when something is found.
    """
    from turnout.cli import workflow_code

    return workflow_code.check(module)


@workflow.command()
@click.argument("module")
@click.option("--id", "id_", metavar="ID", help="The history of this workflow.")
@click.option("--file", metavar="FILE", help="The history in this file, JSON lines; `-`: stdin.")
@click.option("--open", "open_", is_flag=True, help="The histories of all that have not ended.")
def replay(module: str, id_: str | None, file: str | None, open_: bool) -> int:
    """Lead the workflows of MODULE through recorded histories.

    That is for the time before a deploy: nothing is done but what the code does by itself, and no activity runs. Exits
    1, with both sides, where the code asks for something else than it did.

    \b
      turnout workflow replay orders --open
    """
    from turnout.cli import session, workflow_code

    if sum((id_ is not None, file is not None, open_)) != 1:
        raise click.UsageError("say which history: --id ID, --file FILE or --open")
    if file is not None:
        return workflow_code.replay_file(module, file)
    if id_ is not None:
        return session.run(lambda s: workflow_code.replay_id(s, module, id_))
    return session.run(lambda s: workflow_code.replay_open(s, module))


@workflow.command()
def patches() -> int:
    """List the patches that open workflows have asked for.

    A patch without workflows WITHOUT it needs its old way no more; one that is not listed can be removed.
    """
    from turnout.cli import session, workflow_code

    return session.run_listing(workflow_code.patches)
