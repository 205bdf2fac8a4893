"""The interpreter: performs what `decide()` wants done, in order, and asks again when the world has moved on.

The one place where a decision meets the server. Whoever applies an event gets one of three answers: it was applied; it
no longer matters (`abandoned`); or an error of the connection, after which only the registry knows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar, assert_never

import attrs

from turnout import crashpoints
from turnout.core.effects import (
    Abandon,
    Ack,
    Ask,
    Drop,
    Effect,
    Letter,
    Nak,
    Notify,
    Publish,
    Remove,
    Replace,
    Save,
    Schedule,
    Unschedule,
)
from turnout.core.events import (
    CancelRequested,
    Event,
    Expired,
    Lost,
    Received,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.frozen import frozen
from turnout.core.lifecycle import decide, newer
from turnout.core.values import Delivery, JobRecord, MessageRef, Token
from turnout.errors import OutcomeUnknown, ServerUnavailable, ServerUnsuitable, StorageRefused
from turnout.jetstream.connection import ApiError, Connection, NoResponders
from turnout.jetstream.letters import Letters
from turnout.jetstream.logs import Logs
from turnout.jetstream.names import Names
from turnout.jetstream.nodes import Nodes
from turnout.jetstream.payloads import THRESHOLD_BYTES, Payloads
from turnout.jetstream.queue import Queue, Taken
from turnout.jetstream.registry import Conflict, Loaded, Registry, Retention
from turnout.telemetry import witness

logger = logging.getLogger("turnout.jetstream")

T = TypeVar("T")

Settle = Callable[[MessageRef, bytes], None]
"""Sends the bytes of a settlement to the ack subject of a message."""

Saved = Callable[[JobRecord | None, JobRecord], None]
"""Is told of a write: the record before, None when there was none, and the record now."""

_PATIENCE_S = (0.05, 5.0)
_DOUBT_S = 2.0
"""How soon to ask again after a node that is silent, by one that can't be sure of itself."""

_TROUBLE = (OutcomeUnknown, ServerUnavailable, StorageRefused, ApiError, NoResponders, ServerUnsuitable)
"""What passes: a stream without a leader does not respond, a server that runs out of disk switches JetStream off."""

_Other = Letter | Nak | Schedule | Replace | Remove | Unschedule | Notify | Drop | Abandon
"""The effects but for those that nearly every job has."""

_FINDING = (CancelRequested, RetryRequested, Expired, Stuck)


@frozen
class Applied:
    """Where a job stands after an event; `effects` are those that were performed last.

    `seq`: where the message lies that was published, if one was and that is known.
    """

    job: Loaded
    effects: tuple[Effect, ...] = ()
    seq: int | None = None

    @property
    def abandoned(self) -> bool:
        """The one who applied the event does not own the attempt any more."""
        return any(isinstance(effect, Abandon) for effect in self.effects)


class _MovedOn(Exception):
    """What an effect rested on is no longer so: read again and decide again."""


@attrs.frozen
class Store:
    """Everything of one namespace over one connection."""

    connection: Connection
    names: Names
    registry: Registry
    queue: Queue
    letters: Letters
    nodes: Nodes
    payloads: Payloads
    logs: Logs

    @classmethod
    def over(cls, connection: Connection, names: Names, retention: Retention | None = None) -> Store:
        return cls(
            connection,
            names,
            Registry(connection, names, retention),
            Queue(connection, names),
            Letters(connection, names),
            Nodes(connection, names),
            Payloads(connection, names),
            Logs(connection, names),
        )


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of `call`, which may be made again: servers that are away or refuse to store are outwaited."""
    pause = _PATIENCE_S[0]
    while True:
        try:
            return await call()
        except _TROUBLE as error:
            logger.info("waiting for the server: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PATIENCE_S[1])


class Performer:
    """Applies events to jobs.

    `settle` sends settlements; the default sends them at once over the connection. `confident` tells whether the caller
    may take a node whose liveness has lapsed for dead (P5). With `patient` it outwaits servers that are away or refuse
    to store: what a worker holds in its hands must not be lost. `saved` is told of each write of a record: what was
    there before, and what is there now.
    """

    def __init__(
        self,
        store: Store,
        *,
        settle: Settle | None = None,
        confident: Callable[[], bool] | None = None,
        patient: bool = False,
        saved: Saved | None = None,
    ) -> None:
        self._store = store
        self._saved = saved
        self._confident = confident or (lambda: True)
        self._settle = settle or self._send
        self._patient = patient

    async def apply(self, activity: str, job_id: str, event: Event, job: Loaded | None = None) -> Applied:
        """Apply `event` to the job, whose record is `job` if the caller has just read or written it.

        A worker passes an empty `Loaded()` with a message's first delivery: the create is the gate then, and saves the
        read. It is refused when there is a record, or the marker of one that was deleted.
        """
        pause = _PATIENCE_S[0]
        tried = False
        while True:
            try:
                if job is None:
                    job = await self._store.registry.load(activity, job_id)
                    if await self._came_late(job, event) or (tried and _overtaken(job, event)):
                        return Applied(job, (Drop(),))
                    event = await self._again(activity, job_id, event, job)
                tried = True
                asked, job, effects, seq = await self._perform(event, job)
                if asked is None:
                    return Applied(job, effects, seq)
                event = asked
            except (Conflict, _MovedOn):
                job = None
            except _TROUBLE as error:
                if not self._patient:
                    raise
                # Nobody knows whether it was stored; reading the record tells (P1).
                logger.info("job %s: waiting for the server: %s", job_id, error)
                job = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PATIENCE_S[1])

    def give_back(self, message: MessageRef, delay_s: float) -> None:
        """NAK a message that nothing can be decided about."""
        self._settle(message, _nak(delay_s))

    async def _perform(self, event: Event, job: Loaded) -> tuple[Event | None, Loaded, tuple[Effect, ...], int | None]:
        seq = None
        if (large := _large(event)) is not None:
            event = await self._stowed(event, large, job)
        effects = decide(job.record, event)
        for effect in effects:
            if crashpoints.ARMED:
                crashpoints.reach(f"{type(event).__name__}.{type(effect).__name__}")
            if isinstance(effect, Save):
                before, job = job.record, await self._store.registry.save(effect.record, job.revision, effect.expires)
                witness.saved(before, effect.record, self._store.names.bare)
                if self._saved is not None:
                    self._saved(before, effect.record)
            elif isinstance(effect, Ack):
                self._settle(effect.message, b"+ACK")
            elif isinstance(effect, Ask):
                return await self._ask(effect, event), job, effects, None
            elif isinstance(effect, Publish):
                seq = await self._store.queue.publish(effect.record, _nonce(effect.record.token))
            else:
                await self._do(effect, event)
        if crashpoints.ARMED:
            crashpoints.reach(f"{type(event).__name__}.done")
        return None, job, effects, seq

    async def _do(self, effect: _Other, event: Event) -> None:
        store = self._store
        match effect:
            case Letter(record):
                await store.letters.write(record)
            case Nak(message, delay_s):
                self._settle(message, _nak(delay_s))
            case Schedule(record, at):
                await store.queue.schedule(record, at, _nonce(record.token))
            case Replace(record, expected_seq, replaced):
                try:
                    await store.queue.replace(record, expected_seq, replaced, secrets.token_hex(8))
                except Taken as error:
                    # Somebody else put it in anew. Whoever gives a message back has nothing left to do then; whoever
                    # acts on what it found looks again.
                    if isinstance(event, _FINDING):
                        raise _MovedOn from error
            case Remove(message):
                await store.queue.remove(message)
            case Unschedule(record):
                await store.queue.unschedule(record)
            case Notify(token, reason):
                store.nodes.cancel(token, reason)
            case Drop() | Abandon():
                pass
            case _:
                assert_never(effect)

    async def _ask(self, effect: Ask, event: Event) -> Event:
        if not isinstance(event, Received):
            raise TypeError(f"only a delivery asks for an owner, not {event!r}")
        delivery = event.delivery
        answer = await self._store.nodes.ask(effect.token, deliveries=delivery.number, exhausted=delivery.exhausted)
        verdict, wait_s = answer.verdict, answer.wait_s
        if verdict is Verdict.gone and not answer.said and not self._confident():
            verdict, wait_s = Verdict.silent, _DOUBT_S
        return attrs.evolve(event, asked=effect.token, verdict=verdict, wait_s=wait_s)

    async def _stowed(self, event: Event, large: Delivery, job: Loaded) -> Event:
        """The event with a large bare payload in the object store: the record that it becomes must fit in a message."""
        if isinstance(event, Received):
            return attrs.evolve(event, delivery=await self._claimed(large, job.record))
        if isinstance(event, _FINDING):
            return attrs.evolve(event, found=await self._claimed(large, job.record))
        return event

    async def _claimed(self, found: Delivery, record: JobRecord | None) -> Delivery:
        if found.payload.text is None or not newer(found, record):
            return found
        # The object's name is the message's: whoever meets the message again finds it there.
        key = f"{found.message.seq}-{found.message.time_ns:x}"
        return attrs.evolve(
            found, payload=await self._store.payloads.put(found.payload.text, "payload", found.id, key=key)
        )

    async def _came_late(self, job: Loaded, event: Event) -> bool:
        """Whether this is a delivery of a job that has ended and been forgotten: no record, and no message (P9).

        A message that came back to life after its job was deleted, as a server's crash may have it, goes again.
        """
        if job.record is not None or not isinstance(event, Received):
            return False
        message = event.delivery.message
        if job.late(message):
            await self._store.queue.remove(message)
            return True
        return not await self._store.queue.exists(message)

    async def _again(self, activity: str, job_id: str, event: Event, job: Loaded) -> Event:
        """The event as it is now: what was found in the stream, or heard of an owner, is asked for again."""
        if isinstance(event, Received):
            return attrs.evolve(event, asked=None, verdict=None)
        if isinstance(event, _FINDING):
            found = await self._store.queue.find(activity, job_id)
            return attrs.evolve(event, found=None if found is None or job.late(found.message) else found)
        return event

    def _send(self, message: MessageRef, data: bytes) -> None:
        if message.ack:
            self._store.connection.send(message.ack, data)


def _large(event: Event) -> Delivery | None:
    """The message of the event, if its payload is too large to be a part of a record."""
    found: Delivery | None = event.delivery if isinstance(event, Received) else getattr(event, "found", None)
    if found is None or found.payload.size <= THRESHOLD_BYTES or found.payload.text is None:
        return None
    return found


def _overtaken(job: Loaded, event: Event) -> bool:
    """Whether the record tells, when it is read again, that the event is out of date.

    A record that was written meanwhile speaks for an owner that was taken for dead: it is asked again first. A job that
    was deleted meanwhile is not submitted again by a publish whose answer is awaited.
    """
    return isinstance(event, Lost) or (isinstance(event, Submitted) and job.deleted)


def _nak(delay_s: float) -> bytes:
    return b"-NAK" if delay_s <= 0 else b'-NAK {"delay": %d}' % int(delay_s * 1e9)


def _nonce(token: Token | None) -> str:
    return token.nonce if token is not None else secrets.token_hex(8)
