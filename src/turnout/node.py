"""`Worker`: a node, composed over a client's connection."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import attrs

from turnout.client.client import Client
from turnout.client.reader import Reader
from turnout.core.moments import Moment
from turnout.core.retry import seconds
from turnout.core.values import valid_name
from turnout.definition.activity import Activity
from turnout.definition.hooks import Hooks
from turnout.errors import DefinitionError, InvalidValue
from turnout.jetstream.perform import Performer
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.supervisor.thread import SupervisorThread
from turnout.worker.health import HealthServer, Report
from turnout.worker.hooks import HookCaller
from turnout.worker.process import locate
from turnout.worker.runner import Runner, WorkerDied, new_node
from turnout.worker.stacks import running as running_stacks

logger = logging.getLogger("turnout.worker")


class Worker:
    """Runs jobs of these activities, up to `concurrency` at a time.

    `name` defaults to the host's; the node's id adds a random part. `liveness_ttl` is the seconds after which others
    take this node for dead when it falls silent. `hooks` are told of the jobs of all its activities. `health` is the
    address and port on which /livez, /readyz, /status and /metrics are served over HTTP; port 0 takes a free one. It
    installs no signal handlers.

        async with Client.connect() as client, Worker(client, activities=[convert_video]):
            ...

    DefinitionError (a TypeError) for two activities of one name or something undecorated, InvalidValue for a bad value.
    """

    def __init__(
        self,
        client: Client,
        *,
        activities: Iterable[Activity[..., Any]],
        concurrency: int = 10,
        name: str | None = None,
        liveness_ttl: float = 10.0,
        hooks: Hooks | None = None,
        health: tuple[str, int] | None = None,
    ) -> None:
        slots: object = concurrency
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 100_000:
            raise InvalidValue(f"concurrency must be an integer from 1 to 100000, not {concurrency!r}")
        if not isinstance(hooks, Hooks | None):
            raise DefinitionError(f"hooks must be a turnout.Hooks, not {hooks!r}")
        self._client = client
        self._hooks = hooks
        self._caller: HookCaller | None = None
        self._activities = _by_name(activities)
        host = socket.gethostname()
        node_name = (
            valid_name(name, "name") if name is not None else re.sub(r"[^A-Za-z0-9_-]", "-", host)[:50] or "node"
        )
        if len(node_name) > 57:
            raise InvalidValue(f"name must be at most 57 characters, so that the node's id is valid: {name!r}")
        node = new_node(node_name, self._activities, concurrency, host)
        self._node = attrs.evolve(node, ttl=seconds(liveness_ttl, "liveness_ttl", least=1.0))
        self._runner: Runner | None = None
        self._supervisor = SupervisorThread(self._make_supervisor)
        self._health = HealthServer(*_address(health), self._report) if health is not None else None
        self._stopping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def id(self) -> str:
        """The node's id: its name and a random part."""
        return self._node.id

    @property
    def ready(self) -> bool:
        """Whether the worker pulls jobs of all its activities right now."""
        return self._runner is not None and self._runner.pulling

    @property
    def health_port(self) -> int | None:
        """The port on which the worker's health is served, once it has started."""
        return self._health.port if self._health is not None else None

    def stacks(self) -> str:
        """What runs right now, with the stacks of tasks and threads: for a log. May be called from any thread."""
        return running_stacks(self._runner.attempts if self._runner is not None else [])

    async def start(self) -> None:
        """Returns when the node is registered and pulling."""
        if self._runner is not None:
            raise DefinitionError("this worker has been started before; make a new one")
        node = attrs.evolve(self._node, started_at=self._client.store.connection.now())
        self._caller = self._make_caller()
        self._runner = Runner(self._client.store, self._client.connect_options, self._activities, node, self._caller)
        try:
            if self._health is not None:
                await self._health.start()
            await self._runner.start()
        except BaseException:
            await self._runner.stop(0)
            if self._health is not None:
                await self._health.stop()
            raise
        self._supervisor.start()

    async def run(self, *, grace: float | timedelta = 30.0) -> None:
        """Work until `stop()` is called. A node that is drained from afar stops with this `grace`.

        WorkerDied when one of the loops that a worker lives by has ended.
        """
        seconds(grace, "grace")
        if self._runner is None:
            await self.start()
        runner, supervised = self._runner, self._supervisor.failed
        assert runner is not None and supervised is not None
        died = asyncio.create_task(runner.failed())
        told = [asyncio.create_task(self._ended.wait()), asyncio.create_task(runner.told_to_drain.wait())]
        waits: list[asyncio.Future[Any]] = [*told, died, supervised]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping is not None:
                await self._ended.wait()
            elif died.done() or supervised.done():
                await self.stop(grace=0)
                raise died.result() if died.done() else WorkerDied(f"the supervisor has ended: {supervised.result()!r}")
            else:
                await self.stop(grace)
        finally:
            for task in (*told, died):
                task.cancel()

    async def stop(self, grace: float | timedelta = 30.0) -> None:
        """Take no more jobs, let those that run end for `grace` seconds, then abort them: other nodes go on with them.

        A second call shortens the first one's grace to its own.
        """
        grace_s = seconds(grace, "grace")
        if self._runner is None:
            self._ended.set()
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        else:
            asyncio.get_running_loop().call_later(grace_s, self._runner.abort_now)
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        assert self._runner is not None
        try:
            await self._runner.stop(grace_s)
        finally:
            await self._supervisor.stop()
            if self._health is not None:
                await self._health.stop()
            self._ended.set()

    def _report(self) -> Report:
        """Called from the thread that serves the worker's health."""
        runner, supervisor = self._runner, self._supervisor
        if runner is None:
            return Report(dead=[], unready=["the worker is starting"], status={})
        dead = [*runner.dead, *(["the supervisor has ended"] if supervisor.dead else [])]
        status = {**runner.status(), "supervisor": {"alive": supervisor.alive, "acting": supervisor.acting}}
        return Report(dead=dead, unready=runner.unready, status=status)

    def _make_caller(self) -> HookCaller | None:
        everybodys = [self._hooks or Hooks(), *(each.settings for each in self._activities.values())]
        if not any(hooks.of(moment) for hooks in everybodys for moment in Moment):
            return None
        store = self._client.store
        return HookCaller(self._activities, everybodys[0], Reader(store, Performer(store)).info)

    def _make_supervisor(self) -> Supervisor:
        client = self._client
        return Supervisor(
            client.connect_options,
            client.store.names,
            name=self.id,
            retention=client.retention,
            options=SupervisorOptions(liveness_ttl=self._node.ttl),
            saved=self._caller.saved if self._caller is not None else None,
        )

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _address(health: tuple[str, int]) -> tuple[str, int]:
    match health:
        case (str(host), int(port)) if 0 <= port <= 65_535:
            return host, port
        case _:
            raise InvalidValue(f"health must be an address and a port from 0 to 65535, not {health!r}")


def _by_name(activities: Iterable[Activity[..., Any]]) -> dict[str, Activity[..., Any]]:
    found: dict[str, Activity[..., Any]] = {}
    for each in activities:
        if not isinstance(each, Activity):
            raise DefinitionError(f"{each!r} is no activity: decorate it with @activity")
        if each.name in found:
            raise DefinitionError(f"two activities are called {each.name}: give one of them another name")
        each.codec.prepare()
        if each.settings.run_in == "process":
            locate(each)
        found[each.name] = each
    if not found:
        raise DefinitionError("a worker needs at least one activity")
    return found
