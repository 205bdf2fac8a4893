"""The sweep: finds the jobs that nobody will bring back, and says of each to `decide()` what is the matter with it.

It walks the stream, not only the registry: a job may be stuck before its first record. Everything up to the sequence
that a consumer has delivered is in flight, waiting for its delay, or stuck; what lies behind has not been tried yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import attrs

from turnout import fastjson, wire
from turnout.core.events import Event, Expired, Leftover, Lost, Stuck, Verdict
from turnout.core.lifecycle import newer
from turnout.core.loglines import fields, fields_of
from turnout.core.values import Delivery, JobRecord, JobState, MessageRef, Token
from turnout.crashpoints import reach
from turnout.errors import UnreadableRecord
from turnout.jetstream.connection import ApiError
from turnout.jetstream.names import kv_stream
from turnout.jetstream.perform import Performer, Store
from turnout.jetstream.registry import last_values
from turnout.jetstream.suspension import suspended_too

logger = logging.getLogger("turnout.supervisor")

_TOGETHER = 256
_AT_ONCE = 32
LEASES_UNTIL_STUCK = 2
SETTLING_S = 10.0
"""How long an ended job's message may still be on its way out."""


@attrs.frozen
class Consumer:
    """What the server says of an activity's consumer. `idle`: it has pulls waiting, so nothing is left to hand over.
    `pending`: how many messages have not been handed to anybody."""

    activity: str
    delivered_seq: int
    ack_wait_s: float
    idle: bool
    pending: int = 0


@attrs.frozen
class Seen:
    """A job as the sweep last saw it: it is stuck if it still looks the same a while later."""

    message: MessageRef
    revision: int
    since: float


@attrs.frozen
class Nudge:
    """A message to give back until its job's next attempt begins, `left` times more."""

    message: MessageRef
    attempt: int
    left: int = 10


class Sweep:
    """Looks at everything that has been delivered. `confident` tells whether this process may call a node dead (P5)."""

    def __init__(self, store: Store, performer: Performer, confident: Callable[[], bool]) -> None:
        self.unresolved = False
        """Whether there is a job whose owner seems dead, and nothing could be decided yet."""
        self.consumers: list[Consumer] = []
        """All there are, as they were last read."""
        self._store = store
        self._performer = performer
        self._confident = confident
        self._seen: dict[tuple[str, str], Seen] = {}
        self._nudges: dict[tuple[str, str], Nudge] = {}

    async def owners(self, *, vanished: bool = False) -> None:
        """Find running jobs whose node is dead, and count the loss.

        With `vanished`, a node has just gone: jobs that were handed to it may not have been started yet, or may be
        handed to what is left of it again. Those are given back by NAK until somebody takes them.
        """
        living = {node.id for node in await self._store.nodes.living()}
        self.unresolved = False
        orphans: list[tuple[JobRecord, Token]] = []
        async for _, found, record in self._in_flight():
            if record is not None and record.state is JobState.running and record.token is not None:
                if record.token.node not in living:
                    orphans.append((record, record.token))
            elif vanished and (record is None or record.state is JobState.queued or _due(record, self._now())):
                self._nudges[found.activity, found.id] = Nudge(found.message, _attempt(record))
        await self._each(self._owner(record, token) for record, token in orphans)

    async def nudge(self) -> None:
        """Give back again what nobody has taken since: a frozen node swallows what its open pulls are handed."""
        for key, nudge in list(self._nudges.items()):
            try:
                record = (await self._store.registry.load(*key)).record
            except UnreadableRecord:
                del self._nudges[key]
                continue
            waiting = record is None or record.state is JobState.queued or _due(record, self._now())
            if nudge.left == 0 or _attempt(record) != nudge.attempt or not waiting:
                del self._nudges[key]
                continue
            self._nudges[key] = attrs.evolve(nudge, left=nudge.left - 1)
            self._store.queue.give_back(key[0], nudge.message)

    async def everything(self) -> None:
        """Look at every delivered message: the lost, the stuck, the overdue and the left over."""
        await self.owners()
        seen: dict[tuple[str, str], Seen] = {}
        events: list[tuple[Delivery, Event]] = []
        async for consumer, found, record in self._in_flight():
            event = self._judge(consumer, found, record, seen)
            if event is not None:
                events.append((found, event))
        self._seen = seen
        await self._each(self.apply(found.activity, found.id, event) for found, event in events)

    async def alarm(self, activity: str, seq: int) -> bool:
        """A message's deliveries ran out: put the job in anew, or tell its owner (P7). False: ask again later."""
        stored = await self._store.connection.get_message(self._store.names.work, seq=seq)
        if stored is None:
            return True
        named = self._store.names.job_of(stored.subject)
        if named is None:
            return True
        message = MessageRef(stored.seq, stored.time_ns)
        found = wire.parse_delivery(named[0], named[1], message, stored.data, stored.headers)
        try:
            record = (await self._store.registry.load(activity, found.id)).record
        except UnreadableRecord as error:
            logger.warning("job %s is left alone: %s", found.id, error)
            return False
        if record is not None and record.state is JobState.running and record.token is not None:
            answer = await self._store.nodes.ask(record.token, exhausted=True)
            if answer.verdict is Verdict.alive:
                return True
            if answer.verdict is Verdict.silent or not (answer.said or self._confident()):
                return False
            await self.apply(activity, found.id, Lost(token=record.token, now=self._now()))
        await self.apply(activity, found.id, Stuck(now=self._now(), found=found))
        return True

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(
        self, consumer: Consumer, found: Delivery, record: JobRecord | None, seen: dict[tuple[str, str], Seen]
    ) -> Event | None:
        """What is the matter with a delivered message that is not being run, if anything is."""
        now = self._now()
        if record is not None and not newer(found, record):
            if record.state.final:
                ended_s = now - (record.finished_at or 0.0)
                return Leftover(found=found, now=now) if ended_s > SETTLING_S else None
            if record.state is JobState.running:
                return None
            if record.expires_at is not None and now >= record.expires_at:
                return Expired(now=now, found=found)
            if record.due_at is not None and now < record.due_at:
                return None
        elif found.expires_at is not None and now >= found.expires_at:
            return Expired(now=now, found=found)
        key = (found.activity, found.id)
        revision = record.attempt if record is not None else 0
        before = self._seen.get(key)
        if before is None or not found.message.same(before.message) or before.revision != revision:
            before = Seen(found.message, revision, suspended_too())
        seen[key] = before
        lease_s = max(consumer.ack_wait_s, record.rules.lease if record is not None else 0.0)
        # While pulls wait at the consumer the server has nothing to hand over: what is still here won't come by itself.
        if consumer.idle and suspended_too() - before.since > LEASES_UNTIL_STUCK * lease_s:
            return Stuck(now=now, found=found, max_lost=record.rules.max_lost if record is not None else 3)
        return None

    async def _owner(self, record: JobRecord, token: Token) -> None:
        answer = await self._store.nodes.ask(token)
        if answer.verdict is Verdict.alive:
            return
        if answer.verdict is Verdict.silent or not (answer.said or self._confident()):
            self.unresolved = True
            return
        logger.warning(
            "node %s is dead: job %s attempt %d is lost",
            *(token.node, record.id, token.attempt),
            extra=fields_of(record),
        )
        reach("sweep.verdict")
        await self.apply(record.activity, record.id, Lost(token=token, now=self._now()))
        reach("sweep.counted")
        if record.message is not None:
            self._nudges[record.activity, record.id] = Nudge(record.message, record.attempt)

    async def apply(self, activity: str, job_id: str, event: Event) -> None:
        try:
            applied = await self._performer.apply(activity, job_id, event)
            if isinstance(event, Lost) and applied.job.record is not None and applied.job.record.owned_by(event.token):
                self.unresolved = True  # it was written meanwhile: its owner is asked again
        except Exception as error:  # one job that can't be dealt with must not keep us from the others
            self.unresolved = True
            logger.warning(
                "job %s: %s could not be dealt with yet: %s",
                job_id,
                type(event).__name__,
                error,
                extra=fields(job_id, activity),
            )

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _in_flight(self) -> AsyncIterator[tuple[Consumer, Delivery, JobRecord | None]]:
        """Every message that was delivered and is still there, with its record."""
        for consumer in await self._consumers():
            page: list[Delivery] = []
            for subject in (self._store.names.bare(consumer.activity), self._store.names.jobs(consumer.activity, "*")):
                async for found in self._store.queue.scan_subject(subject):
                    if found.message.seq > consumer.delivered_seq:
                        break
                    page.append(found)
                    if len(page) == _TOGETHER:
                        for pair in await self._with_records(page):
                            yield (consumer, *pair)
                        page = []
            for pair in await self._with_records(page):
                yield (consumer, *pair)

    async def _with_records(self, page: list[Delivery]) -> list[tuple[Delivery, JobRecord | None]]:
        if not page:
            return []
        subjects = {self._store.names.record(found.activity, found.id) for found in page}
        stream = kv_stream(self._store.names.jobs_bucket)
        values = {v.subject: v for v in await last_values(self._store.connection, stream, subjects) if v.data}
        pairs: list[tuple[Delivery, JobRecord | None]] = []
        for found in page:
            stored = values.get(self._store.names.record(found.activity, found.id))
            try:
                pairs.append((found, wire.load_record(stored.data) if stored is not None else None))
            except UnreadableRecord as error:
                logger.warning("job %s is left alone: %s", found.id, error)  # and must not keep us from the others
        return pairs

    async def _consumers(self) -> list[Consumer]:
        found: list[Consumer] = []
        total = 1
        offset = 0
        while offset < total:
            try:
                page = await self._store.connection.api(f"CONSUMER.LIST.{self._store.names.work}", {"offset": offset})
            except ApiError as error:
                if error.code == 404:
                    self.consumers = []
                    return []
                raise
            total = page["total"]
            infos: list[dict[str, Any]] = page.get("consumers") or []
            if not infos:
                break
            offset += len(infos)
            found += [
                Consumer(
                    activity=info["name"],
                    delivered_seq=info["delivered"]["stream_seq"],
                    ack_wait_s=info["config"].get("ack_wait", 30e9) / 1e9,
                    idle=info.get("num_waiting", 0) > 0,
                    pending=info.get("num_pending", 0),
                )
                for info in infos
            ]
        self.consumers = found
        return found

    async def _each(self, tasks: Iterable[Any]) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(task: Any) -> None:
            async with gate:
                await task

        await asyncio.gather(*(one(task) for task in tasks))

    def _now(self) -> float:
        return self._store.connection.now()


def _attempt(record: JobRecord | None) -> int:
    return 0 if record is None else record.attempt


def _due(record: JobRecord, now: float) -> bool:
    return record.state is JobState.retrying and now >= (record.due_at or 0.0)


def advisory(data: bytes) -> tuple[str, int] | None:
    """The activity and the sequence that an alarm is about."""
    try:
        body = fastjson.loads(data)
        return str(body["consumer"]), int(body["stream_seq"])
    except (ValueError, KeyError, TypeError):
        return None
