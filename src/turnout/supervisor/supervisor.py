"""The supervisor: what happens to jobs when nobody is left to do it.

Every worker process carries one, in a thread of its own; one acts at a time. It sees nodes die and counts the losses
(P6), listens to the alarms of messages whose deliveries ran out (P7), and sweeps for what no alarm told. All of it goes
through `decide()`, like everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.connection import Connection, ConnectOptions, Message
from turnout.nats.messages import level_of
from turnout.nats.stream import max_deliveries_advisory
from turnout.once import log_rarely
from turnout.store.consumers import consumers_of
from turnout.store.failure_detector import FailureDetector
from turnout.store.names import Names
from turnout.store.perform import OnSaved, Performer, Store
from turnout.supervisor.ahead import Ahead
from turnout.supervisor.alarms import Alarms
from turnout.supervisor.apply import Applier
from turnout.supervisor.bell import Bells
from turnout.supervisor.completions import Completions
from turnout.supervisor.deadlines import Deadlines
from turnout.supervisor.duties import Duties, Duty
from turnout.supervisor.election import Election
from turnout.supervisor.groups import GroupUses, GroupWatch
from turnout.supervisor.histories import HistoryWalk
from turnout.supervisor.judge import Pace
from turnout.supervisor.objects import ObjectCollector
from turnout.supervisor.owners import Owners
from turnout.supervisor.places import LimitUses, PlaceSweep
from turnout.supervisor.queues import Queues
from turnout.supervisor.records import Records
from turnout.supervisor.routes import RouteWatch
from turnout.supervisor.schedules import Rearming, Ticks
from turnout.supervisor.sweep import Sweep
from turnout.supervisor.turns import Turns
from turnout.supervisor.workflows import OpenWorkflows
from turnout.telemetry import group_metrics, log_lines, metrics, workflow_metrics

logger = logging.getLogger("turnout.supervisor")

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class SupervisorOptions:
    """How often it looks, and how long it waits, in seconds.

    `liveness_ttl`: how long its own key lives, how long it must be sure of itself before it calls a node dead, and
    how long a job that was handed to somebody may wait for its attempt. `look_every`: between two looks at the nodes,
    the messages and the records. `sweep_every`: between two looks at what alarms are kept, the queues and the clock.
    `registry_every`: between two walks of the records, when there are very many new ones. `objects_every`: between
    two walks of all objects; `object_age`: for so long an object is kept even if nothing refers to it.
    `histories_every`: between two walks of the workflows; `history_age`: those with a younger record are left alone.
    `settling`: how long an ended job's message may be on its way out. `stuck_leases`: after so many leases what
    nobody takes is requeued.
    """

    liveness_ttl: float = 10.0
    look_every: float = 0.5
    sweep_every: float = 15.0
    registry_every: float = 30.0
    objects_every: float = 600.0
    object_age: float = 3600.0
    histories_every: float = 1800.0
    history_age: float = 600.0
    settling: float = 10.0
    stuck_leases: float = 2.0


class Supervisor:
    """Runs until cancelled. `name` is what its key in the registry says, `on_saved` is called after
    each record that it writes.

    await Supervisor(ConnectOptions(), Names("turnout"), name="alone").run()
    """

    def __init__(
        self,
        connect_options: ConnectOptions,
        names: Names,
        *,
        name: str,
        options: SupervisorOptions | None = None,
        on_saved: OnSaved | None = None,
    ) -> None:
        self._on_saved = log_lines.logged(on_saved)
        self._connect_options = connect_options
        self._names = names
        self._name = name
        self._options = options or SupervisorOptions()
        self.confident = FailureDetector(self._options.liveness_ttl)
        """Whether it may call others dead, by its own looks at the registry (P5)."""
        self._alarmed = asyncio.Event()
        self._queues = Queues()
        self._workflows = OpenWorkflows()
        self._groups = GroupUses()
        self._limits = LimitUses()
        self.acting = False

    @property
    def looking(self) -> bool:
        """Whether it has looked lately. For any thread."""
        looked_at = self.confident.in_time_at
        return looked_at is not None and boottime() - looked_at < self._options.liveness_ttl

    async def run(self) -> None:
        """Connect and supervise. Trouble with the connection is outwaited; only cancellation ends this."""
        connection = await Connection.open(self._connect_options, name="turnout-supervisor")
        try:
            with contextlib.ExitStack() as watched:
                watched.callback(metrics.watch_queues(self._if_acting(self._queues.look)))
                watched.callback(metrics.watch_limits(self._if_acting(self._limits.look)))
                watched.callback(workflow_metrics.watch_open(self._if_acting(self._workflows.look)))
                watched.callback(group_metrics.watch_groups(self._if_acting(self._groups.look)))
                with contextlib.suppress(TurnoutError):
                    await connection.sync_clock(self._names.work)
                await self._supervise(connection)
        finally:
            await connection.close()

    async def _supervise(self, connection: Connection) -> None:
        store = Store.over(connection, self._names)
        election = Election(connection, self._names, self._name, self._options.liveness_ttl)
        await connection.subscribe(max_deliveries_advisory(self._names.work), self._hear)
        connection.on_down(self.confident.failed)
        duties = Duties(self._duties(store))
        # Ticks are for whoever lives: they must not wait for an election.
        ticks = asyncio.create_task(Ticks(store, self._performer(store)).run(), name="the ticks")
        try:
            while True:
                await self._stand(election, duties)
                # Often enough in a TTL to be sure of itself: the failure detector wants to hear twice in half of one.
                await asyncio.sleep(min(self._options.look_every, self._options.liveness_ttl / 8))
        finally:
            ticks.cancel()
            await asyncio.gather(ticks, return_exceptions=True)
            await duties.stop()
            await election.resign()

    async def _stand(self, election: Election, duties: Duties) -> None:
        """Keep the key, or try to get it. Nothing else is done here: whatever there is to do, the key is renewed."""
        try:
            self.acting = await election.stand()
            self.confident.succeeded()
        except TurnoutError as error:
            self.acting = election.acting
            self.confident.failed()
            log_rarely(logger, level_of(error, logging.WARNING), "look", "the supervisor can't look: %s", error)
        except Exception:  # nobody else supervises this: whatever it meets, it must survive
            self.confident.failed()
            logger.exception("the supervisor has stumbled, it looks again")
        if self.acting and not duties.started:
            duties.start()
        elif not self.acting and duties.started:
            for uses in (self._queues, self._workflows, self._limits, self._groups):
                uses.forget()
            await duties.stop()

    def _performer(self, store: Store) -> Performer:
        return Performer(store, confident=self.confident, on_saved=self._on_saved)

    def _pace(self) -> Pace:
        options, ttl = self._options, self._options.liveness_ttl
        return Pace(patience=ttl, settling=options.settling, leases=options.stuck_leases, relook=ttl / 2)

    def _duties(self, store: Store) -> list[Duty]:
        options = self._options
        performer = self._performer(store)
        apply = Applier(performer)
        bells = Bells.over(store.connection, store.names, options.liveness_ttl)
        owners = Owners(store, apply, self.confident, calm_s=bells.nodes.rest_s)
        sweep = Sweep(store, apply, owners, self._pace())
        owners.tell(sweep.soon)
        records = Records(store, apply, owners, settling_s=options.settling, every_s=options.registry_every)
        ahead = Ahead(store, apply)
        deadlines = Deadlines(store, apply, least_age_s=options.look_every)
        turns = Turns(store, apply, lambda: list(sweep.consumers.values()))
        places = PlaceSweep(store, self._limits)
        routes = RouteWatch(store, lambda: list(sweep.consumers.values()))
        groups = GroupWatch(store, performer, self._groups)
        completions = Completions(store, performer)

        async def read_ahead() -> None:
            await ahead.look(list(sweep.consumers.values()))

        often = options.look_every
        return [
            Duty(
                name="the nodes",
                every_s=often,
                run=owners.look,
                begin=owners.begin,
                hurry=owners.strange,
                bell=bells.nodes,
            ),
            Duty(name="the late nodes", every_s=often, run=owners.ask_late),
            Duty(
                name="what was handed over",
                every_s=often,
                run=sweep.read,
                begin=sweep.begin,
                hurry=owners.vanished,
                bell=bells.handed,
            ),
            Duty(name="the messages", every_s=often, run=sweep.look),
            Duty(name="the priorities", every_s=often, run=read_ahead, begin=ahead.begin),
            Duty(name="the waiting", every_s=2 * often, run=deadlines.read, begin=deadlines.begin, bell=bells.waiting),
            Duty(name="the deadlines", every_s=often, run=deadlines.look),
            Duty(name="the turns", every_s=often, run=turns.look, begin=turns.begin),
            Duty(name="the new records", every_s=often, run=records.read, begin=records.begin, bell=bells.records),
            Duty(name="the records", every_s=often, run=records.look),
            Duty(name="the limits", every_s=often, run=places.look, bell=bells.limits),
            Duty(name="the routes", every_s=often, run=routes.look),
            Duty(
                name="the completions",
                every_s=often,
                run=completions.look,
                begin=completions.begin,
                bell=bells.completions,
            ),
            Duty(name="the groups", every_s=often, run=groups.look, begin=groups.begin, bell=bells.groups),
            *self._rounds(store, Alarms(store, apply, owners)),
            *self._walks(store, performer),
        ]

    def _rounds(self, store: Store, alarms: Alarms) -> list[Duty]:
        """What nobody is in a hurry for."""

        async def clock() -> None:
            await store.connection.sync_clock(self._names.work)  # deadlines are told by it, and clocks are set

        async def queues() -> None:
            if metrics.look():
                await self._queues.measure(store, await consumers_of(store.connection, self._names))

        async def workflows() -> None:
            if metrics.look():
                await self._workflows.count(store)

        seldom = self._options.sweep_every
        return [
            Duty(name="the alarms", every_s=seldom, run=alarms.look, hurry=self._alarmed),
            Duty(name="the queues", every_s=seldom, run=queues),
            Duty(name="the workflows", every_s=seldom, run=workflows),
            Duty(name="the pauses", every_s=seldom, run=store.pauses.set_right),
            Duty(name="the schedules", every_s=seldom, run=Rearming(store).look),
            Duty(name="the clock", every_s=seldom, run=clock),
        ]

    def _walks(self, store: Store, performer: Performer) -> list[Duty]:
        """What is looked through as a whole, now and then."""
        objects = ObjectCollector(store, self._options.object_age)
        histories = HistoryWalk(store, performer, self._options.history_age)
        rare, rarer = self._options.objects_every, self._options.histories_every
        return [
            Duty(name="the objects", every_s=rare, after_s=rare, run=objects.collect),
            Duty(name="the histories", every_s=rarer, after_s=rarer, run=histories.walk),
        ]

    def _hear(self, _: Message) -> None:
        self._alarmed.set()

    def _if_acting(self, look: Callable[[], Mapping[str, T]]) -> Callable[[], Mapping[str, T]]:
        """For whoever collects metrics, in any thread: one supervisor tells them, who knows that it acts still."""
        return lambda: look() if self.acting and self.looking else {}
