"""Who runs what: when the nodes are looked at, and what is lost with one."""

from __future__ import annotations

import asyncio

from tests.support.applied import Applied
from turnout import Client
from turnout.core.catalog import NodeInfo
from turnout.core.events import Lost
from turnout.core.record import Token
from turnout.supervisor.owners import Owned, Owners


def owners_of(client: Client, calm_s: float) -> Owners:
    """Who looks after the nodes, and is not sure of itself: it calls nobody dead."""
    return Owners(client.store, Applied(), lambda: False, calm_s=calm_s)


async def test_nobody_looks_at_nodes_that_cannot_be_dead(turnout_client: Client) -> None:
    """A key that was just written has to be looked at before it comes near its end, and not earlier."""
    nodes = turnout_client.store.nodes
    await nodes.alive(NodeInfo(id="n-1", name="n", activities=("some",), slots=1, ttl=100.0))
    for calm_s, calm in ((20.0, True), (70.0, False)):
        owners = owners_of(turnout_client, calm_s)
        assert await owners.look() is calm
        owners.note("some", "a", Owned(Token("n-1", 1, 1, "x"), None))
        assert await owners.look() is calm
        assert not owners.strange.is_set()


async def test_a_node_that_was_not_seen_is_looked_for_at_once(turnout_client: Client) -> None:
    """Somebody runs a job whose key has lapsed, or who has only just begun: it is looked at until it lives."""
    owners = owners_of(turnout_client, 20.0)
    assert await owners.look()
    owners.note("some", "a", Owned(Token("n-1", 1, 1, "x"), None))
    assert owners.strange.is_set()
    assert not await owners.look()
    node = NodeInfo(id="n-1", name="n", activities=("some",), slots=1, ttl=100.0)
    await turnout_client.store.nodes.alive(node)
    assert await owners.look()


async def test_what_is_met_while_a_dead_node_is_asked_is_lost_with_the_rest(turnout_client: Client) -> None:
    """It is not asked once more for that: each question to a frozen node takes a second."""
    applied, asked = Applied(), asyncio.Event()
    owners = Owners(turnout_client.store, applied, lambda: True)
    connection, names = turnout_client.store.connection, turnout_client.store.names
    await connection.subscribe(names.control("n-1"), lambda _: asked.set())
    owners.note("some", "first", Owned(Token("n-1", 1, 1, "x"), None))
    look = asyncio.create_task(owners.look())
    await asked.wait()
    owners.note("some", "second", Owned(Token("n-1", 1, 1, "y"), None))
    await look
    assert [job_id for job_id, event in applied.events if isinstance(event, Lost)] == ["first", "second"]
