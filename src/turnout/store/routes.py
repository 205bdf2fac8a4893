"""Routes: the ways past the nodes that do not fit. A consumer each, which only nodes that fit pull (P15).

A route is made when a node is first handed a job that it does not fit. The job's record is written before, and its
message lies on the route before the old one is settled. Nodes that fit hear of a new route from whoever has made it;
one that starts looks which there are, after it has said that it lives; and the supervisor tells of every route with
jobs that nobody takes. So no job waits for a node that could have it.
"""

from __future__ import annotations

import logging
import secrets

from turnout.core.catalog import NodeInfo
from turnout.core.record import JobRecord, MessageRef, Policy
from turnout.core.routing import Route, fits, spelled, token_of
from turnout.crashpoints import reach
from turnout.nats.boottime import boottime
from turnout.nats.connection import Connection
from turnout.nats.once import SubjectTaken
from turnout.nats.stream import Stream
from turnout.store.consumers import route_name, route_of
from turnout.store.names import Names
from turnout.store.nodes import Nodes
from turnout.store.pauses import Pauses
from turnout.store.queue import WorkQueue
from turnout.store.records import Registry
from turnout.store.topology import ConsumerOptions, Topology

logger = logging.getLogger("turnout.store")

_BELIEVED_S = 60.0
"""For so long it is believed of a route that its consumer is there."""


class Routes:
    """The routes of one namespace. Errors are those of the connection; whatever raised one may be asked for again."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        registry: Registry,
        queue: WorkQueue,
        nodes: Nodes,
        pauses: Pauses,
    ) -> None:
        self._connection = connection
        self._names = names
        self._work = Stream(connection, names.work)
        self._registry = registry
        self._queue = queue
        self._nodes = nodes
        self._pauses = pauses
        self._made: dict[str, float] = {}

    async def send(self, record: JobRecord, original: MessageRef) -> None:
        """Put the job onto the route that its record says, in place of its message. Doing it twice does no harm."""
        route = Route(record.activity, record.spec.options.requires)
        made = await self._make(route, record.rules)
        reach("routes.made")
        await self._put(route, record, original)
        reach("routes.sent")
        if made:
            await self._ensure(route, record.rules)  # it may have been removed just then, for want of use
            await self.tell(route)
        await self._look_again(record)

    async def take_off(self, record: JobRecord) -> None:
        """Remove the job's message from its route, if there is one."""
        await self._work.remove_all(self._subject(record))

    async def ensure(self, route: Route, options: ConsumerOptions, *, update: bool) -> tuple[float, int, float | None]:
        """The route's consumer, created when missing: its ack wait, its most deliveries, the end of a pause."""
        config = await Topology(self._connection, self._names).ensure_route(route, options, update=update)
        until = await self._pauses.apply(route.activity, config, route_name(route))
        return config["ack_wait"] / 1e9, int(config.get("max_deliver", -1)), until

    async def keep(self, activity: str, job_id: str, requires: dict[str, str]) -> None:
        """See to it that the consumer is there of the route on which this job lies: somebody may have removed it."""
        route = Route(activity, requires)
        if not self._believed(route):
            record = (await self._registry.load(activity, job_id)).record
            await self._make(route, Policy() if record is None else record.rules)

    async def drop(self, route: Route) -> None:
        """Remove the consumer of a route that nobody uses. Who sends a job there makes it anew."""
        self._made.pop(route_name(route), None)
        await self._work.remove_consumer(route_name(route))

    def _believed(self, route: Route) -> bool:
        return boottime() - self._made.get(route_name(route), -_BELIEVED_S) < _BELIEVED_S

    async def known(self) -> list[Route]:
        """Every route that was ever made."""
        return [route for info in await self._work.consumers() if (route := route_of(info["config"])) is not None]

    async def tell(self, route: Route, nodes: list[NodeInfo] | None = None) -> None:
        """Tell the nodes that fit, or those of these that do, of this route."""
        for node in await self._nodes.living() if nodes is None else nodes:
            if route.activity in node.activities and fits(node.properties, route.requires):
                self._nodes.look(node.id, route.activity)

    async def _make(self, route: Route, rules: Policy) -> bool:
        """Whether it may be that the nodes that fit do not know of it yet."""
        if self._believed(route):
            return False
        await self._ensure(route, rules)
        self._made[route_name(route)] = boottime()
        what = "jobs of %s that require %s are sent on to the nodes that have it"
        logger.info(what, route.activity, spelled(route.requires))
        return True

    async def _ensure(self, route: Route, rules: Policy) -> None:
        options = ConsumerOptions(lease=rules.lease, max_attempts=rules.retry.max_attempts, max_lost=rules.max_lost)
        await self.ensure(route, options, update=False)

    async def _put(self, route: Route, record: JobRecord, original: MessageRef) -> None:
        subject, expected = self._subject(record), 0
        while True:
            try:
                await self._queue.send_on(record.spec, subject, expected, secrets.token_hex(8))
                return
            except SubjectTaken:
                stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
                if stored is not None and stored.seq > original.seq:
                    return  # whoever was handed this message before has got as far as this
                expected = 0 if stored is None else stored.seq  # it is of an earlier life

    async def _look_again(self, record: JobRecord) -> None:
        """Who has ended the job just then has not seen the message that was not there yet."""
        now = (await self._registry.load(record.activity, record.id)).record
        if now is None or now.state.final or now.generation != record.generation:
            await self.take_off(record)

    def _subject(self, record: JobRecord) -> str:
        return self._names.routed(token_of(record.spec.options.requires), record.activity, record.id)
