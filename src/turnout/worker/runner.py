"""A node at work: pulls, executes, watches its own loop, and stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.plain import rfc3339, utc
from turnout.core.struct import struct
from turnout.definition.activity import Activity
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.connection import ConnectOptions
from turnout.store.perform import Store
from turnout.store.topology import Topology
from turnout.telemetry import log_lines, metrics
from turnout.worker.attempt import CLEANUP_S, Attempt
from turnout.worker.code import CodeRunner
from turnout.worker.executor import Executor, NodeParts
from turnout.worker.failure import Redact
from turnout.worker.hooks import HookCaller
from turnout.worker.intake import Handling, Intake
from turnout.worker.keeper import LeaseKeeper, WorkLine
from turnout.worker.loop_watch import LoopWatch
from turnout.worker.routes import RouteFinder
from turnout.worker.workflows.runner import WorkflowRunner

logger = logging.getLogger("turnout.worker")

_ASKED_PAUSE_S = 1.0
_DECLARED_TOGETHER = 32
CLOCK_EVERY_S = 60.0


class WorkerDied(TurnoutError):
    """One of the loops that a worker lives by has ended; the process should too."""


@struct(kw_only=True)
class RunnerSettings:
    """What a worker has beside its activities: hooks to call, a redaction of errors, workflows, its own client.

    `fits_all`: whatever jobs require, this node has.
    """

    hooks: HookCaller | None = None
    redact: Redact | None = None
    workflows: WorkflowRunner | None = None
    client: Any = None
    fits_all: bool = False


_DEFAULTS = RunnerSettings()


class Runner:
    """Runs the jobs of `activities` until it is stopped. `node` describes the node as it starts."""

    def __init__(
        self,
        store: Store,
        options: ConnectOptions,
        activities: Mapping[str, Activity[..., Any]],
        node: NodeInfo,
        settings: RunnerSettings = _DEFAULTS,
    ) -> None:
        self._store = store
        self._hooks = settings.hooks
        self._workflows = settings.workflows
        self._activities = activities
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._code = CodeRunner(node.slots, settings.redact)
        work = WorkLine(
            describe=self.describe,
            up=lambda: store.connection.up,
            send=store.connection.send,
            on_drain=self._drain_when_asked,
            on_look=self._look,
            on_asked=self._asked,
            on_confirmed=self._confirmed,
        )
        self._keeper = LeaseKeeper(options, store.names, work, ttl_s=node.ttl)
        parts = NodeParts(
            id=node.id,
            keeper=self._keeper,
            code=self._code,
            on_saved=log_lines.logged(self._hooks.on_saved if self._hooks is not None else None),
            isolate=self._isolate,
            client=settings.client,
            workflows=settings.workflows.handover if settings.workflows is not None else None,
            slots=node.slots,
            properties=None if settings.fits_all else node.properties,
        )
        self._executor = Executor(store, activities, parts)
        self._watch = LoopWatch(node.id)
        handling = Handling(
            node=node.id,
            execute=self._executor.execute,
            decline=self._executor.decline,
            closed=lambda: self._keeper.trouble,
            asleep_s=self._watch.asleep_s,
        )
        routed = bool(node.properties)
        self._intake = Intake(store, activities, node.slots, handling, expires_s=node.ttl / 2, routed=routed)
        self._routes = RouteFinder(store, activities, node.properties, self._intake.open) if routed else None
        self._loops: list[asyncio.Task[None]] = []
        self._unwatched: Callable[[], None] = lambda: None
        self._draining = False
        self._hurried = asyncio.Event()
        self._asked_at: dict[str, float] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self.asked_to_drain = asyncio.Event()
        """Set when somebody has asked this node to drain, from afar."""

    # --- starting and stopping ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the node is registered and pulling. Errors are those of the connection."""
        topology = Topology(self._store.connection, self._store.names)
        await topology.ensure()
        await self._store.connection.sync_clock(self._store.names.work)
        declared = map(_declared, self._activities.values())
        for contract in await each(self._store.nodes.declare, declared, _DECLARED_TOGETHER):
            self._executor.contracts[contract.name] = contract
        retentions = {name: activity.settings.retention for name, activity in self._activities.items()}
        await self._store.settings.declare(retentions)
        for activity in self._activities.values():
            for limit in activity.limits:
                await self._store.limits.declare(limit.name, limit.rule)
        self._watch.start()
        metrics.serve(self._activities)
        self._unwatched = metrics.watch_node(self._node.id, self._use)
        await self._keeper.start()
        self._loops = [*await self._intake.start(), asyncio.create_task(self._keep_time(), name="that keeps the time")]
        if self._routes is not None:
            await self._routes.start()  # the node has said that it lives: who makes a route now tells it
            self._loops.append(asyncio.create_task(self._routes.run(), name="that finds routes"))
        if self._workflows is not None:
            self._loops += await self._workflows.start()
        if self._draining:  # asked to while it started: what has begun since ends as well
            self._draining = False
            self.drain()

    async def _keep_time(self) -> None:
        """Clocks part, and are set: what is due when is told by the server's, for as long as this node works."""
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            with contextlib.suppress(TurnoutError):
                await self._store.connection.sync_clock(self._store.names.work)

    async def failed(self) -> BaseException:
        """Waits until one of the loops has ended by itself, and tells why."""
        loops: list[asyncio.Future[Any]] = [*self._loops, self._keeper.ended]
        done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        if self._draining and self._keeper.ended not in done:
            done, _ = await asyncio.wait({self._keeper.ended})  # the others were told to end
        ended = done.pop()
        if ended.cancelled():
            return WorkerDied("a loop of the worker has ended: somebody cancelled it, who was not the worker")
        reason = ended.exception() or (ended.result() if ended is self._keeper.ended else None)
        return WorkerDied(f"a loop of the worker has ended: {reason or 'nobody knows why'}")

    @property
    def dead(self) -> list[str]:
        """What has ended though it was not told to. For any thread, like `unready`."""
        found = ["the lease thread has ended"] if self._keeper.dead else []
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
        found = [trouble for trouble in self._intake.trouble.values() if trouble is not None]
        found += self._workflows.trouble if self._workflows is not None else []
        if self._keeper.trouble is not None:
            found.append(self._keeper.trouble)
        if self._store.registry.trouble is not None:
            found.append(self._store.registry.trouble)
        blocked_s = self._watch.blocked_s
        return [*found, f"the event loop is blocked for {blocked_s:.1f} s"] if blocked_s else found

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
            "activities": {name: trouble is None for name, trouble in self._intake.trouble.items()},
            "jobs": [_running(attempt, now) for attempt in self.attempts],
            "leases": self._keeper.held,
            "connected": {"work": self._store.connection.up, "leases": self._keeper.up},
            "liveness_age_s": None if alive_at is None else round(boottime() - alive_at, 3),
        }

    def drain(self) -> None:
        """Take no more jobs; those that run go on."""
        if self._draining:
            return
        self._draining = True
        self._intake.drain()
        if self._workflows is not None:
            self._workflows.drain()
        for loop in self._loops:
            loop.cancel()
        self._keeper.refresh_liveness()

    def _drain_when_asked(self) -> None:
        self.drain()
        self.asked_to_drain.set()

    def _look(self, activity: str) -> None:
        if self._routes is not None:
            self._routes.look()
        if self._loops and not self._draining:
            self._intake.renew(activity)

    async def stop(self, grace_s: float) -> None:
        """Drain, let jobs end for `grace_s`, abort the rest, leave."""
        self.drain()
        await self._intake.stop()
        if self._workflows is not None:
            await self._workflows.stop(grace_s)
        if self._intake.tasks and grace_s > 0:
            await self._let_end(grace_s)
        self._executor.abort()
        if self._intake.tasks:
            _, left = await asyncio.wait(self._intake.tasks, timeout=CLEANUP_S + 2.0)
            for task in left:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEANUP_S):
                while self._executor.finishing:  # what fails there goes on as another
                    await asyncio.wait(self._executor.finishing)
                await self._store.places.settled()
        if self._loops:
            await asyncio.wait(self._loops)
        self._draining = True
        self._watch.stop()
        self._unwatched()
        await self._keeper.stop()
        if self._hooks is not None:
            await self._hooks.close()
        self._code.close()

    async def _let_end(self, grace_s: float) -> None:
        """Wait for what runs; `abort_now` ends that as well: what can't be written while NATS is away does not end."""
        hurried = asyncio.create_task(self._hurried.wait())
        running = asyncio.create_task(asyncio.wait(self._intake.tasks))
        await asyncio.wait({hurried, running}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        running.cancel()

    def abort_now(self) -> None:
        """Ask everything that runs to stop at once."""
        self._hurried.set()
        self._executor.abort()

    def describe(self) -> NodeInfo:
        """The node as it is now. Called from the lease thread as well."""
        refused = [*self._intake.refused, *(self._workflows.refused if self._workflows is not None else [])]
        more = f", and so for {len(refused) - 1} more" if len(refused) > 1 else ""
        return attrs.evolve(
            self._node,
            running=self._intake.running,
            waiting=self._executor.waiting,
            draining=self._draining,
            refused=f"{refused[0]}{more}" if refused else "",
        )

    def _use(self) -> metrics.NodeUse:
        """Called by whoever collects metrics, in any thread."""
        return metrics.NodeUse(self._intake.running_of, self._node.slots)

    @property
    def pulling(self) -> bool:
        """Whether every activity is being pulled."""
        return bool(self._loops) and not self.unready

    def _asked(self, activity: str) -> None:
        """Somebody was handed a job that runs here: the server's lease may be shorter now than the one that is kept."""
        now = boottime()
        if activity in self._activities and now - self._asked_at.get(activity, 0.0) > _ASKED_PAUSE_S:
            self._asked_at[activity] = now
            task = self._loop.create_task(self._refresh(activity))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)

    async def _isolate(self) -> None:
        await self._intake.isolate()

    def _confirmed(self) -> None:
        """Leases can be kept, perhaps again."""
        if self._loops and not self._draining:
            self._intake.reopen()

    async def _refresh(self, activity: str) -> None:
        with contextlib.suppress(TurnoutError):  # whoever asks next is reason to look again
            self._keeper.shorten(activity, await self._intake.refresh(activity))


def new_node(name: str, activities: Iterable[str], slots: int, host: str, workflows: Iterable[str] = ()) -> NodeInfo:
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
        workflows=tuple(sorted(workflows)),
        slots=slots,
    )


def _running(attempt: Attempt, now: float) -> dict[str, Any]:
    record = attempt.record
    started_at = record.attempts[-1].started_at
    return {
        "id": record.id,
        "activity": record.activity,
        "attempt": record.attempt,
        "since": rfc3339(utc(started_at), "milliseconds"),
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
