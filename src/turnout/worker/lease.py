"""Leases: the right to run, kept by a thread of its own.

The thread has its own event loop and its own connection, so that user code which blocks the worker's loop costs a
warning and not a second run. It extends the lease of every running job, answers for them when somebody asks (P5), keeps
the node's liveness, and settles the messages whose lease it has ever extended (P10).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from turnout import fastjson, wire
from turnout.core.catalog import NodeInfo
from turnout.core.values import JobRecord, MessageRef, Token
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.jetstream.confidence import Confidence
from turnout.jetstream.connection import Connection, ConnectOptions, Disconnected, Received
from turnout.jetstream.names import Names, kv_stream
from turnout.jetstream.nodes import Nodes
from turnout.jetstream.registry import last_values
from turnout.jetstream.suspension import suspended_too
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.worker.lease")

TICK_S = 0.2
EXTENSIONS_PER_LEASE = 3
_READ_TOGETHER = 256
_RELEASED_KEPT = 1000


class Lease:
    """One delivery that this node works on. Registered before the start record is written, released after the last."""

    def __init__(self, keeper: LeaseKeeper, nonce: str, subject: str, message: MessageRef, ack_wait_s: float) -> None:
        self.nonce = nonce
        self.subject = subject
        self.message = message
        self.ack_wait_s = ack_wait_s
        self.revision = 0
        self.exhausted = False
        self.token: Token | None = None
        self.on_change: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_trouble: Callable[[float], None] | None = None
        self.troubled = False
        self.confirmed_at = suspended_too()
        self.settled = False
        self.extended = False
        self.missed_change = False
        self.turn = -1
        self._keeper = keeper

    @property
    def activity(self) -> str:
        """The activity of its job, which the record's subject names."""
        return self.subject.split(".")[-2]

    def started(self, token: Token, revision: int) -> None:
        """The start record is stored: changes to it from now on are somebody else's, or our own."""
        self.revision = revision
        self.token = token

    def settle(self, message: MessageRef, data: bytes) -> None:
        """End the extending, then send the settlement: in that order, or a late +WPI would undo it (P10)."""
        self._keeper.settle(self, message, data)

    def release(self) -> None:
        """Answer no for it from now on."""
        self._keeper.release(self)


@attrs.frozen(kw_only=True)
class Callbacks:
    """The worker's side of the lease thread. `describe` is called from the thread, the others on the worker's loop.

    `send`: over the worker's own connection. `on_drain`: somebody asks the node to drain. `on_doubt`: somebody was
    handed a job of this activity that runs here.
    """

    describe: Callable[[], NodeInfo]
    send: Callable[[str, bytes], None]
    on_drain: Callable[[], None]
    on_doubt: Callable[[str], None]


class LeaseKeeper:
    """The thread that keeps this node's leases. Everything public is for the worker's thread."""

    def __init__(
        self,
        options: ConnectOptions,
        names: Names,
        callbacks: Callbacks,
        *,
        ttl_s: float = 10.0,
    ) -> None:
        self._options = options
        self._names = names
        self._describe = callbacks.describe
        self._send = callbacks.send
        self._on_drain = callbacks.on_drain
        self._on_doubt = callbacks.on_doubt
        self._alive_every_s = ttl_s * 0.3
        self._work_loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._due: list[tuple[float, int, Lease]] = []
        self._newcomers: deque[Lease] = deque()
        """Registered since the thread's last turn. Most jobs are done before the next, and never need a place in the
        heap."""
        self._order = itertools.count()
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="turnout-leases", daemon=True)
        self._ready: asyncio.Future[None] = self._work_loop.create_future()
        self._gone: asyncio.Future[BaseException | None] = self._work_loop.create_future()
        self.confident = Confidence(ttl_s)
        """Whether this node may call another one dead, by the writes of its own key (P5)."""

    # --- for the worker's thread --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the node is registered and answers. Errors are those of the connection."""
        self._thread.start()
        first: list[asyncio.Future[Any]] = [self._ready, self._gone]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done() and not self._ready.done():
            raise self._gone.result() or TurnoutError("the lease thread ended before it began")

    async def stop(self) -> None:
        """Leave in good order: the node's key is deleted, what was settled is sent."""
        if self._loop is not None and self._ending is not None and not self._gone.done():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ending.set)
            await asyncio.wait({self._gone})
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 5.0)

    @property
    def failed(self) -> asyncio.Future[BaseException | None]:
        """Done when the thread has ended, with what ended it."""
        return self._gone

    @property
    def up(self) -> bool:
        """Whether the thread's own connection is there."""
        return self._connection is not None and self._connection.up

    @property
    def held(self) -> int:
        """How many leases are kept."""
        return len(self._leases)

    def register(self, nonce: str, subject: str, message: MessageRef, ack_wait_s: float) -> Lease:
        """Begin to keep the lease of a delivery, and to answer yes for `nonce`."""
        lease = Lease(self, nonce, subject, message, ack_wait_s)
        self._leases[nonce] = lease
        self._newcomers.append(lease)
        return lease

    def shorten(self, activity: str, ack_wait_s: float) -> None:
        """The server waits only this long for the jobs of this activity: extend them now, and as often as that asks."""
        with self._lock:
            self._admit()
            for lease in list(self._leases.values()):
                if lease.activity == activity and ack_wait_s < lease.ack_wait_s:
                    lease.ack_wait_s = ack_wait_s
                    self._push(lease, suspended_too())

    def settle(self, lease: Lease, message: MessageRef, data: bytes) -> None:
        """Settle over the connection that may have extended; a lease that never was goes out over the worker's own."""
        with self._lock:
            lease.settled = True
            extended = lease.extended
        if not message.ack:
            return
        if not extended:
            self._send(message.ack, data)
        elif self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._send_here, message.ack, data)

    def release(self, lease: Lease) -> None:
        with self._lock:
            lease.settled = True
            self._leases.pop(lease.nonce, None)
            if len(self._due) > 2 * len(self._leases) + _RELEASED_KEPT:
                # With a lease of an hour the released would wait there for twenty minutes, however many they are.
                self._due = [entry for entry in self._due if not entry[2].settled]
                heapq.heapify(self._due)
        # It waits for its turn in the heap: the attempt need not.
        lease.on_change = lease.on_lost = lease.on_trouble = None

    def refresh_liveness(self) -> None:
        """Write the node's key now: something in it has changed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hurry.set)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as caught:  # whatever ends this thread is told to the worker, who stops
            error = caught
        with contextlib.suppress(RuntimeError):
            self._work_loop.call_soon_threadsafe(_resolve, self._gone, error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        connection = await Connection.open(self._options, name="turnout-leases")
        self._connection = connection
        nodes = Nodes(connection, self._names)
        node = self._describe().id
        try:
            await connection.sync_clock(kv_stream(self._names.nodes_bucket))
            await connection.subscribe(self._names.control(node), self._control)
            connection.on_up(self._all_due)
            connection.on_down(self.confident.failed)
            await nodes.alive(self._describe())
            self.confident.succeeded()
            self._work_loop.call_soon_threadsafe(_resolve, self._ready, None)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._extend_forever()), group.create_task(self._live(nodes))]
                await self._ending.wait()
                for task in tasks:
                    task.cancel()
            with contextlib.suppress(TurnoutError):
                await nodes.leave(node)
        finally:
            await connection.close()

    async def _extend_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            due = self._take_due()
            if not due or self._connection is None or not self._connection.up:
                self._again(due, TICK_S)
                continue
            now = suspended_too()
            doubtful = {lease for lease in due if now - lease.confirmed_at > lease.ack_wait_s}
            self._tell_of_trouble(doubtful, now)
            for lease in due:
                if lease not in doubtful:
                    self._extend(lease)
            await self._read(due, doubtful)

    def _tell_of_trouble(self, leases: set[Lease], now: float) -> None:
        """Tell the owners of those that nobody has confirmed for a whole ack wait; once until somebody does."""
        for lease in leases:
            silent_s = now - lease.confirmed_at
            if silent_s > lease.ack_wait_s and not lease.troubled and lease.on_trouble is not None:
                lease.troubled = True
                self._tell(functools.partial(lease.on_trouble, silent_s))

    def _take_due(self) -> list[Lease]:
        now = suspended_too()
        due = []
        with self._lock:
            self._admit()
            while self._due and self._due[0][0] <= now:
                _, turn, lease = heapq.heappop(self._due)
                if not lease.settled and turn == lease.turn:
                    due.append(lease)
        return due

    def _admit(self) -> None:
        while self._newcomers:
            lease = self._newcomers.popleft()
            if not lease.settled:
                self._push(lease, lease.confirmed_at + lease.ack_wait_s / EXTENSIONS_PER_LEASE)

    def _again(self, leases: list[Lease], delay_s: float) -> None:
        with self._lock:
            for lease in leases:
                self._push(lease, suspended_too() + delay_s)

    def _all_due(self) -> None:
        """The server was away: every lease is extended, and a cancel may have been asked for that nobody told us of."""
        now = suspended_too()
        with self._lock:
            self._admit()
            self._due = [(now, order, lease) for _, order, lease in self._due]
            heapq.heapify(self._due)

    def _push(self, lease: Lease, at: float) -> None:
        lease.turn = next(self._order)  # an earlier one that is still in the heap does not count any more
        heapq.heappush(self._due, (at, lease.turn, lease))

    def _extend(self, lease: Lease) -> None:
        """Send +WPI unless the lease is settled; both under the lock, so that the settlement comes after."""
        assert self._connection is not None
        with self._lock:
            if lease.settled:
                return
            lease.extended = True
            self._push(lease, suspended_too() + lease.ack_wait_s / EXTENSIONS_PER_LEASE)
            try:
                answer = self._connection.request_nowait(lease.message.ack, b"+WPI")
            except TurnoutError:
                metrics.extended(confirmed=False)
                return  # the connection is down: the next turn tries again
        asked_at = suspended_too()

        def confirm(future: asyncio.Future[Received]) -> None:
            confirmed = not future.cancelled() and future.exception() is None
            if confirmed:
                self._tell_of_trouble({lease}, suspended_too())
                lease.confirmed_at = max(lease.confirmed_at, asked_at)
                lease.troubled = False
            if confirmed or not lease.settled:
                metrics.extended(confirmed=confirmed)

        answer.add_done_callback(confirm)

    async def _read(self, due: list[Lease], doubtful: set[Lease]) -> None:
        """Look at the records of the leases that were due: is a cancel asked for, are the doubtful still ours?"""
        assert self._connection is not None
        started = [lease for lease in due if lease.token is not None]
        for at in range(0, len(started), _READ_TOGETHER):
            part = started[at : at + _READ_TOGETHER]
            try:
                values = await last_values(
                    self._connection, kv_stream(self._names.jobs_bucket), [x.subject for x in part]
                )
            except TurnoutError:
                break
            revisions = {value.subject: value.seq for value in values}
            for lease in part:
                if revisions.get(lease.subject, 0) > lease.revision:
                    self._tell(lease.on_change)
        while doubtful:
            if not await self._resolve_doubt(lease := doubtful.pop()):
                # One question without an answer is enough: meanwhile nobody else's lease would be extended.
                self._again([lease, *doubtful], TICK_S)
                return

    async def _resolve_doubt(self, lease: Lease) -> bool:
        """Whether it could be found out whose the job is.

        After a whole ack wait without a confirmed extension somebody may have taken over: the record tells (P5).
        """
        assert self._connection is not None
        stored = None
        try:
            if lease.token is not None:
                stream = kv_stream(self._names.jobs_bucket)
                stored = await self._connection.get_message(stream, last_by_subj=lease.subject)
        except TurnoutError:
            return False
        if lease.token is not None:
            record = _readable(stored.data) if stored is not None and stored.data else None
            if record is None or not record.owned_by(lease.token):
                self._tell(lease.on_lost)
                return True
        self._extend(lease)
        return True

    async def _live(self, nodes: Nodes) -> None:
        """Keep the node's key alive; a write that fails or comes late costs the right to call others dead (P5)."""
        while True:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._alive_every_s):
                    await self._hurry.wait()
            try:
                await nodes.alive(self._describe())
                self.confident.succeeded()
            except TurnoutError as error:
                logger.warning("the node's liveness could not be written: %s", error)
                self.confident.failed()

    def _control(self, received: Received) -> None:
        try:
            body: Any = fastjson.loads(received.data)
            if "ask" in body:
                self._answer(received.reply, body)
            elif "cancel" in body:
                lease = self._leases.get(wire.load_token(body["cancel"]).nonce)
                if lease is not None:
                    lease.missed_change = lease.on_change is None
                    self._tell(lease.on_change)
            elif body.get("drain"):
                self._work_loop.call_soon_threadsafe(self._on_drain)
                self._send_here(received.reply, b'{"draining":true}')
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("a message on the control subject makes no sense: %s: %r", error, received.data[:200])

    def _answer(self, reply: str, body: dict[str, Any]) -> None:
        lease = self._leases.get(wire.load_token(body["ask"]).nonce)
        if lease is not None and body.get("exhausted"):
            lease.exhausted = True  # what we give back from now on must be put in anew (P7)
        self._send_here(reply, b'{"yes":true}' if lease is not None else b'{"yes":false}')
        if lease is not None:
            activity = lease.activity
            self._tell(lambda: self._on_doubt(activity))

    def _send_here(self, subject: str, data: bytes) -> None:
        if self._connection is not None and subject:
            with contextlib.suppress(Disconnected):
                self._connection.send(subject, data)

    def _tell(self, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            with contextlib.suppress(RuntimeError):
                self._work_loop.call_soon_threadsafe(callback)


def _readable(data: bytes) -> JobRecord | None:
    """The record, None for one of a newer version: whoever wrote that has taken over."""
    try:
        return wire.load_record(data)
    except UnreadableRecord:
        return None


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
