"""What the verbs of `turnout workflow` do."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import attrs
import click

from turnout.cli import exits, output, pasting, session, several, waiting, workflowtrace, workflowview
from turnout.cli.exits import WaitedTooLong
from turnout.cli.session import Session
from turnout.cli.submitting import read_payload, run_traced
from turnout.cli.waiting import Patience, Wait
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.client.workflows.info import WorkflowInfo
from turnout.core.workflows.values import WorkflowState
from turnout.definition.codec import encode_json
from turnout.definition.handlers import update_ref
from turnout.definition.workflow import workflow_ref
from turnout.errors import InvalidState, TurnoutError, WorkflowEnded

EXITS = {
    WorkflowState.completed: exits.OK,
    WorkflowState.faulted: exits.FAILED,
    WorkflowState.cancelled: exits.CANCELLED,
    WorkflowState.terminated: exits.CANCELLED,
}


def start(name: str, payload: str | None, options: Mapping[str, Any], patience: Patience) -> int:
    """Start a workflow and, if asked, wait for it. Wrong input is refused before anything is connected."""
    ref = workflow_ref(name).options(**dict(options))
    body = read_payload(payload)
    encode_json(body, "payload")

    async def work(s: Session) -> int:
        await _tell_if_nobody_does(s, name)
        handle = await s.client.start(ref, body)
        if patience.waits:
            wait.begins("workflow", handle.id)
            output.note(f"workflow {handle.id} started")
            return await _wait_and_show(s, handle, patience.timeout_s, wait, follow=patience.follow)
        return await _begun(s, handle)

    with waiting.interruptible() as wait:
        return run_traced(work)


async def _tell_if_nobody_does(s: Session, name: str) -> None:
    """Remark that no node has the workflow, as is done for the activity of a job: its name may be misspelt."""
    with contextlib.suppress(TurnoutError):  # a mere remark: whoever may start need not be allowed to look around
        nodes = await s.client.nodes()
        known = sorted({each for node in nodes for each in node.workflows})
        if name not in known:
            others = f" (there are {', '.join(known)})" if known else ""
            output.note(f"no node has a workflow {name} now{others}: it waits until one does")


async def ls(s: Session, filters: Mapping[str, Any], limit: int) -> int:
    """List the workflows that match; says so when there are more than `limit` (0: no limit)."""
    asked = limit + 1 if limit else None
    async with aclosing(s.client.workflows(limit=asked, **filters)) as found:
        infos = [info async for info in found]
    shown = infos[:limit] if limit else infos
    s.show(shown, lambda: workflowview.listing(shown, s.now))
    if len(infos) > len(shown):
        output.note(f"these are the newest {limit}: --limit 0 shows all")
    return 0


async def show(s: Session, workflow_id: str) -> int:
    info = await s.client.workflow(workflow_id).info()
    s.show(info, lambda: workflowview.workflow(info, s.now))
    return 0


async def history(s: Session, workflow_id: str, *, jsonl: bool) -> int:
    events = await s.client.workflow(workflow_id).history()
    if jsonl:
        click.echo(events.to_jsonl(), nl=False)
    else:
        s.show(list(events), lambda: workflowview.history(events))
    return 0


def follow(workflow_id: str, timeout_s: float | None) -> int:
    with waiting.interruptible() as wait:
        wait.begins("workflow", workflow_id)
        return session.run(
            lambda s: _wait_and_show(s, s.client.workflow(workflow_id), timeout_s, wait, follow=True),
        )


def result(workflow_id: str, timeout_s: float | None) -> int:
    """Print the result of a workflow that has completed; say how it ended otherwise."""

    async def work(s: Session) -> int:
        info = await waiting.until_the_end("workflow", s.client.workflow(workflow_id), timeout_s)
        wait.ends()
        return _print_end(info)

    with waiting.interruptible() as wait:
        wait.begins("workflow", workflow_id)
        return session.run(work)


async def signal(s: Session, workflow_id: str, name: str, body: Any) -> int:
    await s.client.workflow(workflow_id).signal(name, body)
    s.show({"id": workflow_id, "signal": name}, lambda: [f"{workflow_id}  signal {name} is stored"])
    return 0


@attrs.frozen
class Asked:
    """What `update` was given beside the payload: the update's id, and how long to wait."""

    id: str | None = None
    timeout_s: float | None = None


async def query(s: Session, workflow_id: str, name: str, body: Any, timeout_s: float | None) -> int:
    """Print what a query returns, as JSON."""
    handle = s.client.workflow(workflow_id)
    if timeout_s is not None:
        handle = handle.with_timeout(timeout_s)
    click.echo(output.dumps(await handle.query(name, body)))
    return 0


def update(workflow_id: str, name: str, body: Any, asked: Asked) -> int:
    """Print what an update returns, as JSON. WaitedTooLong when that takes longer than is waited for."""

    async def work(s: Session) -> int:
        handle = s.client.workflow(workflow_id)
        started = await handle.start_update(name if asked.id is None else update_ref(name).options(id=asked.id), body)
        again = pasting.command(f"workflow update {workflow_id} {name} --id {started.id}")
        goes_on = f"it goes on, and the same id gets its answer: {again}"
        wait.said = f"update {started.id} of workflow {workflow_id} is not answered yet; {goes_on}"
        try:
            answer = await started.result(timeout=asked.timeout_s)
        except TimeoutError:
            raise WaitedTooLong(wait.said) from None
        wait.ends()
        click.echo(output.dumps(answer))
        return 0

    with waiting.interruptible() as wait:
        return session.run(work)


async def resume(s: Session, ids: Sequence[str]) -> int:
    """Have stuck workflows tried again; one that is not stuck is complained of."""

    async def one(handle: AnyWorkflowHandle) -> WorkflowInfo:
        info = await handle.info()
        if info.state.final:
            raise WorkflowEnded(f"workflow {handle.id} has ended: it is {info.state}")
        if info.state is not WorkflowState.stuck and not info.pinned:
            raise InvalidState(f"workflow {handle.id} is {info.state}: only a stuck one can be resumed")
        await handle.resume()
        return info

    return await several.each(s, _handles(s, ids), one, lambda info: f"{info.id}  is tried again")


async def trace(s: Session, workflow_id: str, jaeger: str | None) -> int:
    handle = s.client.workflow(workflow_id)
    found = workflowtrace.trace_of(await handle.info(), await handle.history(), s.now, jaeger)
    if s.json:
        s.show(found, list)
    else:
        workflowtrace.show(found)
    return 0


def _handles(s: Session, ids: Sequence[str]) -> list[AnyWorkflowHandle]:
    return [s.client.workflow(workflow_id) for workflow_id in ids]


async def cancel(s: Session, ids: Sequence[str], reason: str) -> int:
    async def one(handle: AnyWorkflowHandle) -> WorkflowInfo:
        await handle.cancel(reason)
        return await handle.info()

    return await several.each(s, _handles(s, ids), one, lambda info: f"{info.id}  {info.state}  (asked to stop)")


async def terminate(s: Session, ids: Sequence[str], reason: str) -> int:
    async def one(handle: AnyWorkflowHandle) -> WorkflowInfo:
        await handle.terminate(reason)
        return await handle.info()

    return await several.each(s, _handles(s, ids), one, lambda info: f"{info.id}  {info.state}")


async def fork(s: Session, workflow_id: str, at: int, fork_id: str | None) -> int:
    """Print the id of a workflow that shares the events before this one."""
    return await _begun(s, await s.client.workflow(workflow_id).fork(at, fork_id))


async def retry(s: Session, workflow_id: str, fork_id: str | None) -> int:
    """Print the id of a workflow that goes on from where this one faulted."""
    return await _begun(s, await s.client.workflow(workflow_id).retry(fork_id))


async def _begun(s: Session, handle: AnyWorkflowHandle) -> int:
    if s.json:
        s.show(await handle.info(), list)
    else:
        click.echo(handle.id)
    return 0


async def delete(s: Session, ids: Sequence[str]) -> int:
    async def one(handle: AnyWorkflowHandle) -> dict[str, Any]:
        await handle.delete()
        return {"id": handle.id, "deleted": True}

    return await several.each(s, _handles(s, ids), one, lambda deleted: f"{deleted['id']}  deleted")


async def _wait_and_show(
    s: Session, handle: AnyWorkflowHandle, timeout_s: float | None, wait: Wait, *, follow: bool
) -> int:
    info = await waiting.until_the_end("workflow", handle, timeout_s, _tell if follow else lambda _: None)
    wait.ends()
    if s.json:
        s.show(info, list)
        return EXITS[info.state]
    return _print_end(info)


def _tell(info: WorkflowInfo) -> None:
    waits = workflowview.waits(info)
    details = output.one_line(info.details, 80) if info.details else ""
    output.note("  ".join(part for part in (workflowview.state(info), waits, details) if part))


def _print_end(info: WorkflowInfo) -> int:
    if info.state is WorkflowState.completed:
        click.echo(output.dumps(info.result))
        return 0
    output.note("\n".join(workflowview.end(info)))
    return EXITS[info.state]
