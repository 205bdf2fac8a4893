"""Jobs in any state, stored as workers and clients leave them, but without running anything."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any

import attrs

from tests.support.values import changed, job_record
from turnout import Client, wire
from turnout.core.failure import ErrorInfo
from turnout.core.record import AttemptRecord, JobRecord, JobState, Outcome, Token
from turnout.core.spec import Body, SubmitOptions

NODES = ("alpha-000001", "beta-000002")
_TOGETHER = 2_000


def record(job_id: str, state: str, submitted_at: float, **changes: Any) -> JobRecord:
    """A record of this state, with the fields that such a one has."""
    node = changes.pop("node", NODES[0])
    labels = changes.pop("labels", {})
    found = job_record(
        id=job_id,
        activity="noop",
        state=JobState(state),
        submitted_at=submitted_at,
        payload=Body(text='{"state":"faulted"}', size=19),
        options=SubmitOptions(labels=labels),
        trace_id="0" * 31 + "1",
    )
    if found.state in (JobState.running, JobState.retrying, JobState.completed):
        outcome = {"running": Outcome.running, "retrying": Outcome.faulted}.get(state, Outcome.completed)
        found = attrs.evolve(
            found,
            token=Token(node, 1, 1, "nonce"),
            attempt=1,
            attempts=(AttemptRecord(1, 1, node, submitted_at, outcome),),
            started_at=submitted_at,
        )
    if found.state is JobState.faulted:
        found = attrs.evolve(found, error=ErrorInfo("ValueError", "no"), reason="failed")
    if found.state.final:
        found = attrs.evolve(found, finished_at=submitted_at + 1)
    if found.state is JobState.scheduled:
        found = attrs.evolve(found, due_at=submitted_at + 86_400)
    return changed(found, **changes)


async def store(client: Client, records: Iterable[JobRecord]) -> None:
    """Store the records, pipelined and in this order, whatever is there."""
    connection, names = client.store.connection, client.store.names
    waiting: list[asyncio.Future[Any]] = []
    for each in records:
        headers = {"Nats-TTL": "604800s"} if each.state.final else {}
        subject = names.record(each.activity, each.id)
        waiting.append(connection.store_nowait(subject, wire.dump_record(each), headers))
        if len(waiting) == _TOGETHER:
            await asyncio.gather(*waiting)
            waiting = []
    await asyncio.gather(*waiting)


async def put(client: Client, job: JobRecord) -> None:
    """Put the job's message, or its timer, into the work stream."""
    queue, nonce = client.store.queue, secrets.token_hex(4)
    if job.state is JobState.scheduled:
        await queue.schedule(job.spec, job.due_at or 0.0, nonce)
    elif job.generation > 1:
        await queue.replace(job.spec, 0, 0, nonce)
    else:
        await queue.publish(job.spec, nonce)
