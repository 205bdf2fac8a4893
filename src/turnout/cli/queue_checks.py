"""What `turnout doctor` says of the queues of activities: who is paused, which nobody works on, what is stuck."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import attrs

from turnout.cli import output, pasting
from turnout.cli.checks import Check
from turnout.cli.consumer_checks import consumers_of
from turnout.cli.stray_checks import stray_jobs
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.nats.connection import Connection
from turnout.nats.pages import forward
from turnout.nats.stream import Stream
from turnout.store.names import Names, activity_of, lane
from turnout.store.pauses import Pauses

_RECOUNT_AFTER_S = 0.5


@attrs.frozen
class _Queue:
    """An activity's messages: `total` in the stream, `known` to its consumer (waiting or handed over)."""

    total: int
    known: int

    @property
    def stuck(self) -> int:
        return max(0, self.total - self.known)


async def queue_checks(
    connection: Connection, names: Names, nodes: Sequence[NodeInfo], activities: Sequence[ActivityInfo]
) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    queues, stray = await _measure(connection, names)
    for check in stray_jobs(names.ns, names.work, stray):
        yield check
    if any(queue.stuck for queue in queues.values()):
        # Jobs move while they are counted, so counts only raise a suspicion.
        queues = await _recount(connection, names, queues)
    queues = _together(queues)
    worked_on = {name for node in nodes for name in node.activities}
    declared = {activity.name for activity in activities}
    fine = not stray
    for name, pause in sorted((await Pauses(connection, names).held()).items()):
        note = f": {pause.note}" if pause.note else ""
        remedy = f"when its jobs may run again: {pasting.command(f'activity resume {name}')}"
        yield Check("queues", "note", f"{name} is paused{note}", remedy)
    for name in sorted(declared | set(queues)):
        queue = queues.get(name, _Queue(0, 0))
        if name not in worked_on and queue.total:
            never = "" if name in declared else " (and none ever did: is the name right?)"
            found = f"{_jobs(queue.total)} of {name} in the queue, and no node works on it{never}"
            yield Check("queues", "wrong", found, f"start a worker for it: {pasting.command('worker MODULE')}")
            fine = False
        elif name not in worked_on:
            yield Check("queues", "note", f"no node works on {name}; no job of it waits")
        if queue.stuck:
            found = f"{_jobs(queue.stuck)} of {name} stuck: their deliveries are used up, or they were swallowed"
            yield Check("queues", "wrong", found, "a living node requeues them after two leases: is there one?")
            fine = False
    if fine:
        total = sum(queue.total for queue in queues.values())
        yield Check("queues", "ok", f"{_jobs(total)} on their way, none stuck")


def _together(lanes: Mapping[str, _Queue]) -> dict[str, _Queue]:
    """The queue of each activity: those of its lanes."""
    queues: dict[str, _Queue] = {}
    for name, queue in lanes.items():
        activity = activity_of(name)[0]
        before = queues.get(activity, _Queue(0, 0))
        # What one lane's consumer knows too much of does not make up for what is stuck in another.
        queues[activity] = _Queue(before.total + queue.total, before.known + min(queue.known, queue.total))
    return queues


async def _recount(connection: Connection, names: Names, queues: Mapping[str, _Queue]) -> dict[str, _Queue]:
    """The queues with what is stuck in them, by which messages there are.

    A message that the consumer had handed over when it was asked, and that is there afterwards, was among those whose
    acknowledgement it waited for then: unless it is stuck.
    """
    consumers = await consumers_of(connection, names)
    await asyncio.sleep(_RECOUNT_AFTER_S)
    recounted = dict(queues)
    for name, queue in queues.items():
        consumer = consumers.get(name)
        if consumer is None or not queue.stuck:
            continue
        handed_over = await _up_to(connection, names, name, consumer["delivered"]["stream_seq"])
        stuck = max(0, handed_over - consumer["num_ack_pending"])
        recounted[name] = _Queue(queue.total, queue.total - stuck)
    return recounted


async def _up_to(connection: Connection, names: Names, consumer: str, last: int) -> int:
    """How many messages of a consumer there are up to this sequence."""
    count = 0
    for subject in names.waiting(*activity_of(consumer)):
        async with contextlib.aclosing(forward(connection, names.work, subject)) as pages:
            async for page in pages:
                count += sum(raw.seq <= last for raw in page)
                if page and page[-1].seq > last:
                    break
    return count


async def _measure(connection: Connection, names: Names) -> tuple[dict[str, _Queue], dict[str, int]]:
    """The queue of each lane; and the subjects that name no activity, with how many messages each has."""
    totals: Counter[str] = Counter()
    stray: dict[str, int] = {}
    async for subject, count in Stream(connection, names.work).subjects(names.all_jobs):
        place = names.place_of(subject)
        if place is not None:
            totals[lane(place.activity, place.lane)] += count
        else:
            stray[subject] = count
    consumers = await consumers_of(connection, names)
    queues = {}
    for name, total in totals.items():
        consumer = consumers.get(name)
        # Without a consumer all of them wait for the first worker.
        known = total if consumer is None else consumer["num_pending"] + consumer["num_ack_pending"]
        queues[name] = _Queue(total, known)
    return queues, stray


def _jobs(count: int) -> str:
    return output.several(count, "job")
