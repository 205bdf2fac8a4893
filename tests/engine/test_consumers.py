"""Consumers: which of them are activities', and giving back what one of them has handed to somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from turnout import Client, activity
from turnout.core.record import MessageRef
from turnout.store.consumers import ACTIVITY, KIND, consumer_of, consumers_of, kind_of
from turnout.store.names import lane
from turnout.store.topology import ConsumerOptions, Topology, consumer_config


@activity
async def job() -> None:
    pass


LEASE_S = 120
OPTIONS = ConsumerOptions(lease=LEASE_S, max_attempts=3, max_lost=3)


@asynccontextmanager
async def pulls(client: Client, priority: int = 3) -> AsyncIterator[Any]:
    """Somebody who pulls the jobs of `job` of this priority and does nothing else."""
    await Topology(client.store.connection, client.store.names).ensure_consumer("job", OPTIONS, priority)
    connection = await nats.connect(client.connect_options.servers[0])
    try:
        yield await connection.jetstream().pull_subscribe_bind(lane("job", priority), client.store.names.work)
    finally:
        await connection.close()


def message_of(received: Msg) -> MessageRef:
    return MessageRef(received.metadata.sequence.stream, int(received.reply.split(".")[7]))


async def give_back(client: Client, message: MessageRef) -> None:
    consumer = await consumer_of(client.store.connection, client.store.names, "job")
    assert consumer is not None
    client.store.queue.give_back(consumer, message)


async def test_what_somebody_was_handed_can_be_given_back(turnout_client: Client) -> None:
    """Also when messages that were handed over later are acknowledged; long before the lease ends."""
    async with pulls(turnout_client) as pulled:
        for _ in range(3):
            await turnout_client.submit(job)
            [received] = await pulled.fetch(1, timeout=30)
            await give_back(turnout_client, message_of(received))
            [again] = await pulled.fetch(1, timeout=30)
            assert message_of(again) == message_of(received)
            await again.ack_sync()


async def test_giving_back_what_waits_for_a_pull_costs_no_delivery(turnout_client: Client) -> None:
    """Nor does giving back what was done, or is not there."""
    async with pulls(turnout_client) as pulled:
        await turnout_client.submit(job)
        [received] = await pulled.fetch(1, timeout=30)
        for _ in range(5):
            await give_back(turnout_client, message_of(received))
        [again] = await pulled.fetch(1, timeout=30)
        assert again.metadata.num_delivered == 2
        await again.ack_sync()
        for message in (message_of(received), MessageRef(1000, 1)):
            await give_back(turnout_client, message)
        with pytest.raises(TimeoutError):
            await pulled.fetch(1, timeout=0.5)


async def test_only_activities_consumers_are_taken_for_such(turnout_client: Client) -> None:
    """A consumer says what it is there for; one of an earlier version is told by its filters, a stranger is none."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    earlier = {name: value for name, value in consumer_config(names, "earlier", OPTIONS).items() if name != "metadata"}
    other = {**earlier, "filter_subjects": [names.timer("*", "x")], "metadata": {KIND: "timers"}}
    strange = {**earlier, "filter_subjects": [names.timer("*", "y")]}
    await Topology(connection, names).ensure_consumer("job", OPTIONS)
    for name, config in {"earlier": earlier, "other": other, "strange": strange}.items():
        body = {"stream_name": names.work, "config": {**config, "durable_name": name, "name": name}}
        await connection.api(f"CONSUMER.CREATE.{names.work}.{name}", body)
    assert sorted(each.activity for each in await consumers_of(connection, names)) == ["earlier", "job"]
    infos = (await connection.api(f"CONSUMER.LIST.{names.work}", {"offset": 0}))["consumers"]
    kinds = {info["name"]: kind_of(names, info["config"]) for info in infos}
    assert kinds == {"job": ACTIVITY, "earlier": ACTIVITY, "other": "timers", "strange": None}


async def test_a_consumer_is_written_only_when_it_differs(turnout_client: Client) -> None:
    """What the server adds to a consumer's metadata is no difference; a kind that is missing is."""
    topology = Topology(turnout_client.store.connection, turnout_client.store.names)
    await topology.ensure_consumer("job", OPTIONS)
    written: list[str] = []
    subject = f"$JS.API.CONSUMER.CREATE.{turnout_client.store.names.work}.job"
    await turnout_client.store.connection.subscribe(subject, lambda received: written.append(received.subject))
    await topology.ensure_consumer("job", OPTIONS)
    assert not written
