"""Nodes: their liveness in a bucket whose keys expire, and the control subject on which they answer (P5)."""

from __future__ import annotations

import contextlib
import logging

import attrs

from turnout import fastjson, wire
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.events import Verdict
from turnout.core.record import Token
from turnout.core.spec import is_name
from turnout.definition.bounds import remembering
from turnout.errors import UnreadableRecord
from turnout.nats.connection import (
    DEFAULT_TIMEOUT_S,
    Connection,
    Disconnected,
    NoResponders,
    RequestTimeout,
    StoredMessage,
    WrongLastSequence,
)
from turnout.nats.messages import EXPECTED, KV_OPERATION
from turnout.nats.stream import TTL, for_seconds, kv_stream
from turnout.store.names import Names
from turnout.store.records import scan

logger = logging.getLogger("turnout.store")

ASK_TIMEOUT_S = 1.0

MAX_TTL_S = 3600.0
"""The longest liveness TTL: who has been silent for longer is dead, whatever his key says."""

_CLOCKS_S = 0.25
"""By how much the server's clock may have been measured wrongly."""


@attrs.frozen
class Answer:
    """What is known of an attempt's owner. `said`: by its own words; `wait_s`: the rest of a silent one's TTL."""

    verdict: Verdict
    wait_s: float = 0.0
    said: bool = False


class Nodes:
    """Reads and writes the nodes and activities buckets, and talks to nodes."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._nodes = kv_stream(names.nodes_bucket)
        self._activities = kv_stream(names.activities_bucket)

    async def alive(self, node: NodeInfo) -> None:
        """Say that this node lives, for another `ttl` seconds.

        The answer is awaited for a fifth of that at most, so that there is time to say it again.
        """
        headers = {TTL: for_seconds(node.ttl)}
        patience_s = min(DEFAULT_TIMEOUT_S, node.ttl / 5)
        await self._connection.store(self._names.node(node.id), wire.dump_node(node), headers, timeout_s=patience_s)

    async def leave(self, node_id: str) -> None:
        """Say that this node is gone, in good order."""
        headers = {KV_OPERATION: "DEL", TTL: "60s"}
        await self._connection.store(self._names.node(node_id), b"", headers)

    async def get(self, node_id: str) -> NodeInfo | None:
        """The node by the word of the leader; None when its liveness has lapsed or it left."""
        if not is_name(node_id):
            return None
        return self._node(await self._connection.get_message(self._nodes, last_by_subj=self._names.node(node_id)))

    async def living(self) -> list[NodeInfo]:
        """The living nodes, by name."""
        found = [self._node(stored) async for stored in scan(self._connection, self._nodes, self._names.node("*"))]
        return sorted((node for node in found if node is not None), key=lambda node: node.id)

    async def ask(
        self, token: Token, *, deliveries: int = 0, exhausted: bool = False, timeout_s: float = ASK_TIMEOUT_S
    ) -> Answer:
        """Ask the owner whether it runs the attempt of this token. Its yes wins over a lapsed key.

        `deliveries` and `exhausted` tell it how far the message's deliveries are used up.
        """
        if not is_name(token.node):
            return Answer(Verdict.gone)  # no node is called so: somebody has put the record there
        body = {"ask": wire.dump_token(token), "deliveries": deliveries, "exhausted": exhausted}
        try:
            reply = await self._connection.request(
                self._names.control(token.node), fastjson.dumps(body), timeout_s=timeout_s
            )
            yes = fastjson.loads(reply.data)["yes"]
            return Answer(Verdict.alive if yes else Verdict.gone, said=True)
        except (NoResponders, RequestTimeout):
            pass
        except (ValueError, TypeError, KeyError, RecursionError):
            logger.warning("what answers for node %s is none", token.node)
        node = await self.get(token.node)
        if node is None:
            return Answer(Verdict.gone)
        rest = node.seen_at + node.ttl - self._connection.now()
        return Answer(Verdict.silent, min(max(rest, 0.5), node.ttl))

    def _node(self, stored: StoredMessage | None) -> NodeInfo | None:
        """The node that this key tells of, if it lives: by the key's age, whether or not the server has dropped it."""
        if stored is None or stored.marker:
            return None
        node_id = stored.subject.rpartition(".")[2]
        try:
            node = wire.load_node(stored.data)
        except wire.Garbled:
            return None
        except UnreadableRecord:  # what a later version says of itself is unknown, but it lives
            node = NodeInfo(id=node_id, name=node_id.rpartition("-")[0] or node_id)
        if node.id != node_id or not is_name(node_id):
            return None
        seen_at = stored.time_ns / 1e9
        if self._connection.now() - seen_at > min(node.ttl, MAX_TTL_S) + _CLOCKS_S:
            return None
        return attrs.evolve(node, seen_at=seen_at)

    def cancel(self, token: Token, reason: str) -> None:
        """Push a cancel request to the owner's node; nothing is said when it does not arrive."""
        body = fastjson.dumps({"cancel": wire.dump_token(token), "reason": reason})
        try:
            self._connection.send(self._names.control(token.node), body)
        except Disconnected:
            return

    def look(self, node_id: str, activity: str) -> None:
        """Tell a node that the activity's consumer was paused or resumed; one that does not hear it notices later."""
        with contextlib.suppress(Disconnected):
            self._connection.send(self._names.control(node_id), fastjson.dumps({"look": activity}))

    async def drain(self, node_id: str) -> bool:
        """Ask a node to drain; False when nobody of this id answers."""
        try:
            await self._connection.request(self._names.control(node_id), fastjson.dumps({"drain": True}), timeout_s=2.0)
        except (NoResponders, RequestTimeout):
            return False
        return True

    async def declare(self, activity: ActivityInfo) -> ActivityInfo:
        """Write the activity's contract, if it is not what is there; it also says which bounds held before."""
        subject = self._names.activity(activity.name)
        stored = await self._connection.get_message(self._activities, last_by_subj=subject)
        if stored is not None and stored.data:
            options = remembering(activity.options, _activity(stored).options, self._connection.now())
            activity = attrs.evolve(activity, options=options)
        data = wire.dump_activity(activity)
        if stored is not None and stored.data == data:
            return activity
        headers = {EXPECTED: str(stored.seq if stored is not None else 0)}
        with contextlib.suppress(WrongLastSequence):  # another node that starts now declares it; the last one decides
            await self._connection.store(subject, data, headers)
        return activity

    async def contract(self, activity: str) -> ActivityInfo | None:
        """What was last declared of one activity; None when nobody has."""
        stored = await self._connection.get_message(self._activities, last_by_subj=self._names.activity(activity))
        return _activity(stored) if stored is not None and stored.data else None

    async def activities(self) -> list[ActivityInfo]:
        """Every activity that was ever declared, with the number of living nodes that work on it."""
        nodes = await self.living()
        found = []
        async for stored in scan(self._connection, self._activities, self._names.activity("*")):
            if stored.data:
                activity = _activity(stored)
                working = sum(activity.name in node.activities for node in nodes)
                found.append(attrs.evolve(activity, nodes=working))
        return sorted(found, key=lambda activity: activity.name)


def _activity(stored: StoredMessage) -> ActivityInfo:
    try:
        return wire.load_activity(stored.data)
    except UnreadableRecord:
        return ActivityInfo(name=stored.subject.rpartition(".")[2], doc="(declared by a newer turnout)")
