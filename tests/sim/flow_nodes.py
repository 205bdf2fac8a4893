"""Who acts on workflows: workers that do tasks and activities, and a client that starts workflows and signals them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from tests.sim import flows
from tests.sim.invariants import Violation
from tests.sim.nodes import Caller, Node
from tests.sim.seams import Patch
from tests.sim.world import BEGAN_AT, HOST, Host
from turnout.client.client import Client
from turnout.client.workflows.sender import Given
from turnout.core.catalog import NodeInfo
from turnout.core.workflows.values import InputKind, RecordKind
from turnout.definition.handlers import Signal
from turnout.definition.options import IfExists
from turnout.definition.workflow import named_call
from turnout.errors import (
    InvalidState,
    InvalidValue,
    TurnoutError,
    UpdateFailed,
    WorkflowEnded,
    WorkflowExists,
    WorkflowNotFound,
)
from turnout.flow import guards
from turnout.flow.thread import LeftByExit
from turnout.nats.connection import ConnectOptions
from turnout.node import UserViews
from turnout.store.perform import Store
from turnout.worker.runner import Runner, RunnerSettings
from turnout.worker.workflows import replay, runner
from turnout.worker.workflows.driver import DriverOptions
from turnout.worker.workflows.instance import Instance

if TYPE_CHECKING:
    from tests.sim.flow_simulation import FlowSimulation

guards.install()
"""Before the simulation takes the modules that they replace functions of."""

CACHED = (1000, 1, 0)
"""How many instances a worker keeps in memory: the seed chooses."""

AGAIN_S = 1.0
GONE = 5
"""So often it is told that something is gone until nothing of it is on its way any more."""

MADE: list[tuple[Host | None, Instance]] = []
"""The instances of this simulation, and who has made them: those of a host that has died are dropped at its end."""


def make(*parts: Any) -> Instance:
    """An instance, which is remembered."""
    instance = Instance(*parts)
    MADE.append((HOST.get(), instance))
    return instance


class Inline:
    """Stands for the thread of the workflows' code: it runs on the loop of all hosts, when its turn has come."""

    trouble = None
    host: ClassVar[Host | None] = None
    """The process that runs workflow code, while it does."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, call: Callable[[], Any]) -> Any:
        async with self._turn:
            await asyncio.sleep(random.random() * 0.003)
            Inline.host = HOST.get()
            try:
                return call()
            except (asyncio.CancelledError, StopIteration) as error:
                raise LeftByExit(repr(error)) from error

    async def close(self) -> None:
        pass


SEAMS: list[Patch] = [(runner, "CodeThread", Inline), (replay, "Instance", make)]


class FlowNode(Node):
    """A worker process that does workflows and activities."""

    sim: FlowSimulation
    workflows: runner.WorkflowRunner | None = None

    def __init__(self, sim: FlowSimulation, number: int, life: int) -> None:
        self.build = sim.build_of(number)
        super().__init__(sim, number, life)

    def kept(self) -> list[Instance]:
        """The instances that it has in memory."""
        cache = None if self.workflows is None else self.workflows._driver._cache
        return [] if cache is None else [cached.instance for cached in cache._cached.values()]

    def _describe(self) -> NodeInfo:
        known = super()._describe()
        if not self.sim.pins:
            return known
        began_at = BEGAN_AT + self.sim.world.now
        return attrs.evolve(known, workflows=("flow",), build=self.build, pins=True, started_at=began_at)

    def _make_runner(self, store: Store, node: NodeInfo) -> Runner:
        most = CACHED[self.sim.plan.seed % len(CACHED)]
        options = DriverOptions(
            node=node.id,
            build=self.build,
            pins=self.sim.pins,
            max_cached=most,
            activities={"nap": flows.nap},
        )
        self.workflows = runner.WorkflowRunner(store, runner.workflows_by_name([flows.Flow]), UserViews(), options)
        settings = RunnerSettings(workflows=self.workflows)
        return Runner(store, ConnectOptions(), self.activities, node, settings)


class FlowCaller(Caller):
    """A client that starts workflows and signals them in order, and does so again when it has died over it."""

    sim: FlowSimulation

    def __init__(self, sim: FlowSimulation) -> None:
        super().__init__(sim)
        for kind, workflow_id in list(sim.wanted.elements()):
            self._begin(kind, workflow_id)

    def do(self, kind: str, job_id: str, of: str) -> None:
        kind = self.sim.next_fork() if kind == "fork" else kind
        self.sim.wanted[kind, job_id] += 1
        if self.host.alive:
            self._begin(kind, job_id)

    def _begin(self, kind: str, workflow_id: str) -> None:
        self.sim.calls += 1
        self.host.spawn(self._call(kind, workflow_id))

    async def _call(self, kind: str, workflow_id: str) -> None:
        client = await self.client()
        if kind == "submit":
            await self._drive(client, workflow_id)
        elif kind == "cancel":
            await self._until_known(functools.partial(self._cancel, client, workflow_id))
        elif kind == "terminate":
            await self._terminate(client, workflow_id)
        elif kind == "signal":
            await self._send(client, workflow_id, "", hurry=True)
        elif kind == "again":
            await self._again(client, workflow_id)
        elif kind == "replace":
            await self._drive(client, workflow_id, self.sim.next_called(workflow_id), if_exists="replace")
        elif kind == "forget":
            await self._forget_children(client, workflow_id)
        elif kind == "anew":
            await self._anew(client, workflow_id)
        elif kind == "mend":
            await self._mend(client, workflow_id)
        elif kind == "deploy":
            await self._resume(client, workflow_id)
        elif kind == "unfork":
            for fork_id in [each for each in self.sim.forks if each in self.sim.invariants.lives]:
                await self._until_known(functools.partial(self._cancel, client, fork_id))
        elif kind.startswith("fork"):
            await self._fork(client, workflow_id, f"{workflow_id}{kind}")
        if self.host.alive:
            self.sim.wanted[kind, workflow_id] -= 1
            self.sim.calls -= 1

    def _now(self, client: Client, workflow_id: str) -> Any:
        """The life that there is now."""
        handle = client.workflow(workflow_id)
        handle._life = self.sim.invariants.newest_life(workflow_id)
        return handle

    async def _cancel(self, client: Client, workflow_id: str) -> None:
        await self._now(client, workflow_id).cancel("as the plan says")

    async def _terminate(self, client: Client, workflow_id: str) -> None:
        handle = self._now(client, workflow_id)

        async def terminate() -> None:
            nonlocal handle
            handle = self._now(client, workflow_id)
            await handle.terminate("as the plan says")

        if await self._until_known(terminate) and handle._life is not None:
            self.sim.invariants.terminates.add(handle._life)

    async def _drive(
        self, client: Client, workflow_id: str, called: str = "", if_exists: IfExists | None = None
    ) -> None:
        """Start a life, and send what it waits for. One that replaces may have begun though nobody has said so: the
        next try replaces it in turn, and is called otherwise."""
        run = flows.brief() if self.sim.collects else flows.Flow.run
        ref: Any = run.options(id=workflow_id, if_exists=if_exists or "raise")
        known = self.sim.invariants

        async def start() -> None:
            nonlocal called
            if if_exists == "replace" and known.life_of(workflow_id, called) is not None:
                called = self.sim.next_called(workflow_id)
            try:
                await client.start(ref, called + self.sim.script(workflow_id), [], [])
            except (WorkflowNotFound, InvalidState) as error:
                raise Violation("F10 a start starts", f"{workflow_id} {if_exists}: {error!r}") from error

        await self._until_known(start)
        await self._send(client, workflow_id, called)

    async def _send(self, client: Client, workflow_id: str, called: str, *, hurry: bool = False) -> None:
        sent: set[tuple[str, int]] = set()
        for name, number in flows.signals(self.sim.script(workflow_id)):
            if not hurry:
                await asyncio.sleep(random.random() ** 2)
            life = self.sim.invariants.life_of(workflow_id, called)
            if name == "ask":
                await self._ask(client, workflow_id, life, sent)
            elif await (self._put if name == "put" else self._signal)(client, workflow_id, life, name, number):
                sent |= {(name, number)} if name != "go" else set()
            elif not hurry:
                return

    async def _again(self, client: Client, workflow_id: str) -> None:
        """When it has ended: forget it, and begin anew under its id. Who died over that goes on with what he began."""
        life = self.sim.invariants.lives.get(workflow_id)
        if life is not None and (called := flows.life_of(life.script)):
            await self._send(client, workflow_id, called)
            return
        while (life := self.sim.invariants.lives.get(workflow_id)) is None or not life.newest.state.final:
            await asyncio.sleep(0.2)
        nonce = life.newest.life
        if life.newest.kind is not RecordKind.deleted:
            await self._until_known(lambda: client.workflow(workflow_id).delete(), nonce)
        await self._drive(client, workflow_id, self.sim.next_called(workflow_id))

    async def _forget_children(self, client: Client, workflow_id: str) -> None:
        """Forget each as soon as it has ended, also where nobody has told its parent yet."""
        known = self.sim.invariants
        while (parent := known.lives.get(workflow_id)) is None or not parent.newest.state.final:
            for name, life in list(known.lives.items()):
                ended = life.newest.state.final and life.newest.kind is not RecordKind.deleted
                if name.startswith(f"{workflow_id}-") and ended:
                    await self._until_known(client.workflow(name).delete, life.newest.life)
            await asyncio.sleep(0.05)

    async def _anew(self, client: Client, workflow_id: str) -> None:
        """When its history was collected: begin another life."""
        known = self.sim.invariants
        while workflow_id not in known.collected or workflow_id in known.lives:
            await asyncio.sleep(0.05)
        await self._drive(client, workflow_id, self.sim.next_called(workflow_id))

    async def _mend(self, client: Client, workflow_id: str) -> None:
        """When there is nothing else to be done: deploy code that works, and have it tried at once."""
        known = self.sim.invariants
        while workflow_id not in self.sim.repaired and not known.waits_for_repair(workflow_id):
            await asyncio.sleep(0.5)
        self.sim.repaired.add(workflow_id)
        await self._until_known(lambda: client.workflow(workflow_id).resume())

    async def _resume(self, client: Client, workflow_id: str) -> None:
        """Until all have ended, have those go on with any build whose own has no worker any more."""
        known = self.sim.invariants
        while workflow_id not in known.lives or not all(life.newest.state.final for life in known.lives.values()):
            for name, life in list(known.lives.items()):
                pin = life.newest.summary.pin
                if pin and not life.newest.state.final and pin not in self.sim.builds():
                    await self._until_known(client.workflow(name).resume, life.newest.life)
            await asyncio.sleep(2.0)

    async def _fork(self, client: Client, workflow_id: str, fork_id: str) -> None:
        """Fork it, or a child of it, wherever, unless that is forgotten; the fork is sent what it waits for."""
        known, gone = self.sim.invariants, 0
        while fork_id not in known.lives:
            source = self.sim.source_of(fork_id, workflow_id)
            try:
                if source:
                    handle = client.workflow(source)
                    events = len(await handle.history())
                    await handle.fork(2 + int(random.random() * events), fork_id)
            except (InvalidValue, WorkflowExists) as refusal:
                self.sim.note(f"{self.host.name}: {refusal}")
            except TurnoutError as error:
                self.sim.note(f"{self.host.name}: not known: {error!r}")
                gone = gone + 1 if isinstance(error, WorkflowNotFound) else 0
                if gone > GONE:
                    return
                await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(0.05)
        await self._send(client, fork_id, flows.life_of(self.sim.script(fork_id)))

    async def _signal(self, client: Client, workflow_id: str, life: str | None, name: str, number: int) -> bool:
        """Send it, and again with the same id where nobody said whether it is stored."""
        text = named_call(Signal, flows.Flow.add if name == "add" else name, (number,), {})[1]
        given = Given(InputKind.signal, text, name, f"{name}{number}")
        return await self._until_known(
            lambda: client.workflow(workflow_id)._sender.send(workflow_id, life, given), life
        )

    async def _put(self, client: Client, workflow_id: str, life: str | None, name: str, number: int) -> bool:
        """Have it applied: once more with another id where it has failed, since the run has ended first."""
        handle = client.workflow(workflow_id)
        handle._life = life
        values: list[int] = []
        for again in itertools.count():
            update = flows.Flow.put.options(id=f"put{number}-{again}")

            async def put(update: Any = update) -> None:
                values.append(await handle.update(update, number))

            try:
                if not await self._until_known(put, life):
                    return False
            except UpdateFailed as failure:
                self.sim.note(f"{self.host.name}: {failure}")
                continue
            if life is not None:
                self.sim.invariants.told(life, f"put{number}-{again}", values[-1])
            return True
        raise AssertionError

    async def _ask(self, client: Client, workflow_id: str, life: str | None, sent: set[tuple[str, int]]) -> None:
        handle = client.workflow(workflow_id)
        handle._life = life
        try:
            known = await handle.query(flows.Flow.known)
        except TurnoutError as error:
            self.sim.note(f"{self.host.name}: no answer: {error!r}")
        else:
            self.sim.invariants.shows(workflow_id, life, known, sent)

    async def _until_known(self, call: Callable[[], Awaitable[Any]], life: str | None = None) -> bool:
        """Call until it is known what came of it: whether it was done. It is not where another life has begun, or
        this one was deleted, of which somebody who knows that life can't be told."""
        while True:
            try:
                await call()
            except WorkflowExists:
                return True
            except UpdateFailed:
                raise
            except WorkflowEnded as refusal:
                self.sim.note(f"{self.host.name}: refused: {refusal}")
                return False
            except TurnoutError as error:  # also where it is not there yet
                self.sim.note(f"{self.host.name}: not known: {error!r}")
                known = self.sim.invariants.begun_lives.get(life or "")
                if known is not None and self.sim.invariants.is_over(known):
                    return False
                await asyncio.sleep(AGAIN_S)
            else:
                return True
