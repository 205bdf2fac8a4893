"""What a node asks for, takes, holds for a moment, and gives back.

A node never asks for more than it can run, however few its slots and however many its activities. Where the activities'
own limits fit into the node's slots, each asks for all it has room for. Else they compete, and the intake grants slots:
activities that are known to have jobs waiting take turns, a slot each; of the others as many as there are slots left
ask for one job, so that an idle node has it at once; and for the rest the server is asked to tell when there is one.

Jobs of a priority beside the default one are a lane of their own of their activity, with a consumer of its own. Where
there are any, lanes of a higher priority get slots first, but for those that are owed to who has waited longest. What
was let past others of its activity and priority gets them before those.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import attrs

from turnout.bounded import each
from turnout.core.loglines import fields
from turnout.core.record import Delivery
from turnout.core.routing import Route, spelled
from turnout.core.spec import EXPRESS, is_express, priority_of
from turnout.definition.activity import Activity
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.connection import Message
from turnout.nats.messages import level_of
from turnout.nats.pull import Puller, Source
from turnout.once import log_rarely
from turnout.store.consumers import consumer_of, route_name
from turnout.store.names import lane
from turnout.store.perform import Store
from turnout.store.queue import parse_received
from turnout.store.topology import Topology
from turnout.worker.admission import Seat
from turnout.worker.elders import Elders
from turnout.worker.executor import NodeStops
from turnout.worker.line import Line, consumer_options, rank, startable

logger = logging.getLogger("turnout.worker")

HOLD_S = 0.5
"""How long a job may wait for a slot before it is given back: a request that stood for an idle activity is answered
though others have taken the last slots meanwhile."""

GRANT_S = 0.05
"""How long a request stands for which a slot is kept free, while others wait for their turn."""

BELIEVED_S = 1.0
"""How long it is believed without another look that jobs wait at a consumer: other nodes take them, too."""


_TOP_UP_S = 0.005
_STARTED_TOGETHER = 32
_PEEK_S = 1.0
"""For so long lanes of a lower priority wait for the word whether there are jobs in one of a higher priority."""

_LANES_EVERY_S = 15.0
"""How long after the first job of a priority a node looks for it that has not heard of it."""


@attrs.frozen(kw_only=True)
class Handling:
    """What the node does for its intake.

    `execute` runs a delivery whose ack wait is so many seconds, and whose slot it may leave for a while. `decline`
    gives one back that was not begun. `closed` says why no job may be taken now, None when all is well. `asleep_s`: for
    how long a delivery that comes now may have lain here without being looked at.
    """

    node: str
    execute: Callable[[Delivery, float, Seat], Coroutine[Any, Any, None]]
    decline: Callable[[Delivery], None]
    closed: Callable[[], str | None]
    asleep_s: Callable[[], float]


class Intake:
    """Shares the `slots` of a node out among its activities, each of which has a limit of its own.

    `expires_s`: how long a request may stand that a node which freezes would still be answered. `routed`: jobs may be
    asked for on routes as well.
    """

    def __init__(
        self,
        store: Store,
        activities: Mapping[str, Activity[..., Any]],
        slots: int,
        handling: Handling,
        *,
        expires_s: float,
        routed: bool = False,
    ) -> None:
        self.slots = slots
        self.tasks: set[asyncio.Task[None]] = set()
        """What was begun here, a task each: it runs, or waits in hand for a place of a limit."""
        self._in_hand = 0
        self.draining = False
        self._store = store
        self._handling = handling
        self._loop = asyncio.get_running_loop()
        self._activities = activities
        self._expires_s = expires_s
        self._lines = {name: Line(self, name, min(slots, each.settings.concurrency or slots), [])
                       for name, each in activities.items()}  # fmt: skip
        self._routes: dict[str, Line] = {}
        self._competing = routed or sum(line.limit for line in self._lines.values()) > slots
        self._all = list(self._lines.values())
        """Those of the activities, and those of the routes as they are found."""
        self._turns = deque(self._all)
        self._ranked = False
        """Whether there are lanes of different priorities."""
        self._opened = asyncio.Event()
        self._elders = Elders(self._oldest, self.share_soon)
        self._held = 0
        self._solitary: deque[asyncio.Task[None]] = deque()
        """Those that have to run alone: the first does, or waits until it does."""
        self._fewer = asyncio.Event()
        self._freed = 0
        self._timer: asyncio.TimerHandle | None = None
        for name, line in self._lines.items():
            line.puller = self._puller(line, name, self._ensurer(line, activities[name]))

    def _puller(self, line: Line, consumer: str, ensure: Callable[[bool], Coroutine[Any, Any, None]]) -> Puller:
        source = Source(stream=self._store.names.work, consumer=consumer, ensure=ensure)
        return Puller(self._store.connection, source, line, partial(self._deliver, line),
                      expires_s=self._expires_s, many=max(1, line.limit // 4))  # fmt: skip

    async def open(self, route: Route) -> Puller:
        """Ask for the jobs of this route as well; returns who pulls them, once it has asked. Errors are those of the
        connection."""
        line = self._routes.get(route_name(route))
        if line is None:
            own = self._lines[route.activity]
            line = Line(self, own.name, own.limit, own.group, f"{own.name} where {spelled(route.requires)}")
            line.puller = self._puller(line, route_name(route), self._route_ensurer(line, route))
            self._routes[route_name(route)] = line
            self._all.append(line)
            self._turns.append(line)
        await line.puller.start()
        return line.puller

    def _route_ensurer(self, line: Line, route: Route) -> Callable[[bool], Coroutine[Any, Any, None]]:
        async def ensure(update: bool) -> None:
            options = consumer_options(self._activities[route.activity])
            line.ack_wait_s, line.max_deliver, until = await self._store.routes.ensure(route, options, update=update)
            line.resume_at(None if until is None else until - self._store.connection.now())

        return ensure

    def _ensurer(self, line: Line, activity: Activity[..., Any]) -> Callable[[bool], Coroutine[Any, Any, None]]:
        topology = Topology(self._store.connection, self._store.names)

        async def ensure(update: bool) -> None:
            config = await topology.ensure_consumer(line.name, consumer_options(activity), line.lane, update=update)
            paused_until = await self._store.pauses.apply(line.name, config, config["name"])
            line.resume_at(None if paused_until is None else paused_until - self._store.connection.now())
            line.ack_wait_s, line.max_deliver = config["ack_wait"] / 1e9, int(config.get("max_deliver", -1))

        return ensure

    # --- its life, and what is to be seen of it -----------------------------------------------------------------------

    async def start(self) -> list[asyncio.Task[None]]:
        """Returns the loops that pull, once each has asked. Errors are those of the connection."""
        self._open_lanes(await self._store.lanes.all())
        await each(lambda line: line.puller.start(), list(self._all), _STARTED_TOGETHER)
        pulling = [
            asyncio.create_task(line.puller.run(), name=f"that pulls {line.puller.consumer}") for line in self._all
        ]
        return [*pulling, asyncio.create_task(self._mind_lanes(), name="that looks for priorities")]

    async def _mind_lanes(self) -> None:
        """Pull from lanes that come into use."""
        async with asyncio.TaskGroup() as pulling:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LANES_EVERY_S):
                        await self._opened.wait()
                self._opened.clear()
                try:
                    found = await self._store.lanes.all()
                except TurnoutError as error:
                    level = level_of(error, logging.INFO)
                    log_rarely(logger, level, "lanes", "which priorities are in use can't be read now: %s", error)
                    continue
                for line in self._open_lanes(found):
                    pulling.create_task(self._pull(line))

    def _open_lanes(self, lanes: Mapping[str, Iterable[int]]) -> list[Line]:
        """Those of these lanes that are new here."""
        added = []
        for name, own in self._lines.items():
            for number in sorted(set(lanes.get(name, ())) - {line.lane for line in own.group}):
                label = f"{name} of priority {priority_of(number)}{', let past others' if is_express(number) else ''}"
                line = Line(self, name, own.limit, own.group, label, number)
                line.puller = self._puller(line, lane(name, number), self._ensurer(line, self._activities[name]))
                self._all.append(line)
                self._turns.append(line)
                added.append(line)
            by_lane = {line.lane: line for line in own.group if line not in self._routes.values()}
            for number, line in by_lane.items():
                line.past = by_lane.get(number + EXPRESS)
        if added and not self._ranked:
            self._ranked = self._competing = True
            self._renew(self._all)  # what was asked for all slots at once leaves none to others
        else:
            self._renew(added)
        return added

    def _renew(self, lines: Iterable[Line]) -> None:
        """Have all be asked for anew. Only then can be asked whether jobs wait there: lower lanes wait meanwhile."""
        for line in lines:
            line.puller.renew()
            if self._ranked:
                line.not_known(_PEEK_S)

    async def _pull(self, line: Line) -> None:
        try:
            await line.puller.start()
        except TurnoutError:
            line.puller.renew()
        await line.puller.run()

    async def stop(self) -> None:
        """Take nothing that comes from now on."""
        self._elders.stop()
        await asyncio.gather(*(line.puller.stop() for line in self._all))

    def drain(self) -> None:
        """Give back what waits for a slot, or to be alone, and ask for nothing any more. What is in hand is parked."""
        self.draining = True
        self._store.places.hurry()
        self._fewer.set()
        if self._timer is not None:
            self._timer.cancel()
        for line in self._all:
            line.resume_at(None)
            while line.held:
                self._give_back(line)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return len(self.tasks) - self._in_hand

    @property
    def overfull(self) -> bool:
        """Whether more slots are taken than there are."""
        return self.running > self.slots

    def stood(self, count: int) -> None:
        """So many jobs more wait in hand, and leave their slots to others; or less, and have one again."""
        self._in_hand += count
        if count > 0 and self._competing:
            self._slot_freed()

    @property
    def running_of(self) -> dict[str, int]:
        """How many jobs of each activity run."""
        return {name: line.busy for name, line in self._lines.items()}

    @property
    def trouble(self) -> dict[str, str | None]:
        """Why an activity is not pulled, if so."""
        return {
            line.label: None if (trouble := line.puller.trouble) is None else f"{line.label} is not pulled: {trouble}"
            for line in list(self._all)
        }

    @property
    def refused(self) -> list[str]:
        """What is not pulled since the server does not allow it."""
        return [f"{line.label} is not pulled: {why}" for line in list(self._all) if (why := line.puller.refused)]

    async def refresh(self, activity: str) -> float:
        """Look at the activity's consumer again; its ack wait in seconds."""
        group = self._lines[activity].group
        for line in group:
            await line.puller.refresh()
        return min(line.ack_wait_s for line in group)

    def renew(self, activity: str) -> None:
        """The activity may have been paused or resumed, or have jobs of another priority: ask for its jobs anew."""
        self._opened.set()
        if (own := self._lines.get(activity)) is not None:
            self._renew(own.group)

    def reopen(self) -> None:
        """Jobs may be taken again."""
        for line in self._all:
            line.puller.top_up()

    async def isolate(self) -> None:
        """For the task of a delivery: returns when nothing else runs here, and nothing is taken until it has ended.

        Those that wait for that are alone one after the other. NodeStops when the node is drained meanwhile.
        """
        task = asyncio.current_task()
        assert task is not None
        self._solitary.append(task)
        self._fewer.set()  # the first may have waited for this one, which runs no longer but waits as well
        logger.warning(
            "a job whose node has vanished too often has to run alone; it waits for %d others, nothing new is taken",
            self.running - 1,
        )
        while self._solitary[0] is not task or self.running > len(self._solitary):
            if self.draining:
                raise NodeStops("the node stops before the job could be alone on it")
            self._fewer.clear()
            await self._fewer.wait()

    @property
    def closed(self) -> bool:
        """Whether no job may be taken now."""
        return self.draining or bool(self._solitary) or self._handling.closed() is not None

    # --- asking -------------------------------------------------------------------------------------------------------

    def top_up(self, line: Line) -> None:
        """Ask for what there is room for."""
        if self.closed:
            return
        if self._competing:
            self.share_soon()
        else:
            line.puller.ask(line.room)

    def ended(self, line: Line, unused: int) -> None:
        """Nothing came that was asked for: no jobs wait there, and perhaps not where that was heard long ago."""
        if self._competing and unused:
            line.backlog = False
            self._elders.unused(line, unused)
            before = boottime() - BELIEVED_S
            for other in self._all:
                other.backlog = other.backlog and other.backlog_at > before
        self.top_up(line)

    def share_soon(self) -> None:
        """Share the free slots out in the next turn of the loop, once for all that happens in this one."""
        if self._timer is None or self._freed:
            self._schedule(0.0)

    def _slot_freed(self) -> None:
        """Share it out together with those that are freed in the next few milliseconds."""
        self._freed += 1
        if self._freed >= max(1, self.slots // 4):
            self._schedule(0.0)
        elif self._timer is None:
            self._schedule(_TOP_UP_S)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._share)

    def _share(self) -> None:
        """Those that have jobs waiting take turns; of the others, some ask for one and some have themselves told."""
        self._timer, self._freed = None, 0
        if self.closed:
            return
        lines = self._all
        free = self.slots - self.running - self._held - sum(line.granted for line in lines)
        waiting = [line for line in self._turns if line.backlog and line.room > 0 and not line.reserved]
        free = self._share_ranked(waiting, free) if self._ranked else self._share_out(waiting, free)
        spare = free - sum(line.reserved for line in lines)
        for line in lines:
            if line.backlog or line.puller.asked or line.puller.watching:
                continue
            stands = len(line.group) == 1 or not self._ranked  # else a lower lane would have what a higher one needs
            if spare > 0 and line.room > 0 and stands:
                line.standing = line.puller.ask(1)
                spare -= line.standing
            elif line.room > 0 or self._ranked:  # who comes first when there is room has to be known by then
                line.puller.watch()

    def _share_out(self, waiting: Sequence[Line], free: int) -> int:
        """Among lines that take turns. How many slots are left."""
        for left, line in zip(range(len(waiting), 0, -1), waiting, strict=True):
            if free <= 0:
                break
            count = min(line.room, max(1, free // left))
            if count <= 0:
                continue  # another line of the same activity has just had all that its limit leaves
            free -= self._grant(line, min(count, max(1, line.waiting) - line.puller.asked) if self._ranked else count)
            self._turns.remove(line)
            self._turns.append(line)
        return free

    def _share_ranked(self, waiting: Sequence[Line], free: int) -> int:
        """By priority, but for what is owed to who has waited longest. How many slots are left."""
        unknown = [line.priority for line in self._peek()]
        ranked = sorted((line for line in waiting if line.priority <= min(unknown, default=math.inf)), key=rank)
        kept = 0
        if free > 0 and ranked and len({*unknown, *map(rank, ranked)}) > 1:
            elder, owed, by_priority = self._elders.owed(ranked, min(free, startable(ranked)))
            kept = free - owed - by_priority
            free = by_priority + owed - (self._grant(elder, min(owed, elder.room)) if elder is not None else 0)
        for _, some in groupby(ranked, key=rank):
            left = [line for line in some if line.room > 0 and not line.reserved]
            passed = [line for line in left if line.past in left]
            free = self._share_out([line for line in left if line not in passed], free)
            free = self._share_out(passed, free)
        return free + kept

    def _peek(self) -> list[Line]:
        """The lines of which nobody knows whether jobs wait there, and there will be word of it soon."""
        now = boottime()
        for line in self._all:
            if line.peeked != line.puller.begun and line.puller.peek():
                line.peeked = line.puller.begun
                line.not_known(_PEEK_S)
        return [line for line in self._all if line.unknown_until > now]

    def _grant(self, line: Line, count: int) -> int:
        """Keep so many slots for the line, and ask for as many jobs; how many it got."""
        if count <= 0 or not line.puller.ask(count, GRANT_S):
            return 0
        line.standing = False
        return count

    async def _oldest(self, lines: Sequence[Line]) -> Line | None:
        """Whose first job that nobody has been handed yet has waited longest. Errors are those of the connection."""
        firsts = await each(self._first, lines, _STARTED_TOGETHER)
        return min(zip(firsts, range(len(lines)), lines, strict=True))[2]

    async def _first(self, line: Line) -> float:
        """Where in the stream that one lies."""
        connection, names = self._store.connection, self._store.names
        consumer = await consumer_of(connection, names, line.puller.consumer)
        if consumer is None:
            return math.inf
        begin, subjects = consumer.delivered_seq + 1, consumer.subjects(names)
        found = [await connection.get_message(names.work, seq=begin, next_by_subj=subject) for subject in subjects]
        return min((stored.seq for stored in found if stored is not None), default=math.inf)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _deliver(self, line: Line, received: Message) -> None:
        if line.puller.asked == 0:
            line.standing = False
        line.unknown_until = 0.0
        delivery = parse_received(self._store.names, received, line.max_deliver)
        if delivery is not None:
            self._accept(line, delivery)
        if self._competing:
            line.backlog = not received.reply.endswith(".0")  # how many more there are
            line.backlog_at = boottime()
            if self._ranked:
                left = received.reply.rpartition(".")[2]
                line.waiting = int(left) if left.isdigit() else 1
            self.share_soon()
        elif delivery is None:
            line.puller.freed()

    def _accept(self, line: Line, delivery: Delivery) -> None:
        if self._handling.asleep_s() > line.ack_wait_s:
            return  # it may have lain here while we slept, and be another's by now: its lease brings it back (P9)
        if self.closed:
            self._handling.decline(delivery)
        elif line.busy < line.limit and self.running < self.slots:
            self._execute(line, delivery)
        else:
            timer = self._loop.call_later(min(HOLD_S, line.ack_wait_s / 3), self._give_back, line)
            line.held.append((delivery, timer))
            self._held += 1

    def _execute(self, line: Line, delivery: Delivery) -> None:
        line.running += 1
        task = self._loop.create_task(self._handling.execute(delivery, line.ack_wait_s, line))
        self.tasks.add(task)
        task.add_done_callback(partial(self._executed, line, delivery))

    def _executed(self, line: Line, delivery: Delivery, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        line.running -= 1
        if self._solitary:
            self._end_solitude(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "job %s could not be executed; its lease brings it back",
                delivery.id,
                exc_info=task.exception(),
                extra=fields(delivery.id, delivery.activity, node=self._handling.node),
            )
        self._begin_held()
        if self._competing:
            self._slot_freed()
        else:
            line.puller.freed()

    def _end_solitude(self, task: asyncio.Task[None]) -> None:
        if task in self._solitary:
            self._solitary.remove(task)
            if not self._solitary:
                self.reopen()
        self._fewer.set()

    def _begin_held(self) -> None:
        """Slots are free: those that wait for one come first."""
        for line in sorted(self._turns, key=rank) if self._held and not self._solitary else ():
            while line.held and line.busy < line.limit and self.running < self.slots:
                self._execute(line, self._unhold(line))

    def _give_back(self, line: Line) -> None:
        """The one that has waited longest has waited long enough: another node may have a slot for it."""
        delivery = self._unhold(line)
        line.backlog, line.backlog_at, line.waiting = True, boottime(), 1
        self._handling.decline(delivery)

    def _unhold(self, line: Line) -> Delivery:
        delivery, timer = line.held.popleft()
        timer.cancel()
        self._held -= 1
        return delivery
