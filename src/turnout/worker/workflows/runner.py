"""A node's workflows at work: pulls their inboxes, does their tasks, hands them over when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from turnout import wire
from turnout.core.workflows.task import Starting, first_record
from turnout.core.workflows.values import InputKind, Start, WorkflowState
from turnout.definition.options import given_list
from turnout.definition.workflow import Workflow, workflow_of
from turnout.errors import DefinitionError, TurnoutError
from turnout.nats.messages import Message
from turnout.nats.pull import Puller, Source
from turnout.store.histories import Overtaken
from turnout.store.inbox import Wakeup, parse_wakeup
from turnout.store.perform import Store
from turnout.store.topology import Topology
from turnout.telemetry import workflow_metrics
from turnout.wire import histories
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.dispatch import ASKED, Dispatcher
from turnout.worker.workflows.driver import Driver, DriverOptions
from turnout.worker.workflows.passing import Taker
from turnout.worker.workflows.queries import QueryServer

logger = logging.getLogger("turnout.workflow")

LOCALS_END_S = 2.0
"""For how long a node that stops waits for local activities."""


class WorkflowRunner:
    """Does the tasks of these workflows until it is stopped."""

    def __init__(
        self, store: Store, workflows: Mapping[str, Workflow[..., Any]], views: Views, options: DriverOptions
    ) -> None:
        self._store = store
        self._workflows = workflows
        self._code = CodeThread()
        self._driver = Driver(store, workflows, self._code, views, options)
        self._build = options.build
        self._settling = self._driver.settling
        own = options.build if options.pins else ""
        self._queries = QueryServer(
            *(store, workflows, self._driver.answering), node=options.node, pinned_to=own, redact=options.redact
        )
        self._locals = self._driver.locals
        self._dispatcher = Dispatcher(self._driver.task, self._start_bare, self._settling, self._locals.renewed)
        self._settling.again = self._locals.give = self._dispatcher.receive
        self.handover = self._driver.handover
        """Takes the ends of this node's jobs to its workflows."""
        self.handover.has = self._driver.has
        self.handover.at_work = self._dispatcher.is_at_work
        self.handover.give = self._dispatcher.receive
        self._taker = Taker(
            *(store, workflows, self._dispatcher.receive),
            shared=[store.names.pinned(name, own) for name in workflows] if own else (),
            own=store.names.home(options.node),
        )
        self._pullers = {name: self._puller(name) for name in workflows}
        self._dispatcher.on_room = self._room
        self._loops: list[asyncio.Task[None]] = []
        self._waking: asyncio.Task[None] | None = None
        self._keeping_locals: asyncio.Task[None] | None = None

    async def start(self) -> list[asyncio.Task[None]]:
        """Returns the loops that a worker lives by, once every workflow is pulled. Errors: the connection's."""
        workflow_metrics.serve(self._workflows)
        self._settling.replicas = await Topology(self._store.connection, self._store.names).workflow_replicas()
        self._store.inbox.alone = self._store.histories.alone = self._settling.replicas == 1
        if self._settling.replicas > 1:
            self.handover.drain()  # a leader that was cut off may show an inbox without what a job has just sent (W4)
        for puller in self._pullers.values():
            await puller.start()
        await self._queries.start()
        await self._taker.start()
        pulling = [
            asyncio.create_task(puller.run(), name=f"that pulls workflow {name}")
            for name, puller in self._pullers.items()
        ]
        keeping = asyncio.create_task(self._dispatcher.keep(), name="that keeps the wake-ups of workflows")
        self._loops = [*pulling, keeping]
        self._keeping_locals = asyncio.create_task(self._locals.keep(), name="that keeps local activities")
        self._waking = asyncio.create_task(self._wake_stuck(), name="that wakes stuck workflows")
        return self._loops

    async def _wake_stuck(self) -> None:
        """Have those tried again that another build could not go on with: this one may be the repair (W7)."""
        try:
            async for workflow_id, entry in self._store.histories.entries():
                if entry.state is WorkflowState.stuck and entry.name in self._workflows and entry.build != self._build:
                    headers = histories.input_headers(life=entry.life)
                    await self._store.inbox.append(entry.name, workflow_id, InputKind.start, headers=headers)
        except (TurnoutError, TimeoutError) as error:
            logger.warning("stuck workflows are not woken, they are tried again later: %s", error)

    @property
    def trouble(self) -> list[str]:
        """Why some workflow is not pulled, if so, and whether code can't be ended."""
        found = {name: puller.trouble for name, puller in self._pullers.items()}
        warned = [f"workflow {name} is not pulled: {trouble}" for name, trouble in found.items() if trouble is not None]
        return warned if self._code.trouble is None else [*warned, self._code.trouble]

    @property
    def refused(self) -> list[str]:
        """What is not pulled since the server does not allow it."""
        return [
            f"workflow {name} is not pulled: {why}" for name, each in self._pullers.items() if (why := each.refused)
        ]

    def drain(self) -> None:
        """Take no more wake-ups."""
        self.handover.drain()
        self._dispatcher.drain()
        self._locals.drain()
        for loop in (*self._loops, *([self._waking] if self._waking is not None else [])):
            loop.cancel()

    @property
    def asleep(self) -> int:
        """How many wake-ups are kept for local activities that only wait for their next attempt."""
        return self._locals.asleep

    async def stop(self, grace_s: float = 0.0) -> None:
        """Let the tasks that run come to their end, which is soon, and forget the instances: others go on with them.

        Local activities that run may end for up to `grace_s`, and no longer than they are for.
        """
        self.drain()
        await self._taker.stop()
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        await self._locals.end_within(min(grace_s, LOCALS_END_S))
        await self._dispatcher.all_done()
        await self._locals.stop()
        await self._dispatcher.all_done()
        self._locals.close()
        self._settling.again = self._locals.give = lambda _: None
        self.handover.close()
        await self._dispatcher.all_done()
        if self._keeping_locals is not None:
            self._keeping_locals.cancel()
        await self._queries.stop()
        if self._loops:
            await asyncio.wait(self._loops)
        await self._driver.close()
        await self._code.close()

    def _puller(self, name: str) -> Puller:
        topology = Topology(self._store.connection, self._store.names)

        async def ensure(_update: bool) -> None:
            info = await topology.ensure_workflow_consumer(name)
            self._driver.ack_wait_s = info["ack_wait"] / 1e9

        source = Source(stream=self._store.names.inbox, consumer=name, ensure=ensure)
        return Puller(self._store.connection, source, self._dispatcher, self._accept, many=ASKED // 4)

    def _accept(self, message: Message) -> None:
        wakeup = parse_wakeup(self._store.names, message)
        if wakeup is not None:
            self._dispatcher.receive(wakeup)

    def _room(self) -> None:
        for puller in self._pullers.values():
            puller.freed()

    async def _start_bare(self, wakeup: Wakeup) -> None:
        """A start by `nats pub`: record 0, a wake-up on the workflow's own subject, then the bare message goes (W5)."""
        headers = wakeup.headers or {}
        at, workflow_id = wakeup.time_ns / 1e9, wire.bare_id(wakeup.seq, wakeup.time_ns, headers)
        workflow = self._workflows[wakeup.name]
        start = Start(
            payload=wire.parse_body(wakeup.data, {}),
            at=at,
            wake=wakeup.seq,
            labels=workflow.settings.labels,
            timeout=workflow.settings.timeout,
            retention=workflow.settings.retention,
            headers=wire.user_headers(headers),
            trace_id=wire.trace_id_of(headers, wakeup.name, workflow_id),
        )
        life = f"{wakeup.seq}-{wakeup.time_ns:x}"
        starting = Starting(id=workflow_id, name=wakeup.name, life=life, nonce=self._store.chance.nonce(), start=start)
        try:
            await self._store.histories.append(first_record(starting), 0)
        except Overtaken:
            newest = await self._store.histories.newest(workflow_id)
            if newest is None or newest.record.life != life:
                logger.warning("a bare start of workflow %s is dropped: id %s is taken", wakeup.name, workflow_id)
                self._settling.remove(wakeup)
                return
        own = histories.input_headers(life=life)
        await self._store.inbox.append(wakeup.name, workflow_id, InputKind.start, headers=own)
        self._settling.remove(wakeup)


def workflows_by_name(given: Any) -> dict[str, Workflow[..., Any]]:
    """The workflows of a worker by their names; DefinitionError for what is none, or for two of a name."""
    found: dict[str, Workflow[..., Any]] = {}
    for each in given_list(given, "workflows"):
        workflow = workflow_of(each)
        if workflow is None:
            raise DefinitionError(f"{each!r} is no workflow: decorate it with @workflow")
        if workflow.name in found:
            raise DefinitionError(f"two workflows are called {workflow.name}: give one of them another name")
        workflow.codec.prepare()
        found[workflow.name] = workflow
    return found
