"""The pull loop of any consumer, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.edge.conftest import Connect
from tests.support.waiting import until
from turnout.nats.connection import Connection, Message
from turnout.nats.pull import Puller, Room, Source
from turnout.nats.stream import Stream, nak
from turnout.testing import NatsServer

ACK_WAIT_NS = 120_000_000_000
LIMITED = """
authorization: {
  users: [
    {user: all, password: all}
    {user: some, password: some, permissions: {publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}}}
  ]
}
"""


class Pulled:
    """A consumer of a stream, its puller at work, and what it has brought."""

    def __init__(self, connection: Connection, stream: str, demand: Any, **options: Any) -> None:
        self.messages: list[Message] = []
        self.stream = stream
        self._connection = connection
        source = Source(stream=stream, consumer="c", ensure=self._ensure)
        self.demand = demand
        self.puller = Puller(connection, source, demand, self._deliver, **options)

    async def __aenter__(self) -> Pulled:
        await self.puller.start()
        self._task = asyncio.create_task(self.puller.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def info(self) -> dict[str, Any]:
        return await self._connection.api(f"CONSUMER.INFO.{self.stream}.c")

    async def publish(self, count: int) -> None:
        for number in range(count):
            await self._connection.store(f"{self.stream}.a", str(number).encode())

    def came(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def all_there() -> bool:
            return len(self.messages) == count

        return all_there

    async def _ensure(self, update: bool) -> None:
        config = {"durable_name": "c", "name": "c", "ack_policy": "explicit", "ack_wait": ACK_WAIT_NS, "max_deliver": 2}
        await self._connection.api(
            f"CONSUMER.CREATE.{self.stream}.c", {"stream_name": self.stream, "config": config, "action": ""}
        )

    def _deliver(self, message: Message) -> None:
        self.messages.append(message)
        if isinstance(self.demand, Room):
            self.demand.take()


class Watching:
    """A demand that asks for nothing until it has heard that there is something."""

    def __init__(self) -> None:
        self.heard = 0

    def top_up(self, puller: Puller) -> None:
        puller.watch()

    def ended(self, puller: Puller, unused: int) -> None:
        puller.watch()

    def available(self, puller: Puller) -> None:
        self.heard += 1


async def test_never_more_than_there_is_room_for(connection: Connection, stream: str) -> None:
    """Ten messages and room for three: three come, and one more for each that is done with."""
    async with Pulled(connection, stream, Room(3)) as pulled:
        await pulled.publish(10)
        await until(pulled.came(3))
        info = await pulled.info()
        assert (info["delivered"]["consumer_seq"], info["num_ack_pending"]) == (3, 3), info
        for done in range(4, 7):
            pulled.demand.give()
            pulled.puller.freed()
            await until(pulled.came(done))


async def test_a_watch_takes_nothing(connection: Connection, stream: str) -> None:
    """Who watches hears of a message, which stays where it is with its deliveries uncounted, for whoever asks."""
    async with Pulled(connection, stream, Watching()) as pulled:
        await pulled.publish(1)

        async def heard() -> int:
            return int(pulled.demand.heard)

        await until(heard)
        for times in range(2, 30):
            pulled.puller.watch()

            async def heard_again(times: int = times) -> bool:
                return bool(pulled.demand.heard == times)

            await until(heard_again)
        info = await pulled.info()
        assert (info["num_pending"], info["num_ack_pending"], info["delivered"]["consumer_seq"]) == (1, 0, 0)
        pulled.puller.ask(1)
        await until(pulled.came(1))
        assert pulled.messages[0].reply.split(".")[4] == "1"  # its first delivery


async def test_a_request_ends_when_it_said(connection: Connection, stream: str) -> None:
    """What was asked for and did not come within `expires_s` is given up by the server, and asked for again."""
    async with Pulled(connection, stream, Room(5), expires_s=0.2) as pulled:
        ended: list[int] = []
        pulled.demand.ended = lambda puller, unused: ended.append(unused)

        async def given_up() -> bool:
            return ended == [5]

        await until(given_up)
        assert pulled.puller.asked == 0
        assert (await pulled.info())["num_waiting"] == 0


async def test_it_goes_on_after_an_outage(connection: Connection, stream: str, server: NatsServer) -> None:
    """A restarted server has forgotten every request: they are made again at once."""
    async with Pulled(connection, stream, Room(5)) as pulled:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await connection.wait_up()
        await pulled.publish(5)
        await until(pulled.came(5))


async def test_a_deleted_consumer_is_made_again(connection: Connection, stream: str) -> None:
    """The server ends the requests of a consumer that goes away; the next begins with `ensure`."""
    async with Pulled(connection, stream, Room(5)) as pulled:
        await connection.api(f"CONSUMER.DELETE.{stream}.c")
        await pulled.publish(5)
        await until(pulled.came(5))


async def test_what_is_removed_costs_no_other_its_redelivery(connection: Connection, stream: str) -> None:
    """After a purge of the second message the server takes the first one for acknowledged, and a NAK does nothing."""
    async with Pulled(connection, stream, Room(10)) as pulled:
        for subject in ("first", "second"):
            await connection.store(f"{stream}.{subject}", b"x")
        await until(pulled.came(2))
        await Stream(connection, stream).remove_all(f"{stream}.second")
        connection.send(pulled.messages[0].reply, nak())
        await until(pulled.came(3), within_s=60)  # its ack wait is two minutes
        assert pulled.messages[2].subject == f"{stream}.first"
        assert (await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"] == 1


async def test_who_may_not_pull_says_so(connect: Connect) -> None:
    """Without the permission to ask nothing is ever answered: that is trouble from the start, and names the subject."""
    with NatsServer(config=LIMITED) as server:
        everything = await connect(server.url, user="all", password="all")
        await everything.api("STREAM.CREATE.s", {"name": "s", "subjects": ["s.>"]})
        some = await connect(server.url, user="some", password="some")
        async with Pulled(some, "s", Room(5)) as pulled:
            assert "CONSUMER.MSG.NEXT.s.c" in (pulled.puller.trouble or "")
            assert not pulled.puller.pulling


async def test_requests_come_by_the_inbox_that_is_allowed(connect: Connect) -> None:
    """A prefix of one's own for inboxes holds for pulls as well."""
    allowed = '{subscribe: ["_INBOX_mine.>"], publish: ">"}'
    config = f"authorization: {{users: [{{user: a, password: a, permissions: {allowed}}}]}}"
    with NatsServer(config=config) as server:
        mine = await connect(server.url, user="a", password="a", inbox_prefix="_INBOX_mine")
        await mine.api("STREAM.CREATE.s", {"name": "s", "subjects": ["s.>"]})
        async with Pulled(mine, "s", Room(5)) as pulled:
            await pulled.publish(1)
            await until(pulled.came(1))
