"""The thread that keeps a node's leases, with an event loop and a connection of its own: the lease line.

User code that blocks the worker's loop then costs a warning and not a second run. The thread extends the lease of every
running job, answers for them when somebody asks (P5), keeps the node's liveness, and settles the messages whose lease
it has ever extended (P10).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable

import attrs

from turnout import wire
from turnout.core.catalog import NodeInfo
from turnout.core.record import MessageRef
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.loop_thread import LoopThread
from turnout.nats.boottime import boottime
from turnout.nats.connection import Connection, ConnectOptions, Message, StoredMessage
from turnout.nats.messages import level_of
from turnout.nats.stream import IN_PROGRESS, kv_stream, nak
from turnout.once import log_rarely
from turnout.store.failure_detector import RETURN_S, FailureDetector
from turnout.store.names import Names
from turnout.store.nodes import Nodes
from turnout.store.records import Versioned, last_values
from turnout.telemetry import metrics
from turnout.worker.control import Control
from turnout.worker.leases import Lease, Leases
from turnout.worker.settlements import Settlement, Settlements

logger = logging.getLogger("turnout.worker.leases")

TICK_S = 0.2
_READ_TOGETHER = 256
_READ_TIMEOUT_S = 2.0
"""An answer that comes later is not awaited: meanwhile no lease would be extended."""


@attrs.frozen(kw_only=True)
class WorkLine:
    """The worker's side of the lease thread. `describe` and `up` are called from the thread, the rest on the worker's
    loop.

    `up`: whether the worker's own connection is there; `send` publishes over it. `on_drain`: somebody asks the node to
    drain. `on_look`: the consumer of this activity was paused or resumed. `on_asked`: somebody was handed a job of this
    activity that runs here. `on_confirmed`: the lease line is back, or the node's liveness is on record for another
    while.
    """

    describe: Callable[[], NodeInfo]
    up: Callable[[], bool]
    send: Callable[[str, bytes], None]
    on_drain: Callable[[], None]
    on_look: Callable[[str], None]
    on_asked: Callable[[str], None]
    on_confirmed: Callable[[], None]


class LeaseKeeper:
    """Keeps the leases of a node. Everything public is for the worker's loop; `trouble`, `up`, `held` for any."""

    def __init__(self, options: ConnectOptions, names: Names, work: WorkLine, *, ttl_s: float = 10.0) -> None:
        self._options = options
        self._names = names
        self._work = work
        self._ttl_s = ttl_s
        self._leases = Leases()
        self._thread = LoopThread("turnout-leases", self._main)
        self._connection: Connection | None = None
        self._settlements = Settlements(self._send, functools.partial(self._work_loop, self._settle_there))
        self._work_seen_at = boottime()
        self._confirmed = asyncio.Event()
        self.confident = FailureDetector(ttl_s)
        """Whether this node may call another one dead, by the writes of its own key (P5)."""

    # --- for the worker's loop ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the node is registered and answers. Errors are those of the connection."""
        self._thread.start()
        await self._thread.wait_ready()

    async def wait_confirmed(self) -> None:
        """Returns when leases can be kept."""
        while self.trouble is not None:
            self._confirmed.clear()
            await self._confirmed.wait()

    async def stop(self) -> None:
        """Leave in good order: the node's key is deleted, what was settled is sent."""
        await self._thread.stop()

    @property
    def ended(self) -> asyncio.Future[BaseException | None]:
        """Done when the thread has ended, with what ended it."""
        return self._thread.ended

    @property
    def dead(self) -> bool:
        """The thread has ended, and nobody had stopped it."""
        return self._thread.dead

    @property
    def up(self) -> bool:
        """Whether the lease line is there."""
        return self._connection is not None and self._connection.up

    @property
    def trouble(self) -> str | None:
        """Why nothing may be started here: a lease that can't be kept is no lease. None when all is well."""
        connection, confirmed_at = self._connection, self.confident.in_time_at
        if connection is None or not connection.up:
            return "the connection that keeps the leases is down"
        if confirmed_at is not None and (silent_s := boottime() - confirmed_at) > self._ttl_s * 2 / 3:
            return f"the node's liveness has not been confirmed for {silent_s:.1f} s"
        return None

    @property
    def held(self) -> int:
        """How many leases are kept."""
        return len(self._leases)

    def register(self, nonce: str, subject: str, message: MessageRef, ack_wait_s: float) -> Lease:
        """Begin to keep the lease of a delivery, and to answer yes for `nonce`."""
        lease = Lease(nonce, subject, message, ack_wait_s)
        self._leases.register(lease)
        return lease

    def settle(self, lease: Lease, message: MessageRef, data: bytes) -> None:
        """End the extending, then settle: in that order, or a late extension would undo it (P10).

        Over the connection that may have extended; a lease that never was is settled over the worker's own.
        """
        extended = self._leases.settle(lease)
        if not message.ack:
            return
        if extended:
            self._thread.call(self._settlements.send, message.ack, data, lease.ack_wait_s)
        else:
            self._work.send(message.ack, data)

    def release(self, lease: Lease) -> None:
        """Answer no for it from now on."""
        self._leases.release(lease)

    def shorten(self, activity: str, ack_wait_s: float) -> None:
        """The server waits only this long for the jobs of this activity."""
        self._leases.shorten(activity, ack_wait_s)

    def refresh_liveness(self) -> None:
        """Write the node's key now: something in it has changed."""
        self._thread.call(self._write_liveness)

    def _write_liveness(self) -> None:
        self._hurry.set()

    def _tell_confirmed(self) -> None:
        self._confirmed.set()
        self._work.on_confirmed()

    def _settle_there(self, settlement: Settlement) -> None:
        """On the worker's loop: settle over its connection what the lease line has not been able to."""
        try:
            self._work.send(settlement.ack, settlement.data)
        except TurnoutError:
            self._thread.call(self._settlements.add, settlement)

    # --- the thread ---------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._hurry = asyncio.Event()
        connection = self._connection = await Connection.open(self._options, name="turnout-leases")
        nodes = Nodes(connection, self._names)
        node = self._work.describe().id
        try:
            await connection.sync_clock(kv_stream(self._names.nodes_bucket))
            await connection.subscribe(self._names.control(node), self._make_control(connection).received)
            connection.on_up(self._back)
            connection.on_down(self.confident.failed)
            await nodes.alive(self._work.describe())
            self.confident.succeeded()
            self._thread.ready()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep(connection))
                    group.create_task(self._live(nodes))
            finally:
                self._settlements.flush()
                with contextlib.suppress(TurnoutError):
                    await nodes.leave(node)
        finally:
            await connection.close()

    def _make_control(self, connection: Connection) -> Control:
        reading: set[asyncio.Task[None]] = set()

        def cancelled(lease: Lease) -> None:
            reading.add(task := asyncio.create_task(self._read_one(connection, lease)))
            task.add_done_callback(reading.discard)

        return Control(
            leases=self._leases,
            reply=self._reply,
            on_asked=lambda lease: self._work_loop(self._work.on_asked, lease.activity),
            on_cancel=cancelled,
            on_drain=lambda: self._work_loop(self._work.on_drain),
            on_look=lambda activity: self._work_loop(self._work.on_look, activity),
        )

    async def _keep(self, connection: Connection) -> None:
        """Extend what is due, and settle what could not be settled at once."""
        self._work_seen_at = boottime()
        while True:
            await asyncio.sleep(TICK_S)
            self._settlements.flush()
            now = boottime()
            due = self._leases.take_due(now)
            self._look_at_the_work_line(connection, now)
            self._look_at_the_liveness(now)
            if not due or not connection.up:
                self._leases.put_back(due, now + TICK_S)
                continue
            unconfirmed = {lease for lease in due if now - lease.confirmed_at > lease.ack_wait_s}
            self._warn_owners(unconfirmed, now)
            for lease in due:
                if lease not in unconfirmed:
                    self._extend(connection, lease)
            await self._read(connection, due)
            await self._confirm(connection, unconfirmed)

    def _back(self) -> None:
        """The server was away: every lease is extended, and a cancel may have been asked for that nobody pushed."""
        self._leases.all_due(boottime())
        self._hurry.set()
        self._work_loop(self._tell_confirmed)

    def _look_at_the_work_line(self, connection: Connection, now: float) -> None:
        """Let go of everything when nothing can be written for a liveness TTL: others can, and must not wait for us.

        While both lines are down nobody is told that we live. What runs is stopped first, as if the lease were lost.
        """
        if self._work.up() or not connection.up or not len(self._leases):
            self._work_seen_at = now
        if now - self._work_seen_at <= max(self._ttl_s, RETURN_S):
            return
        leases = self._leases.abandon()
        logger.error(
            "the worker's own connection has been down for %.0f s, so nothing is recorded: %d jobs are left to others",
            *(now - self._work_seen_at, len(leases)),
        )
        for lease in leases:
            self._work_loop(lease.lost)
            self._settlements.send(lease.message.ack, nak(), lease.ack_wait_s)

    def _look_at_the_liveness(self, now: float) -> None:
        """Stop what holds places of limits when no sign of life of ours is on record for a liveness TTL (P13).

        We may be taken for dead then, and our places handed on: more would run at once than a limit allows.
        """
        in_time_at = self.confident.in_time_at
        if in_time_at is None or now - in_time_at <= self._ttl_s:
            return
        for lease in self._leases.limited():
            lease.cut_off_known = True
            self._work_loop(lease.cut_off)

    def _warn_owners(self, leases: set[Lease], now: float) -> None:
        """Tell the owners of those that nobody has confirmed for a whole ack wait; once until somebody does."""
        for lease in leases:
            silent_s = now - lease.confirmed_at
            if silent_s > lease.ack_wait_s and not lease.suspect:
                lease.suspect = True
                self._work_loop(lease.unconfirmed, silent_s)

    def _extend(self, connection: Connection, lease: Lease) -> None:
        """Send +WPI unless the lease is settled."""
        asked_at = boottime()

        def confirm(future: asyncio.Future[Message]) -> None:
            confirmed = not future.cancelled() and future.exception() is None
            if confirmed:
                self._warn_owners({lease}, boottime())
                lease.confirmed_at = max(lease.confirmed_at, asked_at)
                lease.suspect = False
            if confirmed or not lease.settled:
                metrics.extended(confirmed=confirmed)

        def send() -> None:
            try:
                connection.request_nowait(lease.message.ack, IN_PROGRESS).add_done_callback(confirm)
            except TurnoutError:
                metrics.extended(confirmed=False)  # the connection is down: the next turn tries again

        self._leases.extend(lease, send)

    async def _read(self, connection: Connection, leases: list[Lease]) -> None:
        """Look at the records of these leases, and hand those on that somebody else has written: is a cancel asked for?

        This goes over the lease line, since the worker's own may be down just then.
        """
        started = [lease for lease in leases if lease.token is not None]
        for at in range(0, len(started), _READ_TOGETHER):
            part = {lease.subject: lease for lease in started[at : at + _READ_TOGETHER]}
            try:
                values = await last_values(
                    connection, kv_stream(self._names.jobs_bucket), part, timeout_s=_READ_TIMEOUT_S
                )
            except TurnoutError:
                return  # the next turn of these leases looks again
            for value in values:
                lease = part.get(value.subject)
                if lease is not None and value.seq > lease.revision:
                    self._work_loop(lease.changed, _versioned(value))

    async def _read_one(self, connection: Connection, lease: Lease) -> None:
        """Look at the record of this lease now, by the word of the leader: somebody says that it has changed."""
        try:
            stored = await self._newest(connection, lease)
        except TurnoutError:
            self._leases.put_back([lease], boottime())
        else:
            if stored is not None and stored.seq > lease.revision:
                self._work_loop(lease.changed, _versioned(stored))

    async def _confirm(self, connection: Connection, unconfirmed: set[Lease]) -> None:
        """After a whole ack wait without a confirmed extension somebody may have taken over: the record tells (P5)."""
        while unconfirmed:
            if not await self._confirm_one(connection, lease := unconfirmed.pop()):
                # One question without an answer is enough: meanwhile nobody else's lease would be extended.
                self._leases.put_back([lease, *unconfirmed], boottime() + TICK_S)
                return

    async def _confirm_one(self, connection: Connection, lease: Lease) -> bool:
        """Whether it could be found out whose the job is."""
        if lease.token is not None:
            try:
                stored = await self._newest(connection, lease)
            except TurnoutError:
                return False
            record = _versioned(stored).record if stored is not None else None
            if record is None or not record.owned_by(lease.token):
                self._work_loop(lease.lost)
                return True
        self._extend(connection, lease)
        return True

    async def _newest(self, connection: Connection, lease: Lease) -> StoredMessage | None:
        """The record of a lease by the word of the leader."""
        stream = kv_stream(self._names.jobs_bucket)
        return await connection.get_message(stream, last_by_subj=lease.subject, timeout_s=_READ_TIMEOUT_S)

    async def _live(self, nodes: Nodes) -> None:
        """Keep the node's key alive; a write that fails or comes late costs the right to call others dead (P5)."""
        pause_s = every_s = self._ttl_s * 0.3
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            self._hurry.clear()
            try:
                await nodes.alive(self._work.describe())
            except TurnoutError as error:
                level = level_of(error, logging.WARNING)
                log_rarely(logger, level, "liveness", "the node's liveness could not be written: %s", error)
                self.confident.failed()
                pause_s = self._ttl_s * 0.05
            else:
                self.confident.succeeded()
                pause_s = every_s
                self._work_loop(self._tell_confirmed)

    def _send(self, subject: str, data: bytes) -> None:
        assert self._connection is not None
        self._connection.send(subject, data)

    def _reply(self, subject: str, data: bytes) -> None:
        if subject:
            with contextlib.suppress(TurnoutError):
                self._send(subject, data)

    def _work_loop(self, callback: Callable[..., None], *args: object) -> None:
        self._thread.call_back(callback, *args)


def _versioned(stored: StoredMessage) -> Versioned:
    """The record, None for one that was deleted, or of a newer version: whoever wrote that has taken over."""
    try:
        return Versioned(wire.load_record(stored.data) if stored.data else None, stored.seq)
    except UnreadableRecord:
        return Versioned(None, stored.seq)
