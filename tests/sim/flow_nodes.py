"""Who acts on workflows: workers that do tasks and activities, and a client that starts workflows and signals them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tests.sim import flows
from tests.sim.nodes import ACTIVITY, Caller, Node
from tests.sim.seams import Patch
from turnout.client.client import Client
from turnout.client.workflows.sender import Given
from turnout.core.catalog import NodeInfo
from turnout.core.workflows.values import InputKind
from turnout.definition.workflow import named_call
from turnout.errors import TurnoutError, WorkflowEnded, WorkflowExists
from turnout.flow import guards
from turnout.flow.thread import LeftByExit
from turnout.nats.connection import ConnectOptions
from turnout.node import UserViews
from turnout.store.perform import Store
from turnout.worker.runner import Runner, RunnerSettings
from turnout.worker.workflows import runner
from turnout.worker.workflows.driver import DriverOptions
from turnout.worker.workflows.instance import Instance

if TYPE_CHECKING:
    from tests.sim.flow_simulation import FlowSimulation

guards.install()
"""Before the simulation takes the modules that they replace functions of."""

CACHED = (1000, 1, 0)
"""How many instances a worker keeps in memory: the seed chooses."""

AGAIN_S = 1.0

MADE: list[Instance] = []
"""The instances of this simulation: those of a host that has died are dropped at its end."""


class Inline:
    """Stands for the thread of the workflows' code: it runs on the loop of all hosts, when its turn has come."""

    trouble = None

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, call: Callable[[], Any]) -> Any:
        async with self._turn:
            await asyncio.sleep(random.random() * 0.003)
            try:
                result = call()
                if isinstance(result, Instance):
                    MADE.append(result)
                return result
            except (asyncio.CancelledError, StopIteration) as error:
                raise LeftByExit(repr(error)) from error

    async def close(self) -> None:
        pass


SEAMS: list[Patch] = [(runner, "CodeThread", Inline)]


class FlowNode(Node):
    """A worker process that does workflows and activities."""

    sim: FlowSimulation

    def _make_runner(self, store: Store, node: NodeInfo) -> Runner:
        most = CACHED[self.sim.plan.seed % len(CACHED)]
        options = DriverOptions(node=node.id, build="one", max_cached=most, activities={"nap": flows.nap})
        workflows = runner.WorkflowRunner(store, runner.workflows_by_name([flows.Flow]), UserViews(), options)
        settings = RunnerSettings(workflows=workflows)
        return Runner(store, ConnectOptions(), {ACTIVITY: self.activity}, node, settings)


class FlowCaller(Caller):
    """A client that starts workflows and signals them in order, and does so again when it has died over it."""

    sim: FlowSimulation

    def __init__(self, sim: FlowSimulation) -> None:
        super().__init__(sim)
        for kind, workflow_id in list(sim.wanted):
            self._begin(kind, workflow_id)

    def do(self, kind: str, job_id: str, of: str) -> None:
        self.sim.wanted[kind, job_id] = None
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
            await self._until_known(lambda: client.workflow(workflow_id).cancel("as the plan says"))
        elif kind == "terminate":
            if await self._until_known(lambda: client.workflow(workflow_id).terminate("as the plan says")):
                self.sim.invariants.terminates.add(workflow_id)
        elif kind == "signal":
            for signal in flows.signals(self.sim.script(workflow_id)):
                await self._signal(client, workflow_id, *signal)
        if self.host.alive:
            self.sim.wanted.pop((kind, workflow_id), None)
            self.sim.calls -= 1

    async def _drive(self, client: Client, workflow_id: str) -> None:
        script = self.sim.script(workflow_id)
        flow: Any = flows.Flow.run
        await self._until_known(lambda: client.start(flow.options(id=workflow_id), script, [], []))
        for signal in flows.signals(script):
            await asyncio.sleep(random.random() ** 2)
            if not await self._signal(client, workflow_id, *signal):
                return

    async def _signal(self, client: Client, workflow_id: str, name: str, number: int) -> bool:
        """Send it, and again with the same id where nobody said whether it is stored."""
        text = named_call(flows.Flow.add if name == "add" else name, (number,), {})[1]
        given = Given(InputKind.signal, text, name, f"{name}{number}")
        return await self._until_known(lambda: client.workflow(workflow_id)._sender.send(workflow_id, None, given))

    async def _until_known(self, call: Callable[[], Awaitable[Any]]) -> bool:
        """Call until it is known what came of it: whether it was done."""
        while True:
            try:
                await call()
            except WorkflowExists:
                return True
            except WorkflowEnded as refusal:
                self.sim.note(f"{self.host.name}: refused: {refusal}")
                return False
            except TurnoutError as error:  # also where it is not there yet
                self.sim.note(f"{self.host.name}: not known: {error!r}")
                await asyncio.sleep(AGAIN_S)
            else:
                return True
