"""What the verbs of `turnout node` do."""

from __future__ import annotations

import asyncio

from turnout.cli import output, session, waiting
from turnout.cli.exits import NotThere, WaitedTooLong
from turnout.cli.session import Session
from turnout.core.catalog import NodeInfo
from turnout.core.record import JobState
from turnout.core.routing import spelled
from turnout.errors import InvalidValue

_LOOK_S = 0.2


async def ls(s: Session) -> int:
    found = await s.client.nodes()
    rows = [
        (
            node.id,
            node.host,
            str(node.pid),
            node.version,
            f"{node.running}/{node.slots}",
            _state(node),
            output.age(node.started_at, s.now),
            output.ago(node.seen_at, s.now),
            ", ".join(node.activities),
            ", ".join(node.workflows),
            spelled(node.properties),
        )
        for node in found
    ]
    headers = ["node", "host", "pid", "version", "jobs", "state", "up", "seen", "activities", "workflows", "properties"]
    s.show(found, lambda: output.table(headers, rows))
    return 0


def _state(node: NodeInfo) -> str:
    if node.draining:
        return "draining"
    return "refused" if node.refused else "working"


async def show(s: Session, name: str) -> int:
    """Show a node and what it runs."""
    node = await _find(s, name)
    jobs = [job async for job in s.client.jobs(state=JobState.running, node=node.id)]
    value = {**node.to_dict(), "jobs": [job.to_dict() for job in jobs]}
    rows = [
        (
            job.id,
            job.activity,
            str(job.attempt),
            output.ago(job.attempts[-1].started_at if job.attempts else None, s.now),
        )
        for job in jobs
    ]
    facts = [
        ("node", node.id),
        ("host", f"{node.host}, process {node.pid}"),
        ("version", node.version),
        ("state", _state(node)),
        ("refused", node.refused or None),
        ("up", output.age(node.started_at, s.now)),
        ("seen", output.ago(node.seen_at, s.now)),
        ("jobs", f"{node.running} of {node.slots}" + (f", {node.waiting} wait for other jobs" if node.waiting else "")),
        ("activities", ", ".join(node.activities)),
        ("workflows", ", ".join(node.workflows)),
        ("properties", spelled(node.properties)),
    ]
    table = ["", *output.table(["job", "activity", "attempt", "since"], rows)] if rows else []
    s.show(value, lambda: [*output.fields(facts), *table])
    return 0


def drain(name: str, *, wait: bool, timeout_s: float | None) -> int:
    """Ask a node to drain, and wait until it has left, or for so many seconds, if that is wanted.

    NotThere when it does not answer, WaitedTooLong when it has not left in time.
    """

    async def work(s: Session) -> int:
        node = await _find(s, name)
        if not await s.client.drain_node(node.id):
            raise NotThere(f"node {node.id} does not answer: is it just dying, or cut off?")
        if wait:
            waits.said = f"node {node.id} goes on draining"
            await _until_it_has_left(s, node.id, timeout_s)
            waits.ends()
        state = "gone" if wait else "draining"
        s.show({"id": node.id, "state": state}, lambda: [f"{node.id}  {state}"])
        return 0

    with waiting.interruptible() as waits:
        return session.run(work)


async def _until_it_has_left(s: Session, node_id: str, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while await s.client.store.nodes.get(node_id) is not None:
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise WaitedTooLong(f"node {node_id} still drains after {timeout_s:g} s; it goes on") from None


async def _find(s: Session, name: str) -> NodeInfo:
    """The living node of this id, or the only one of this name. NotThere, or InvalidValue for several."""
    every = await s.client.nodes()
    found = [node for node in every if node.id == name] or [node for node in every if node.name == name]
    if not found:
        known = ", ".join(node.id for node in every) or "none"
        raise NotThere(f"no node {name} lives; those that do are: {known}")
    if len(found) > 1:
        raise InvalidValue(f"several nodes are called {name}: name one of {', '.join(node.id for node in found)}")
    return found[0]
