"""The supervisor: what happens to jobs when nobody is left to do it.

Every worker process carries one, in a thread of its own; one acts at a time. It sees nodes die and counts the losses
(P6), listens to the alarms of messages whose deliveries ran out (P7), and sweeps for what no alarm told. All of it goes
through `decide()`, like everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

import attrs

from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.jetstream.confidence import Confidence
from turnout.jetstream.connection import Connection, ConnectOptions, Received
from turnout.jetstream.names import Names
from turnout.jetstream.perform import Performer, Saved, Store
from turnout.jetstream.registry import Retention, scan
from turnout.jetstream.suspension import suspended_too
from turnout.supervisor.election import Election
from turnout.supervisor.objects import ObjectCollector
from turnout.supervisor.queues import Queues
from turnout.supervisor.records import Records
from turnout.supervisor.sweep import Sweep, advisory
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.supervisor")


@attrs.frozen(kw_only=True)
class SupervisorOptions:
    """How often it looks. `liveness_ttl`: seconds its own key lives, and how long it must be sure of itself before it
    calls a node dead. `sweep_every`, `registry_every`, `objects_every`: seconds between walks of the stream, of
    the records, and of all objects. `object_age`: seconds for which an object is kept even if nothing refers to it."""

    liveness_ttl: float = 10.0
    look_every: float = 0.5
    sweep_every: float = 15.0
    registry_every: float = 30.0
    objects_every: float = 600.0
    object_age: float = 3600.0


class Supervisor:
    """Runs until cancelled. `name` is what its key in the registry says, `saved` is told of the records that it writes.

    await Supervisor(ConnectOptions(), Names("turnout"), name="alone").run()
    """

    def __init__(
        self,
        connect_options: ConnectOptions,
        names: Names,
        *,
        name: str,
        retention: Retention | None = None,
        options: SupervisorOptions | None = None,
        saved: Saved | None = None,
    ) -> None:
        self._saved = saved
        self._connect_options = connect_options
        self._names = names
        self._name = name
        self._retention = retention
        self._options = options or SupervisorOptions()
        self.confident = Confidence(self._options.liveness_ttl)
        """Whether it may call others dead, by its own looks at the registry (P5)."""
        self._alarmed = asyncio.Event()
        self._queues = Queues()
        self.acting = False

    @property
    def looking(self) -> bool:
        """Whether it has looked lately. For any thread."""
        looked_at = self.confident.in_time_at
        return looked_at is not None and suspended_too() - looked_at < self._options.liveness_ttl

    async def run(self) -> None:
        """Connect and supervise. Trouble with the connection is outwaited; only cancellation ends this."""
        connection = await Connection.open(self._connect_options, name="turnout-supervisor")
        unwatched = metrics.watch_queues(self._look_at_queues)
        try:
            with contextlib.suppress(TurnoutError):
                await connection.sync_clock(self._names.work)
            await self._supervise(connection)
        finally:
            unwatched()
            await connection.close()

    async def _supervise(self, connection: Connection) -> None:
        store = Store.over(connection, self._names, self._retention)
        election = Election(connection, self._names, self._name, self._options.liveness_ttl)
        sweep = Sweep(store, Performer(store, confident=self.confident, saved=self._saved), self.confident)
        duty = _Duty(self._options)
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._names.work}.>"
        await connection.subscribe(subject, self._hear)
        connection.on_down(self.confident.failed)
        records, objects = Records(store, sweep.apply), ObjectCollector(store, self._options.object_age)
        beside = [
            asyncio.create_task(self._beside(self._options.registry_every, records.look)),
            asyncio.create_task(self._beside(self._options.objects_every, objects.collect)),
        ]
        try:
            while True:
                looked = False
                try:
                    self.acting = await election.stand()
                    self.confident.succeeded()
                    if self.acting:
                        await self._act(store, sweep, duty)
                    else:
                        duty = _Duty(self._options)
                        self._queues.forget()
                        records.forget()
                    looked = True
                except TurnoutError as error:
                    self.confident.failed()
                    logger.info("the supervisor can't look: %s", error)
                except Exception:  # nobody else supervises this: whatever one job does to it, it must survive
                    self.confident.failed()
                    logger.exception("the supervisor has stumbled, it looks again")
                await self._pause(listening=looked and self.acting)
        finally:
            for task in beside:
                task.cancel()
            await election.resign()

    async def _beside(self, every_s: float, look: Callable[[], Awaitable[object]]) -> None:
        """What takes long must not make it look late: it is done beside the rest, while this one acts."""
        while True:
            await asyncio.sleep(every_s)
            if not self.acting:
                continue
            try:
                await look()
            except TurnoutError as error:
                logger.info("the supervisor can't look at everything now: %s", error)
            except Exception:  # as above
                logger.exception("the supervisor has stumbled, it looks again later")

    async def _act(self, store: Store, sweep: Sweep, duty: _Duty) -> None:
        reach("supervisor.elected")
        living = frozenset(node.id for node in await store.nodes.living())
        reach("supervisor.looked")
        vanished = bool(duty.nodes - living)
        if vanished or duty.new or sweep.unresolved:
            await sweep.owners(vanished=vanished)
        else:
            await sweep.nudge()
        reach("supervisor.counted")
        duty.nodes = living
        if self._alarmed.is_set() or duty.new:
            self._alarmed.clear()
            await self._alarms(store, sweep)
            reach("supervisor.alarms")
        swept = duty.sweep_due()
        if swept:
            await store.connection.sync_clock(self._names.work)  # deadlines are told by it, and clocks are set
            await sweep.everything()
            reach("supervisor.swept")
            await self._alarms(store, sweep)
        if (swept or duty.new) and metrics.look():
            await self._queues.measure(store, sweep.consumers)
        duty.new = False

    async def _alarms(self, store: Store, sweep: Sweep) -> None:
        """Deal with the alarms that are kept, and drop those that were dealt with."""
        async for stored in scan(
            store.connection, self._names.alarms, f"$JS.EVENT.ADVISORY.CONSUMER.*.{self._names.work}.>"
        ):
            about = advisory(stored.data)
            if about is None or await sweep.alarm(*about):
                reach("supervisor.dealt")
                body = {"seq": stored.seq, "no_erase": True}
                with contextlib.suppress(TurnoutError):
                    await store.connection.api(f"STREAM.MSG.DELETE.{self._names.alarms}", body)
                reach("supervisor.dropped")

    async def _pause(self, *, listening: bool) -> None:
        """Until the next look. An alarm brings it forward for the one who can act on it; others let it ring."""
        if not listening:
            await asyncio.sleep(self._options.look_every)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.look_every):
                await self._alarmed.wait()

    def _hear(self, _: Received) -> None:
        self._alarmed.set()

    def _look_at_queues(self) -> Mapping[str, metrics.Queue]:
        """For whoever collects metrics, in any thread: one supervisor tells it, who knows that it acts still."""
        return self._queues.look() if self.acting and self.looking else {}


class _Duty:
    """What the acting supervisor has done when, in this term."""

    def __init__(self, options: SupervisorOptions) -> None:
        self.new = True
        self.nodes: frozenset[str] = frozenset()
        self._options = options
        self._swept_at = suspended_too()

    def sweep_due(self) -> bool:
        if suspended_too() - self._swept_at < self._options.sweep_every:
            return False
        self._swept_at = suspended_too()
        return True
