"""Nodes: their liveness in a bucket whose keys expire, and the control subject on which they answer (P5)."""

from __future__ import annotations

import attrs

from turnout import fastjson, wire
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.events import Verdict
from turnout.core.values import Token
from turnout.errors import UnreadableRecord
from turnout.jetstream.connection import (
    Connection,
    Disconnected,
    NoResponders,
    RequestTimeout,
    StoredMessage,
    WrongLastSequence,
)
from turnout.jetstream.messages import EXPECTED, KV_OPERATION
from turnout.jetstream.names import Names, kv_stream
from turnout.jetstream.registry import scan

ASK_TIMEOUT_S = 1.0


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
        """Say that this node lives, for another `ttl` seconds."""
        headers = {"Nats-TTL": f"{max(1, round(node.ttl))}s"}
        await self._connection.store(self._names.node(node.id), wire.dump_node(node), headers)

    async def leave(self, node_id: str) -> None:
        """Say that this node is gone, in good order."""
        headers = {KV_OPERATION: "DEL", "Nats-TTL": "60s"}
        await self._connection.store(self._names.node(node_id), b"", headers)

    async def get(self, node_id: str) -> NodeInfo | None:
        """The node by the word of the leader; None when its liveness has lapsed or it left."""
        return _node(await self._connection.get_message(self._nodes, last_by_subj=self._names.node(node_id)))

    async def living(self) -> list[NodeInfo]:
        """The living nodes, by name."""
        found = [_node(stored) async for stored in scan(self._connection, self._nodes, self._names.node("*"))]
        return sorted((node for node in found if node is not None), key=lambda node: node.id)

    async def ask(self, token: Token, *, deliveries: int = 0, exhausted: bool = False) -> Answer:
        """Ask the owner whether it runs the attempt of this token. Its yes wins over a lapsed key.

        `deliveries` and `exhausted` tell it how far the message's deliveries are used up.
        """
        body = {"ask": wire.dump_token(token), "deliveries": deliveries, "exhausted": exhausted}
        try:
            reply = await self._connection.request(
                self._names.control(token.node), fastjson.dumps(body), timeout_s=ASK_TIMEOUT_S
            )
            return Answer(Verdict.alive if fastjson.loads(reply.data).get("yes") else Verdict.gone, said=True)
        except (NoResponders, RequestTimeout):
            pass
        stored = await self._connection.get_message(self._nodes, last_by_subj=self._names.node(token.node))
        node = _node(stored)
        if node is None or stored is None:
            return Answer(Verdict.gone)
        rest = stored.time_ns / 1e9 + node.ttl - self._connection.now()
        return Answer(Verdict.silent, min(max(rest, 0.5), node.ttl))

    def cancel(self, token: Token, reason: str) -> None:
        """Push a cancel request to the owner's node; nothing is said when it does not arrive."""
        body = fastjson.dumps({"cancel": wire.dump_token(token), "reason": reason})
        try:
            self._connection.send(self._names.control(token.node), body)
        except Disconnected:
            return

    async def drain(self, node_id: str) -> bool:
        """Ask a node to drain; False when nobody of this id answers."""
        try:
            await self._connection.request(self._names.control(node_id), fastjson.dumps({"drain": True}), timeout_s=2.0)
        except (NoResponders, RequestTimeout):
            return False
        return True

    async def declare(self, activity: ActivityInfo) -> None:
        """Write the activity's contract, if it is not what is there."""
        subject, data = self._names.activity(activity.name), wire.dump_activity(activity)
        stored = await self._connection.get_message(self._activities, last_by_subj=subject)
        if stored is not None and stored.data == data:
            return
        headers = {EXPECTED: str(stored.seq if stored is not None else 0)}
        try:
            await self._connection.store(subject, data, headers)
        except WrongLastSequence:
            return  # another node that starts now declares it; the one that starts last decides

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


def _node(stored: StoredMessage | None) -> NodeInfo | None:
    if stored is None or stored.marker:
        return None
    try:
        node = wire.load_node(stored.data)
    except UnreadableRecord:  # of a newer version, perhaps: what it says of itself is unknown, but it lives
        node_id = stored.subject.rpartition(".")[2]
        node = NodeInfo(id=node_id, name=node_id.rpartition("-")[0] or node_id)
    return attrs.evolve(node, seen_at=stored.time_ns / 1e9)
