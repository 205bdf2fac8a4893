"""Workflows without a server, in virtual time: the production code of clients and workers over a server in memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Coroutine, Iterable
from datetime import timedelta
from typing import Any, ParamSpec, Self, TypeVar, overload

from turnout.client.client import Client
from turnout.client.workflows.handle import AnyWorkflowHandle, WorkflowHandle
from turnout.client.workflows.reader import WorkflowReader
from turnout.core.retry import seconds
from turnout.core.workflows.values import Record, RecordKind, Wait, WaitKind
from turnout.definition.workflow import NamedWorkflow, Workflow, WorkflowRef
from turnout.errors import InvalidState, InvalidValue
from turnout.nats.connection import Connection, ConnectOptions
from turnout.node import UserViews
from turnout.store.names import Names
from turnout.store.perform import Store
from turnout.store.topology import Topology
from turnout.testing.memory import MemoryConnection, MemoryServer, Message, Stream
from turnout.testing.workflows.fakes import Activities, activities_of
from turnout.testing.workflows.time import CountingNetwork, Skipper, SkippingClock
from turnout.testing.workflows.verifier import replay_all
from turnout.wire import histories as wire
from turnout.wire.entries import ENTRY, glance_at
from turnout.worker.runner import Runner, RunnerSettings, new_node
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.build import build_of
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.driver import DriverOptions
from turnout.worker.workflows.runner import WorkflowRunner, workflows_by_name

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SLOTS = 1000


class NothingCanHappen(RuntimeError):
    """A workflow waits for something that never comes: nothing runs, no timer is set, and nobody acts."""


class _Watch:
    """What the environment learns from each record that is stored: who has ended, and who is stuck.

    The records of all runs are kept, for the replay at the end: the server forgets those of earlier runs.
    """

    def __init__(self, environment: WorkflowEnvironment, names: Names) -> None:
        self._environment = environment
        self._names = names
        self.histories: dict[str, list[Message]] = {}

    def stream(self, stream: Stream) -> None:
        if stream.name == self._names.history:
            stream.on_store = self._stored

    def _stored(self, message: Message) -> None:
        workflow_id = message.subject.rpartition(".")[2]
        history = self.histories.setdefault(workflow_id, [])
        entry = glance_at(message.headers[ENTRY])
        if entry.number == 0:
            history.clear()
        history.append(message)
        if entry.kind not in (RecordKind.stuck, RecordKind.trying):
            self._environment.went_on(workflow_id)
        if entry.state.final and entry.kind is not RecordKind.deleted:
            self._environment.ended(workflow_id)


class _Reader(WorkflowReader):
    """Lets the time go on while somebody waits for a workflow. No notice gets lost here, so none is looked for."""

    poll_s = (60.0, 60.0)

    def __init__(self, store: Store, environment: WorkflowEnvironment) -> None:
        super().__init__(store)
        self._environment = environment

    async def awaited(self, workflow_id: str, outcome: Coroutine[Any, Any, T]) -> T:
        return await self._environment.awaited(workflow_id, outcome)


class _Client(Client):
    """A client in an environment."""

    def __init__(
        self, connection: Connection, names: Names, options: ConnectOptions, environment: WorkflowEnvironment
    ) -> None:
        self._environment = environment
        super().__init__(connection, names, options)

    def make_workflow_reader(self) -> WorkflowReader:
        return _Reader(self.store, self._environment)


class WorkflowEnvironment:
    """Runs workflows in this process: no server, and time that skips whatever nobody has to wait for.

        async with WorkflowEnvironment(workflows=[order], activities={charge: lambda o: Payment("p1")}) as env:
            handle = await env.start(order, Order("a"))
            assert await handle.result() == Receipt("p1")

    `activities`: a list of activities, or a mapping of activities (or their names) to functions that stand for them;
    each is called by the names of its activity's parameters if it takes these, otherwise in their order.
    `replay`: whether each workflow that ends is replayed and compared, so that its code runs twice. `began_at`: the
    time at which it begins, now by default.

    The time stands still while something runs, an activity too. While the result of a workflow is awaited, and nothing
    runs, it skips to the next timer, retry or delay. `client` is a `turnout.Client` of it, `env.start` and
    `env.workflow` are the client's. A workflow that would be stuck raises its error from `result()`, and one that waits
    for what never comes `NothingCanHappen`.
    """

    def __init__(
        self,
        *,
        workflows: Iterable[object],
        activities: Activities = (),
        replay: bool = True,
        began_at: dt.datetime | None = None,
    ) -> None:
        if began_at is not None and (not isinstance(began_at, dt.datetime) or began_at.utcoffset() is None):
            raise InvalidValue(f"began_at must be a datetime with a time zone, not {began_at!r}")
        self._workflows = workflows_by_name(workflows)
        self._activities = {each.name: each for each in activities_of(activities)}
        for each in self._activities.values():
            each.codec.prepare()
        self._replays = replay
        self._began_at = float(int(time.time())) if began_at is None else began_at.timestamp()
        self._names = Names("env")
        self._watch = _Watch(self, self._names)
        self._stuck: dict[str, BaseException] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._replaying: dict[str, asyncio.Task[None]] = {}
        self._raised: set[str] = set()
        self._client: _Client | None = None

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._clock = SkippingClock(loop, self._began_at)
        self._server = MemoryServer(clock=self._clock, network=CountingNetwork, patient=True)
        self._server.on_stream = self._watch.stream
        network = self._server.network
        assert isinstance(network, CountingNetwork)
        self._skipper = Skipper(self._server, network, self._clock)
        options = ConnectOptions(dial=self._dial)
        connection = await Connection.open(options, name="turnout-client")
        await Topology(connection, self._names).ensure()
        self._client = _Client(connection, self._names, options, self)
        await self.client.store.settings.retention()
        self._code = CodeThread()
        self._bodies = Bodies(self.client.store.payloads)
        self._runner = self._make_runner(options)
        try:
            await self._runner.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._check_the_rest()
        finally:
            await self._close()

    async def _close(self) -> None:
        await self._runner.stop(0)
        await self.client.close()
        await self._code.close()

    async def _dial(self, options: ConnectOptions, name: str) -> MemoryConnection:
        return await MemoryConnection.connect(self._server, options, name)

    def _make_runner(self, options: ConnectOptions) -> Runner:
        store = self.client.store
        node = new_node("env", self._activities, SLOTS, "env")
        driving = DriverOptions(
            node=node.id,
            build=build_of(self._workflows.values()),
            arms_timers=False,
            on_stuck=self._got_stuck,
            activities=self._activities,
            sleep=self._skipper.sleep,
        )
        workflows = WorkflowRunner(store, self._workflows, UserViews(), driving)
        self._skipper.asleep = lambda: workflows.asleep
        return Runner(store, options, self._activities, node, RunnerSettings(workflows=workflows, fits_all=True))

    # --- what users do ------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client of the environment. InvalidState before that is entered."""
        return self._entered()

    def _entered(self) -> Client:
        if self._client is None:
            raise InvalidState("enter the environment first: async with WorkflowEnvironment(...) as env")
        return self._client

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str | NamedWorkflow, /, *args: Any, **kwargs: Any) -> AnyWorkflowHandle: ...
    async def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> AnyWorkflowHandle:
        """Start a workflow, as `Client.start` does. InvalidValue for one that this environment was not given."""
        name = workflow if isinstance(workflow, str) else getattr(workflow, "name", None)
        if isinstance(name, str) and name not in self._workflows:
            known = ", ".join(sorted(self._workflows))
            raise InvalidValue(f"workflow {name} is not among the workflows of this environment: {known}")
        handle: AnyWorkflowHandle = await self.client.start(workflow, *args, **kwargs)
        return handle

    @overload
    def workflow(self, workflow_id: str, workflow: Workflow[P, R]) -> WorkflowHandle[R]: ...
    @overload
    def workflow(self, workflow_id: str, workflow: str | NamedWorkflow | None = None) -> AnyWorkflowHandle: ...
    def workflow(self, workflow_id: str, workflow: str | WorkflowRef | None = None) -> AnyWorkflowHandle:
        """A handle on the workflow of this id, as `Client.workflow` gives it."""
        found: Any = workflow
        return self.client.workflow(workflow_id, found)

    def now(self) -> dt.datetime:
        """The time in the environment, in UTC."""
        return dt.datetime.fromtimestamp(self.client.store.connection.now(), dt.UTC)

    async def advance(self, by: float | timedelta) -> None:
        """Let so much time pass (seconds, or a timedelta): what is due meanwhile happens, at its time.

        Returns when nothing happens any more but what activities do that are still at work.
        """
        by_s = seconds(by, "by")
        self._entered()
        await self._skipper.advance(by_s)

    # --- the ends of workflows ----------------------------------------------------------------------------------------

    async def awaited(self, workflow_id: str, outcome: Coroutine[Any, Any, T]) -> T:
        """The outcome, with time that goes on. What the code was stuck by, NonDeterminism, or NothingCanHappen."""
        halted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(workflow_id, set()).add(halted)
        task = asyncio.ensure_future(outcome)
        try:
            if workflow_id in self._stuck:
                halted.set_result(None)
            with self._skipper.skipping() as over:
                waits: list[asyncio.Future[Any]] = [task, halted, over]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise await self._why_not(workflow_id)
        finally:
            self._waiters[workflow_id].discard(halted)
            task.cancel()
        await self._replayed(workflow_id)
        return task.result()

    async def _why_not(self, workflow_id: str) -> BaseException:
        stuck = self._stuck.get(workflow_id)
        if stuck is not None:
            self._raised.add(workflow_id)
            return stuck
        waits = (await self.client._workflow_reader.newest(workflow_id)).record.summary.waits
        found = "; ".join(self._shown(wait) for wait in waits) or "nothing that it has asked for"
        return NothingCanHappen(f"workflow {workflow_id}: nothing can happen any more: it waits for {found}")

    def _shown(self, wait: Wait) -> str:
        text = " ".join(part for part in (str(wait.kind), wait.name) if part)
        if wait.kind == WaitKind.activity and wait.name not in self._activities:
            text += " (which this environment was not given)"
        if wait.kind == WaitKind.child and wait.name not in self._workflows:
            text += " (which this environment was not given)"
        return f"{text} at {wait.code}" if wait.code else text

    def _got_stuck(self, workflow_id: str, error: BaseException) -> None:
        self._stuck[workflow_id] = error
        self._skipper.stuck.add(workflow_id)
        for halted in self._waiters.get(workflow_id, ()):
            if not halted.done():
                halted.set_result(None)

    def went_on(self, workflow_id: str) -> None:
        """It is not stuck, or not any more."""
        self._stuck.pop(workflow_id, None)
        self._skipper.stuck.discard(workflow_id)

    def ended(self, workflow_id: str) -> None:
        """A workflow has ended: its replay begins."""
        if self._replays:
            self._skipper.begin()
            task = asyncio.get_running_loop().create_task(self._replay(workflow_id))
            task.add_done_callback(lambda _: self._skipper.end())
            self._replaying[workflow_id] = task

    async def _replay(self, workflow_id: str) -> None:
        records = [await self._record(message) for message in self._watch.histories[workflow_id]]
        await replay_all(records, self._workflows, self._code, self._bodies)

    async def _record(self, message: Message) -> Record:
        offloaded = wire.parse_offloaded(message.headers)
        data = message.data if offloaded is None else (await self.client.store.payloads.get(offloaded)).encode()
        return wire.load_history_record(data)

    async def _replayed(self, workflow_id: str) -> None:
        task = self._replaying.get(workflow_id)
        if task is not None and workflow_id not in self._raised:
            try:
                await asyncio.shield(task)
            except BaseException:
                self._raised.add(workflow_id)
                raise

    async def _check_the_rest(self) -> None:
        """What is wrong with workflows whose result nobody has awaited, such as children."""
        for workflow_id in list(self._replaying):
            await self._replayed(workflow_id)
