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
from turnout.core.changes import Changes, changes
from turnout.core.effects import (
    Abandon,
    Ack,
    Admit,
    Ask,
    Drop,
    Effect,
    Isolate,
    Nak,
    Notify,
    Park,
    Publish,
    Rank,
    Remove,
    Replace,
    Save,
    Schedule,
    SendOn,
    TakeOff,
    TellParent,
    Unpark,
    Unschedule,
    WriteDeadLetter,
)
from turnout.core.events import (
    Answered,
    CancelRequested,
    Event,
    Expired,
    Lost,
    PriorityRequested,
    Received,
    Resubmitted,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.evolve import evolve
from turnout.core.lifecycle import decide, newer
from turnout.core.limits import LimitKey
from turnout.core.moving import twin_of
from turnout.core.record import Delivery, JobRecord, MessageRef
from turnout.core.spec import Body
from turnout.core.struct import struct
from turnout.core.workflows.jobs import ending_of_job
from turnout.core.workflows.values import InputKind
from turnout.definition.retention import Retention
from turnout.errors import OutcomeUnknown, ServerUnavailable, ServerUnsuitable, StorageRefused
from turnout.nats.connection import ApiError, Connection, NoResponders
from turnout.nats.messages import level_of
from turnout.nats.once import SubjectTaken
from turnout.nats.stream import ACK, nak
from turnout.once import log_rarely
from turnout.store.chance import Chance
from turnout.store.dead_letters import DeadLetters
from turnout.store.groups import Groups
from turnout.store.histories import Histories
from turnout.store.inbox import Inbox
from turnout.store.job_logs import JobLogs
from turnout.store.lanes import Lanes
from turnout.store.limits import Limits
from turnout.store.names import Names
from turnout.store.nodes import Nodes
from turnout.store.pauses import Pauses
from turnout.store.payloads import Payloads
from turnout.store.places import PlaceDesks
from turnout.store.queue import WorkQueue
from turnout.store.records import Conflict, Registry, Versioned
from turnout.store.routes import Routes
from turnout.store.schedules import Schedules
from turnout.store.settings import Settings
from turnout.telemetry.on_saved import on_saved

logger = logging.getLogger("turnout.store")

T = TypeVar("T")

Settle = Callable[[MessageRef, bytes], None]
"""Sends the bytes of a settlement to the ack subject of a message."""

OnSaved = Callable[[JobRecord, Changes], None]
"""Is called after a write of a record with the record and what the write means."""

_RETRY_S = (0.05, 5.0)
DELETION_S = 3.0
"""How long it may take until it is decided between a retry and a deletion at the same time."""
_DELETION_LOOK_S = 0.1
_UNCONFIRMED_S = 2.0
"""How soon to ask again after a node that is silent, by one that can't be sure of itself."""

UNAVAILABLE = (OutcomeUnknown, ServerUnavailable, StorageRefused, ApiError, NoResponders, ServerUnsuitable)
"""What passes: a stream without a leader does not respond, a server that runs out of disk switches JetStream off."""

_Other = (
    WriteDeadLetter
    | TellParent
    | Nak
    | Park
    | Unpark
    | Rank
    | SendOn
    | TakeOff
    | Schedule
    | Replace
    | Remove
    | Unschedule
    | Notify
    | Drop
    | Abandon
)
"""The effects but for those that nearly every job has."""

_FINDING = (Answered, CancelRequested, RetryRequested, Resubmitted, PriorityRequested, Expired, Stuck)


@struct
class Applied:
    """Where a job stands after an event; `effects` are those that were performed last.

    `seq`: where the message lies that was published, if one was and that is known.
    """

    job: Versioned
    effects: tuple[Effect, ...] = ()
    seq: int | None = None

    @property
    def abandoned(self) -> bool:
        """The one who applied the event does not own the attempt any more."""
        return Abandon in map(type, self.effects)


class _MovedOn(Exception):
    """What an effect rested on is no longer so: read again and decide again."""


@attrs.frozen
class Store:
    """Everything of one namespace over one connection."""

    connection: Connection
    names: Names
    registry: Registry
    queue: WorkQueue
    lanes: Lanes
    dead_letters: DeadLetters
    nodes: Nodes
    payloads: Payloads
    logs: JobLogs
    inbox: Inbox
    histories: Histories
    settings: Settings
    pauses: Pauses
    limits: Limits
    places: PlaceDesks
    routes: Routes
    chance: Chance
    schedules: Schedules
    groups: Groups

    @classmethod
    def over(
        cls, connection: Connection, names: Names, retention: Retention | None = None, chance: Chance | None = None
    ) -> Store:
        """`retention`: to use whatever the namespace's setting says; None: as it says.

        `chance`: where nonces come from; a simulation gives its own.
        """
        chance = chance or Chance()
        payloads, settings = Payloads(connection, names), Settings(connection, names, retention)
        registry, nodes, limits = (
            Registry(connection, names, settings),
            Nodes(connection, names),
            Limits(connection, names),
        )
        lanes = Lanes(connection, names, nodes)
        queue = WorkQueue(connection, names, lanes)
        pauses = Pauses(connection, names)
        return cls(
            connection,
            names,
            registry,
            queue,
            lanes,
            DeadLetters(connection, names),
            nodes,
            payloads,
            JobLogs(connection, names),
            Inbox(connection, names, payloads, chance),
            Histories(connection, names, payloads),
            settings,
            pauses,
            limits,
            PlaceDesks(connection, names, registry, queue, limits),
            Routes(connection, names, registry, queue, nodes, pauses),
            chance,
            Schedules(connection, names),
            Groups(connection, names, payloads),
        )


async def retry_while_away(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of `call`, which may be made again: servers that are away or refuse to store are outwaited."""
    pause = _RETRY_S[0]
    while True:
        try:
            return await call()
        except UNAVAILABLE as error:
            log_rarely(logger, level_of(error, logging.WARNING), "store", "waiting for the server: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_S[1])


@struct
class Gates:
    """What a job may have to pass before it starts. `isolate` returns when the node runs nothing but this job (P6).
    `admit` takes the places of an attempt (generation, turn, payload) of it: None, or a limit that had none (P13)."""

    isolate: Callable[[], Awaitable[None]]
    admit: Callable[[int, int, Body], Awaitable[LimitKey | None]] | None = None


class Performer:
    """Applies events to jobs.

    `settle` sends settlements; the default sends them at once over the connection. `confident` tells whether the caller
    may take a node whose liveness has lapsed for dead (P5). With `retry_while_away` it outwaits servers that are away
    or refuse to store: what a worker holds in its hands must not be lost. `on_saved` is called after each write of a
    record. `gates` are those of a worker.
    """

    def __init__(
        self,
        store: Store,
        *,
        settle: Settle | None = None,
        confident: Callable[[], bool] | None = None,
        retry_while_away: bool = False,
        on_saved: OnSaved | None = None,
        gates: Gates | None = None,
    ) -> None:
        self.hand_over: Callable[[JobRecord], bool] | None = None
        """Told of a job that has ended before its parent is: whether it sees to the effects from that on."""
        self._store = store
        self._gates = gates
        self._on_saved = on_saved
        self._confident = confident or (lambda: True)
        self._settle = settle or self._send
        self._retry_while_away = retry_while_away

    async def apply(self, activity: str, job_id: str, event: Event, job: Versioned | None = None) -> Applied:
        """Apply `event` to the job, whose record is `job` if the caller has just read or written it.

        A worker passes an empty `Versioned()` with a message's first delivery: the create is the gate then, and saves
        the read. It is refused when there is a record, or the marker of one that was deleted.
        """
        pause = _RETRY_S[0]
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
                if Isolate() in effects:
                    job = None  # that may have taken long
            except (Conflict, _MovedOn):
                job = None
            except UNAVAILABLE as error:
                if not self._retry_while_away:
                    raise
                # Nobody knows whether it was stored; reading the record tells (P1).
                level = level_of(error, logging.WARNING)
                log_rarely(logger, level, "save", "job %s, and maybe others, wait for the server: %s", job_id, error)
                job = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_S[1])

    def give_back(self, message: MessageRef, delay_s: float) -> None:
        """NAK a message that nothing can be decided about."""
        self._settle(message, nak(delay_s))

    async def _perform(
        self, event: Event, job: Versioned
    ) -> tuple[Event | None, Versioned, tuple[Effect, ...], int | None]:
        seq = None
        if (large := self._store.payloads.large_of(event)) is not None:
            event = await self._offload(event, large, job)
        effects = decide(job.record, event)
        for effect in effects:
            if crashpoints.ARMED:
                crashpoints.reach(f"{type(event).__name__}.{type(effect).__name__}")
            if isinstance(effect, Save):
                before, job = job.record, await self._store.registry.save(effect.record, job.revision, effect.expires)
                meant = changes(before, effect.record)
                on_saved(before, effect.record, meant, self._store.names.bare)
                if self._on_saved is not None:
                    self._on_saved(effect.record, meant)
            elif isinstance(effect, Ack):
                self._settle(effect.message, ACK)
            elif isinstance(effect, Ask):
                return await self._ask(effect, event), job, effects, None
            elif isinstance(effect, Isolate):
                return await self._alone(event), job, effects, None
            elif isinstance(effect, Admit):
                return await self._admitted(effect, event), job, effects, None
            elif isinstance(effect, TellParent) and self.hand_over is not None and self.hand_over(effect.record):
                break
            elif isinstance(effect, Publish):
                seq = await self._store.queue.publish(effect.spec, effect.nonce, chosen=effect.chosen)
            else:
                await self._do(effect, event)
        if crashpoints.ARMED:
            crashpoints.reach(f"{type(event).__name__}.done")
        return None, job, effects, seq

    async def _do(self, effect: _Other, event: Event) -> None:
        store = self._store
        match effect:
            case WriteDeadLetter(record):
                await store.dead_letters.write(record)
            case TellParent(record):
                if record.spec.options.parent is not None:
                    await store.inbox.tell(record.spec.options.parent, InputKind.done, ending_of_job(record))
            case Nak(message, delay_s):
                self._settle(message, nak(delay_s))
            case Park() | Unpark() | Rank() | SendOn() | TakeOff():
                await self._move(effect)
            case Schedule():
                await self._schedule(effect, event)
            case Replace():
                await self._replace(effect, event)
            case Remove(message):
                await store.queue.remove(message)
            case Unschedule(spec):
                await store.queue.unschedule(spec)
            case Notify(token, reason):
                store.nodes.cancel(token, reason)
            case Drop() | Abandon():
                pass
            case _:
                assert_never(effect)

    async def _move(self, effect: Park | Unpark | Rank | SendOn | TakeOff) -> None:
        """To where a job waits for something, or away from there."""
        store = self._store
        match effect:
            case Park(record):
                await store.places.park(record)
            case Unpark(record):
                await store.places.unpark(record)
            case Rank(record):
                await store.places.rank(record)
            case SendOn(record, message):
                await store.routes.send(record, message)
            case TakeOff(record):
                await store.routes.take_off(record)
            case _:
                assert_never(effect)

    async def _schedule(self, effect: Schedule, event: Event) -> None:
        try:
            await self._store.queue.schedule(effect.spec, effect.at, effect.nonce, chosen=effect.chosen)
        except SubjectTaken as error:
            if isinstance(event, PriorityRequested):
                raise _MovedOn from error
            raise

    async def _replace(self, effect: Replace, event: Event) -> None:
        try:
            await self._store.queue.replace(effect.spec, effect.expected_seq, effect.replaced, secrets.token_hex(8))
        except SubjectTaken as error:
            # Somebody else has requeued it. Whoever gives a message back has nothing left to do then; whoever acts on
            # what it found looks again.
            if isinstance(event, _FINDING):
                raise _MovedOn from error

    async def _ask(self, effect: Ask, event: Event) -> Event:
        if not isinstance(event, Received):
            raise TypeError(f"only a delivery asks for an owner, not {event!r}")
        delivery = event.delivery
        answer = await self._store.nodes.ask(effect.token, deliveries=delivery.number, exhausted=delivery.exhausted)
        verdict, wait_s = answer.verdict, answer.wait_s
        if verdict is Verdict.gone and not answer.said and not self._confident():
            verdict, wait_s = Verdict.silent, _UNCONFIRMED_S
        return attrs.evolve(event, asked=effect.token, verdict=verdict, wait_s=wait_s)

    async def _alone(self, event: Event) -> Event:
        if not isinstance(event, Received) or self._gates is None:
            raise TypeError(f"only a worker's delivery can be alone on its node, not {event!r}")
        await self._gates.isolate()
        return attrs.evolve(event, alone=True, now=self._store.connection.now())

    async def _admitted(self, effect: Admit, event: Event) -> Event:
        if not isinstance(event, Received) or self._gates is None or self._gates.admit is None:
            raise TypeError(f"only a worker's delivery takes places of limits, not {event!r}")
        full = await self._gates.admit(effect.generation, effect.turn, effect.payload)
        admitted = (effect.generation, effect.turn) if full is None else None
        return evolve(event, admitted=admitted, full=full, now=self._store.connection.now())

    async def _offload(self, event: Event, large: Delivery, job: Versioned) -> Event:
        """The event with a large bare payload in the object store: the record that it becomes must fit in a message."""
        if isinstance(event, Received):
            return attrs.evolve(event, delivery=await self._fetched(large, job.record))
        if isinstance(event, _FINDING):
            return attrs.evolve(event, delivery=await self._fetched(large, job.record))
        return event

    async def _fetched(self, delivery: Delivery, record: JobRecord | None) -> Delivery:
        if delivery.spec.payload.text is None or not newer(delivery, record):
            return delivery
        # The object's name is the message's: whoever meets the message again finds it there.
        key = f"{delivery.message.seq}-{delivery.message.time_ns:x}"
        payload = await self._store.payloads.put(delivery.spec.payload.text, "payload", delivery.id, key=key)
        return attrs.evolve(delivery, spec=evolve(delivery.spec, payload=payload))

    async def _came_late(self, job: Versioned, event: Event) -> bool:
        """Whether this is a delivery of a job that has ended and been forgotten: no record, and no message (P9).

        A message that came back to life after its job was deleted, as a server's crash may have it, goes again.
        """
        if job.record is not None or not isinstance(event, Received):
            return False
        message = event.delivery.message
        if job.late(message) or (job.deleted and event.delivery.generation > 1 and await self._stays_deleted(event)):
            await self._store.queue.remove(message)
            return True
        return not await self._store.queue.exists(message)

    async def _stays_deleted(self, event: Received) -> bool:
        """Whether the job of a retry that came in between is deleted; who deletes it puts it back if the retry won."""
        deadline = self._store.connection.now() + DELETION_S
        while self._store.connection.now() < deadline:
            await asyncio.sleep(_DELETION_LOOK_S)
            if not (await self._store.registry.load(event.delivery.activity, event.delivery.id)).deleted:
                return False
        return True

    async def _again(self, activity: str, job_id: str, event: Event, job: Versioned) -> Event:
        """The event as it is now: what was found in the stream, or heard of an owner, is asked for again."""
        if isinstance(event, Received):
            return attrs.evolve(event, asked=None, verdict=None, admitted=None, full=None)
        if isinstance(event, _FINDING):
            found = await self._find(activity, job_id, event, job)
            if isinstance(event, Stuck):
                event = attrs.evolve(event, twin=twin_of(event.delivery, found))
            return attrs.evolve(event, delivery=None if found is None or job.late(found.message) else found)
        return event

    async def _find(self, activity: str, job_id: str, event: Event, job: Versioned) -> Delivery | None:
        """The job's message; where it is follows from its record. One that is being moved may be in two lanes."""
        queue = self._store.queue
        if isinstance(event, PriorityRequested):
            found = await queue.find_named(activity, job_id, event.priority)
            if found is None and job.record is not None:
                found = await queue.find_named(activity, job_id, job.record.spec.lane)
            return found or await queue.find(activity, job_id)
        return await queue.find(activity, job_id, None if job.record is None else job.record.spec.lane)

    def _send(self, message: MessageRef, data: bytes) -> None:
        if message.ack:
            self._store.connection.send(message.ack, data)


def _overtaken(job: Versioned, event: Event) -> bool:
    """Whether the record tells, when it is read again, that the event is out of date.

    A record that was written meanwhile speaks for an owner that was taken for dead: it is asked again first. A job that
    was deleted meanwhile is not submitted again by a publish whose answer is awaited.
    """
    return isinstance(event, Lost) or (isinstance(event, Submitted) and job.deleted)
