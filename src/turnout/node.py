"""`Worker`: a node, composed over a client's connection."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import attrs

from turnout.client.client import Client
from turnout.client.info import Bodies, JobInfo, job_info
from turnout.client.reader import Reader
from turnout.client.workflows.info import WorkflowInfo, child_info
from turnout.core.changes import Change
from turnout.core.record import JobRecord
from turnout.core.retry import seconds
from turnout.core.routing import checked_properties
from turnout.core.spec import valid_name
from turnout.core.workflows.values import Command, Ending
from turnout.definition.activity import Activity
from turnout.definition.hooks import Hooks
from turnout.definition.options import given_list
from turnout.errors import DefinitionError, InvalidValue
from turnout.nats.once import AWAY_S
from turnout.store.nodes import MAX_TTL_S
from turnout.store.perform import Performer
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.supervisor.thread import SupervisorThread
from turnout.worker.failure import Redact
from turnout.worker.health import HealthServer, Report
from turnout.worker.hooks import HookCaller
from turnout.worker.lifespan import Lifespan, LifespanCode
from turnout.worker.loop_watch import running as running_stacks
from turnout.worker.process.parent import locate
from turnout.worker.runner import Runner, RunnerSettings, WorkerDied, new_node
from turnout.worker.workflows.build import build_of
from turnout.worker.workflows.driver import DriverOptions
from turnout.worker.workflows.runner import WorkflowRunner, workflows_by_name

logger = logging.getLogger("turnout.worker")


class UserViews:
    """What workflows see of the jobs and children that have ended: the same as everybody else."""

    def job(self, record: JobRecord) -> JobInfo:
        return job_info(record, Bodies(record.spec.payload.text, None, None))

    def child(self, workflow_id: str, name: str, ending: Ending, asked: Command | None, parent: str) -> WorkflowInfo:
        return child_info(workflow_id, name, ending, asked, parent)


class Worker:
    """Runs jobs of these activities, up to `concurrency` at a time, and does the tasks of these workflows.

    `name` defaults to the host's; the node's id adds a random part. `liveness_ttl` is the seconds after which others
    take this node for dead when it falls silent. `hooks` are told of the jobs of all its activities. `health` is the
    address and port on which /livez, /readyz, /status and /metrics are served over HTTP; port 0 takes a free one.
    `redact` takes the message and the traceback of every error that the code raises, and returns what may be kept
    of it: nothing else is recorded, logged or traced. `properties`, such as {"region": "east"}, are what jobs may
    require of their node. `build` names the version of the workflows' code, by default by a hash of it; with `pin` a
    run stays with workers of the build that begins it. `verify` is the share of the workflow tasks, from 0 to 1, whose
    run is replayed from its start and compared: code that depends on more than its history is told of in the log before
    a restart finds it; 0.01 costs at most some 3 % more CPU. It installs no signal handlers.

    `on_startup` runs before the first job is taken, `on_shutdown` after the last one has ended; `lifespan` gives an
    async context manager around both. Each takes the worker or nothing, and runs on the worker's event loop. When the
    start raises, so does the worker's, and no job is taken.

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            global pool
            async with create_pool() as pool:
                yield

        async with Client.connect() as client, Worker(client, activities=[convert_video], lifespan=lifespan):
            ...

    DefinitionError (a TypeError) for two activities of one name or something undecorated, InvalidValue for a bad value.
    """

    def __init__(
        self,
        client: Client,
        *,
        activities: Iterable[Activity[..., Any]] = (),
        workflows: Iterable[object] = (),
        concurrency: int = 10,
        name: str | None = None,
        liveness_ttl: float = 10.0,
        hooks: Hooks | None = None,
        health: tuple[str, int] | None = None,
        redact: Redact | None = None,
        on_startup: Callable[..., Any] | None = None,
        on_shutdown: Callable[..., Any] | None = None,
        lifespan: Callable[..., AbstractAsyncContextManager[Any]] | None = None,
        max_cached_workflows: int = 1000,
        build: str | None = None,
        properties: Mapping[str, str] | None = None,
        pin: bool = False,
        verify: float = 0.0,
    ) -> None:
        slots = _checked_slots(concurrency)
        if not isinstance(hooks, Hooks | None):
            raise DefinitionError(f"hooks must be a turnout.Hooks, not {hooks!r}")
        if redact is not None and not callable(redact):
            raise DefinitionError(f"redact must be a function that takes a text and returns one, not {redact!r}")
        self._client = client
        self._hooks = hooks
        self._redact = redact
        self._caller: HookCaller | None = None
        self._lifespan = Lifespan(LifespanCode(on_startup=on_startup, on_shutdown=on_shutdown, lifespan=lifespan), self)
        self._workflows = workflows_by_name(workflows)
        self._activities = _by_name(activities, needed=not self._workflows)
        self._max_cached = _checked_cache(max_cached_workflows)
        self._build = build_of(self._workflows.values()) if build is None else _checked_build(build)
        if not isinstance(pin, bool):
            raise InvalidValue(f"pin must be True or False, not {pin!r}")
        self._pins = pin
        self._verify = _checked_share(verify)
        host = socket.gethostname()
        node = new_node(_checked_name(name, host), self._activities, slots, host, self._workflows)
        ttl_s = _checked_ttl(liveness_ttl)
        has = {} if properties is None else checked_properties(properties, "properties")
        own = self._build if self._workflows else ""
        self._node = attrs.evolve(node, ttl=ttl_s, properties=has, build=own, pins=self._pins and bool(own))
        self._runner: Runner | None = None
        self._supervisor = SupervisorThread(self._make_supervisor)
        self._health = HealthServer(*_address(health), self._report) if health is not None else None
        self._stopping: asyncio.Task[None] | None = None
        self._death: asyncio.Task[BaseException] | None = None
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
        """Returns when the node is registered and pulling. A connection that is away for a moment is waited for."""
        if self._runner is not None:
            raise DefinitionError("this worker has been started before; make a new one")
        node = attrs.evolve(self._node, started_at=self._client.store.connection.now())
        self._caller = self._make_caller()
        settings = RunnerSettings(
            hooks=self._caller, redact=self._redact, workflows=self._make_workflows(), client=self._client
        )
        self._runner = Runner(self._client.store, self._client.connect_options, self._activities, node, settings)
        try:
            if self._health is not None:
                await self._health.start()
            await self._client.store.connection.wait_up(timeout_s=AWAY_S)
            await self._lifespan.begin()
            await self._runner.start()
        except BaseException:
            await self._runner.stop(0)
            await self._lifespan.end()
            if self._health is not None:
                await self._health.stop()
            raise
        self._supervisor.start()
        self._death = asyncio.create_task(self._died(self._runner, self._supervisor.failed))
        self._death.add_done_callback(_tell_of_death)

    async def run(self, *, grace: float | timedelta = 30.0) -> None:
        """Work until `stop()` is called. A node that is drained from afar stops with this `grace`.

        WorkerDied when one of the loops that a worker lives by has ended. Without `run` that is only logged.
        """
        seconds(grace, "grace")
        if self._runner is None:
            await self.start()
        runner, death = self._runner, self._death
        assert runner is not None and death is not None
        asked = [asyncio.create_task(self._ended.wait()), asyncio.create_task(runner.asked_to_drain.wait())]
        try:
            await asyncio.wait([*asked, death], return_when=asyncio.FIRST_COMPLETED)
            if self._stopping is not None:
                await self._ended.wait()
            elif death.done():
                await self.stop(grace=0)
                raise death.result()
            else:
                await self.stop(grace)
        finally:
            for task in asked:
                task.cancel()

    async def _died(self, runner: Runner, supervised: asyncio.Future[BaseException | None]) -> BaseException:
        """Waits until one of the loops that the worker lives by has ended by itself, and tells which."""
        died = asyncio.create_task(runner.failed())
        waits: list[asyncio.Future[Any]] = [died, supervised]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return died.result() if died.done() else WorkerDied(f"the supervisor has ended: {supervised.result()!r}")
        finally:
            died.cancel()

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
        if self._death is not None:
            self._death.cancel()
        try:
            await self._runner.stop(grace_s)
        finally:
            await self._lifespan.end()
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

    def _make_workflows(self) -> WorkflowRunner | None:
        if not self._workflows:
            return None
        options = DriverOptions(
            node=self.id,
            build=self._build,
            pins=self._pins,
            max_cached=self._max_cached,
            redact=self._redact,
            verify=self._verify,
            activities=self._activities,
            client=self._client,
        )
        return WorkflowRunner(self._client.store, self._workflows, UserViews(), options)

    def _make_caller(self) -> HookCaller | None:
        everybodys = [self._hooks or Hooks(), *(each.settings for each in self._activities.values())]
        if not any(hooks.of(change) for hooks in everybodys for change in Change):
            return None
        store = self._client.store
        return HookCaller(self._activities, everybodys[0], Reader(store, Performer(store)).info)

    def _make_supervisor(self) -> Supervisor:
        client = self._client
        return Supervisor(
            client.connect_options,
            client.store.names,
            name=self.id,
            options=SupervisorOptions(liveness_ttl=self._node.ttl),
            on_saved=self._caller.on_saved if self._caller is not None else None,
        )

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _tell_of_death(death: asyncio.Task[BaseException]) -> None:
    """To whoever has the worker run beside other code, in a program of their own, nobody raises it."""
    if not death.cancelled():
        logger.error("the worker has died, end it and start another one: %s", death.result())


def _address(health: tuple[str, int]) -> tuple[str, int]:
    match health:
        case (str(host), int(port)) if 0 <= port <= 65_535:
            return host, port
        case _:
            raise InvalidValue(f"health must be an address and a port from 0 to 65535, not {health!r}")


def _checked_slots(concurrency: object) -> int:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= 100_000:
        raise InvalidValue(f"concurrency must be an integer from 1 to 100000, not {concurrency!r}")
    return concurrency


def _checked_name(name: str | None, host: str) -> str:
    """The name that was given, or one made of the host's."""
    found = valid_name(name, "name") if name is not None else re.sub(r"[^A-Za-z0-9_-]", "-", host)[:50] or "node"
    if len(found) > 57:
        raise InvalidValue(f"name must be at most 57 characters, so that the node's id is valid: {name!r}")
    return found


def _checked_ttl(liveness_ttl: float) -> float:
    ttl_s = seconds(liveness_ttl, "liveness_ttl", least=1.0)
    if ttl_s > MAX_TTL_S:
        raise InvalidValue(f"liveness_ttl must be at most {MAX_TTL_S:g} s, not {liveness_ttl!r}")
    return ttl_s


def _checked_build(build: str) -> str:
    if not isinstance(build, str) or not 1 <= len(build) <= 100 or not build.isprintable():
        raise InvalidValue(f"build must be a text of 1 to 100 characters, not {build!r}")
    return build


def _checked_cache(most: int) -> int:
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise InvalidValue(f"max_cached_workflows must be an integer of at least 0, not {most!r}")
    return most


def _checked_share(share: float) -> float:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InvalidValue(f"verify must be a number from 0 to 1, such as 0.01, not {share!r}")
    return float(share)


def _by_name(activities: Iterable[Activity[..., Any]], *, needed: bool = True) -> dict[str, Activity[..., Any]]:
    found: dict[str, Activity[..., Any]] = {}
    for each in given_list(activities, "activities"):
        if not isinstance(each, Activity):
            raise DefinitionError(f"{each!r} is no activity: decorate it with @activity")
        if each.name in found:
            raise DefinitionError(f"two activities are called {each.name}: give one of them another name")
        each.codec.prepare()
        if each.settings.run_in == "process":
            locate(each)
        found[each.name] = each
    if needed and not found:
        raise DefinitionError("a worker needs at least one activity or workflow")
    return found
