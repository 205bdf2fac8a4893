"""A node at work: pulls, executes, watches its own loop, and stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from turnout import wire
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.loglines import fields
from turnout.core.values import Delivery
from turnout.definition.activity import Activity
from turnout.errors import TurnoutError
from turnout.jetstream.connection import ConnectOptions
from turnout.jetstream.perform import Store
from turnout.jetstream.suspension import suspended_too
from turnout.jetstream.topology import ConsumerOptions, Topology
from turnout.telemetry import metrics
from turnout.worker.attempt import CLEANUP_S, Attempt
from turnout.worker.code import CodeRunner
from turnout.worker.executor import Executor
from turnout.worker.hooks import HookCaller
from turnout.worker.lease import Callbacks, LeaseKeeper
from turnout.worker.pull import HOLD_S, Puller
from turnout.worker.slots import Slots

logger = logging.getLogger("turnout.worker")

AWAKE_EVERY_S = 0.25
BLOCKED_AFTER_S = 2.0
_DOUBT_PAUSE_S = 1.0
CLOCK_EVERY_S = 60.0


class WorkerDied(TurnoutError):
    """One of the loops that a worker lives by has ended; the process should too."""


class Runner:
    """Runs the jobs of `activities` until it is stopped. `node` describes the node as it starts."""

    def __init__(
        self,
        store: Store,
        options: ConnectOptions,
        activities: Mapping[str, Activity[..., Any]],
        node: NodeInfo,
        hooks: HookCaller | None = None,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._activities = activities
        self._node = node
        self._loop = asyncio.get_running_loop()
        limits = {name: each.settings.concurrency or node.slots for name, each in activities.items()}
        self._slots = Slots(node.slots, limits)
        self._code = CodeRunner(node.slots)
        callbacks = Callbacks(
            describe=self.describe,
            send=store.connection.send,
            on_drain=self._drain_as_told,
            on_doubt=self._doubted,
        )
        self._keeper = LeaseKeeper(options, store.names, callbacks, ttl_s=node.ttl)
        saved = hooks.saved if hooks is not None else None
        self._executor = Executor(store, node.id, activities, self._keeper, self._code, saved)
        self._pullers = {name: self._puller(name) for name in activities}
        self._held: dict[str, deque[tuple[Delivery, float, asyncio.TimerHandle]]] = {n: deque() for n in activities}
        self._running: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._awake = (suspended_too(), suspended_too())
        self._tick_due = 0.0
        self._unwatched: Callable[[], None] = lambda: None
        self._draining = False
        self._hurried = asyncio.Event()
        self._stopped = False
        self._doubted_at: dict[str, float] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self.told_to_drain = asyncio.Event()
        """Set when somebody has asked this node to drain, from afar."""

    # --- starting and stopping ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the node is registered and pulling. Errors are those of the connection."""
        topology = Topology(self._store.connection, self._store.names)
        await topology.ensure()
        await self._store.connection.sync_clock(self._store.names.work)
        for each in self._activities.values():
            await self._store.nodes.declare(_declared(each))
        self._tick_due = self._loop.time()
        self._tick()
        metrics.serve(self._activities)
        self._unwatched = metrics.watch_node(self._node.id, self._use)
        await self._keeper.start()
        watch = threading.Thread(target=self._watch_loop, name="turnout-watch", daemon=True)
        watch.start()
        for puller in self._pullers.values():
            await puller.start()
        pulling = [asyncio.create_task(puller.run(), name=f"that pulls {n}") for n, puller in self._pullers.items()]
        self._loops = [*pulling, asyncio.create_task(self._keep_time(), name="that keeps the time")]

    async def _keep_time(self) -> None:
        """Clocks part, and are set: what is due when is told by the server's, for as long as this node works."""
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            with contextlib.suppress(TurnoutError):
                await self._store.connection.sync_clock(self._store.names.work)

    async def failed(self) -> BaseException:
        """Waits until one of the loops has ended by itself, and tells why."""
        loops: list[asyncio.Future[Any]] = [*self._loops, self._keeper.failed]
        done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        if self._draining and self._keeper.failed not in done:
            done, _ = await asyncio.wait({self._keeper.failed})  # the others were told to end
        ended = done.pop()
        if ended.cancelled():
            return WorkerDied("a loop of the worker has ended: somebody cancelled it, who was not the worker")
        reason = ended.exception() or (ended.result() if ended is self._keeper.failed else None)
        return WorkerDied(f"a loop of the worker has ended: {reason or 'nobody knows why'}")

    @property
    def dead(self) -> list[str]:
        """What has ended though it was not told to. For any thread, like `unready`."""
        found = ["the lease thread has ended"] if self._keeper.failed.done() and not self._stopped else []
        if not self._draining:
            found += [f"the loop {loop.get_name()} has ended" for loop in self._loops if loop.done()]
        return found

    @property
    def unready(self) -> list[str]:
        """Why no job can be taken, if so."""
        if self._draining:
            return ["the node is draining"]
        if not self._loops:
            return ["the worker is starting"]
        found = [trouble for puller in self._pullers.values() if (trouble := puller.trouble) is not None]
        if not self._keeper.up:
            found.append("the lease thread is not connected")
        blocked_s = suspended_too() - self._awake[1]
        return [*found, f"the event loop is blocked for {blocked_s:.1f} s"] if blocked_s > BLOCKED_AFTER_S else found

    @property
    def attempts(self) -> list[Attempt]:
        """What runs. For any thread."""
        return list(self._executor.attempts.values())

    def status(self) -> dict[str, Any]:
        """The node and what it does, for people and machines to look at. For any thread."""
        node, now = self.describe(), self._store.connection.now()
        alive_at = self._keeper.confident.in_time_at
        return {
            "node": {"id": node.id, "name": node.name, "host": node.host, "pid": node.pid, "version": node.version},
            "uptime_s": round(now - node.started_at, 3),
            "draining": node.draining,
            "slots": {"all": node.slots, "running": node.running},
            "activities": {name: puller.trouble is None for name, puller in self._pullers.items()},
            "jobs": [_running(attempt, now) for attempt in self.attempts],
            "leases": self._keeper.held,
            "connected": {"work": self._store.connection.up, "leases": self._keeper.up},
            "liveness_age_s": None if alive_at is None else round(suspended_too() - alive_at, 3),
        }

    def drain(self) -> None:
        """Take no more jobs; those that run go on."""
        if self._draining:
            return
        self._draining = True
        for waiting in self._held.values():
            while waiting:
                self._give_back(waiting[0][0].activity)
        for loop in self._loops:
            loop.cancel()
        self._keeper.refresh_liveness()

    def _drain_as_told(self) -> None:
        self.drain()
        self.told_to_drain.set()

    async def stop(self, grace_s: float) -> None:
        """Drain, let jobs end for `grace_s`, abort the rest, leave."""
        self.drain()
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        if self._running and grace_s > 0:
            await self._let_end(grace_s)
        self._executor.abort()
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=CLEANUP_S + 2.0)
            for task in left:
                task.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._draining = True
        self._loop_watched = False
        self._unwatched()
        self._stopped = True
        await self._keeper.stop()
        if self._hooks is not None:
            await self._hooks.close()
        self._code.close()

    async def _let_end(self, grace_s: float) -> None:
        """Wait for what runs; `abort_now` ends that as well: what can't be written while NATS is away does not end."""
        hurried = asyncio.create_task(self._hurried.wait())
        running = asyncio.create_task(asyncio.wait(self._running))
        await asyncio.wait({hurried, running}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        running.cancel()

    def abort_now(self) -> None:
        """Ask everything that runs to stop at once."""
        self._hurried.set()
        self._executor.abort()

    def describe(self) -> NodeInfo:
        """The node as it is now. Called from the lease thread as well."""
        return attrs.evolve(self._node, running=self._slots.running, draining=self._draining)

    def _use(self) -> metrics.NodeUse:
        """Called by whoever collects metrics, in any thread."""
        return metrics.NodeUse(dict.fromkeys(self._activities, 0) | self._slots.running_of, self._node.slots)

    @property
    def pulling(self) -> bool:
        """Whether every activity is being pulled."""
        return not self._draining and all(puller.pulling for puller in self._pullers.values())

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def _puller(self, name: str) -> Puller:
        settings = self._activities[name].settings
        topology = Topology(self._store.connection, self._store.names)
        options = ConsumerOptions(
            lease=settings.lease,
            max_attempts=settings.retry.max_attempts,
            max_lost=settings.max_lost,
            global_concurrency=settings.global_concurrency,
        )

        async def ensure(update: bool) -> tuple[float, int]:
            config = await topology.ensure_consumer(name, options, update=update)
            return config["ack_wait"] / 1e9, int(config.get("max_deliver", -1))

        return Puller(
            self._store.connection,
            self._store.names,
            name,
            self._slots,
            ensure=ensure,
            accept=self._accept,
        )

    def _accept(self, delivery: Delivery, ack_wait_s: float) -> None:
        if suspended_too() - self._awake[0] > ack_wait_s:
            return  # it may have lain here while we slept, and be another's by now: its lease brings it back (P9)
        if self._draining:
            self._nak(delivery)
        elif self._slots.free(delivery.activity) > 0:
            self._execute(delivery, ack_wait_s)
        else:
            timer = self._loop.call_later(min(HOLD_S, ack_wait_s / 3), self._give_back, delivery.activity)
            self._held[delivery.activity].append((delivery, ack_wait_s, timer))
            self._slots.hold(delivery.activity, +1)

    def _execute(self, delivery: Delivery, ack_wait_s: float) -> None:
        self._slots.take(delivery.activity)
        task = self._loop.create_task(self._executor.execute(delivery, ack_wait_s))
        self._running.add(task)
        task.add_done_callback(lambda done: self._executed(done, delivery))

    def _executed(self, task: asyncio.Task[None], delivery: Delivery) -> None:
        self._running.discard(task)
        self._slots.give(delivery.activity)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "job %s could not be executed; its lease brings it back",
                delivery.id,
                exc_info=task.exception(),
                extra=fields(delivery.id, delivery.activity, node=self._node.id),
            )
        self._fill()

    def _doubted(self, activity: str) -> None:
        """Somebody was handed a job that runs here: the server's lease may be shorter now than the one that is kept."""
        now = suspended_too()
        if activity in self._pullers and now - self._doubted_at.get(activity, 0.0) > _DOUBT_PAUSE_S:
            self._doubted_at[activity] = now
            task = self._loop.create_task(self._refresh(activity))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)

    async def _refresh(self, activity: str) -> None:
        puller = self._pullers[activity]
        with contextlib.suppress(TurnoutError):  # whoever asks next is reason to look again
            await puller.refresh()
            self._keeper.shorten(activity, puller.ack_wait_s)

    def _fill(self) -> None:
        """Slots are free: those that wait for one come first, then the server is asked for more."""
        for name, waiting in self._held.items() if self._slots.held else ():
            while waiting and self._slots.free(name) > 0:
                delivery, ack_wait_s, timer = waiting.popleft()
                timer.cancel()
                self._slots.hold(name, -1)
                self._execute(delivery, ack_wait_s)
        if not self._draining:
            for puller in self._pullers.values():
                puller.slot_freed()

    def _give_back(self, activity: str) -> None:
        """The one that has waited longest has waited long enough: another node may have a slot for it."""
        delivery, _, timer = self._held[activity].popleft()
        timer.cancel()
        self._slots.hold(activity, -1)
        self._nak(delivery)

    def _nak(self, delivery: Delivery) -> None:
        with contextlib.suppress(TurnoutError):
            self._store.connection.send(delivery.message.ack, b"-NAK")

    # --- the loop itself ----------------------------------------------------------------------------------------------

    _loop_watched = True

    def _tick(self) -> None:
        """Note that the loop is awake. A delivery counts as old as the last note but one (P9)."""
        self._awake = (self._awake[1], suspended_too())
        metrics.woke(self._node.id, self._loop.time() - self._tick_due)
        self._tick_due = self._loop.time() + AWAKE_EVERY_S
        if self._loop_watched:
            self._loop.call_later(AWAKE_EVERY_S, self._tick)

    def _watch_loop(self) -> None:
        """In a thread: tell who blocks the event loop, once each time. The leases are kept meanwhile."""
        told = 0.0
        thread = threading.main_thread().ident if self._ident is None else self._ident
        pause = threading.Event()
        while self._loop_watched and not self._loop.is_closed():
            pause.wait(0.5)
            asleep = self._awake[1]
            if suspended_too() - asleep > BLOCKED_AFTER_S and asleep != told and thread is not None:
                told = asleep
                frame = sys._current_frames().get(thread)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
                logger.warning(
                    "the event loop has been blocked for more than %g s; use a sync activity for such code. Stack:\n%s",
                    *(BLOCKED_AFTER_S, stack),
                )

    @property
    def _ident(self) -> int | None:
        return getattr(self._loop, "_thread_id", None)


def new_node(name: str, activities: Mapping[str, Activity[..., Any]], slots: int, host: str) -> NodeInfo:
    """A node of this name; the random part tells it from its predecessors."""
    import os

    from turnout.version import version

    return NodeInfo(
        id=f"{name}-{secrets.token_hex(3)}",
        name=name,
        host=host,
        pid=os.getpid(),
        version=version(),
        activities=tuple(sorted(activities)),
        slots=slots,
    )


def _running(attempt: Attempt, now: float) -> dict[str, Any]:
    record = attempt.record
    started_at = record.attempts[-1].started_at
    return {
        "id": record.id,
        "activity": record.activity,
        "attempt": record.attempt,
        "since": dt.datetime.fromtimestamp(started_at, dt.UTC).isoformat(timespec="milliseconds"),
        "running_s": round(now - started_at, 3),
        "cancel_reason": attempt.context.cancel_reason,
    }


def _declared(activity: Activity[..., Any]) -> ActivityInfo:
    settings = activity.settings
    return ActivityInfo(
        name=activity.name,
        doc=activity.doc,
        payload_schema=activity.codec.payload_schema(),
        result_schema=activity.codec.result_schema(),
        options={**settings.declared, "retry": wire.dump_retry(settings.retry)},
    )
