"""Making streams on a server that is clearing away what was there, and removing what lies in one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.edge.conftest import Connect
from turnout.nats.connection import Connection, ConnectOptions
from turnout.nats.stream import Stream
from turnout.testing.server import NatsServer


async def test_a_stream_is_made_though_its_folder_could_not_be_at_first(tmp_path: Path) -> None:
    """The server removes an account's folder a moment after its last stream went, maybe from under the next.

    A file where that folder goes stands for the moment.
    """
    with NatsServer(store_dir=tmp_path) as server:
        connection = await Connection.open(ConnectOptions(servers=(server.url,)), name="test")
        in_the_way = tmp_path / "jetstream" / "$G" / "streams"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.touch()
        asyncio.get_running_loop().call_later(0.03, in_the_way.unlink)
        await Stream(connection, "s").write({"name": "s", "subjects": ["s"]}, create=True)
        assert await Stream(connection, "s").last_seq() == 0
        await connection.close()


async def test_many_are_removed_by_few_reads(connection: Connection, connect: Connect, stream: str) -> None:
    """Those of other subjects stay, and those from `below` on; ten thousand are not read one by one."""
    for_many = [connection.store_nowait(f"{stream}.{'b' if n % 100 == 0 else 'a'}", b"x") for n in range(1, 1_501)]
    await asyncio.gather(*for_many)
    heard: list[str] = []
    listener = await connect()
    await listener.subscribe(f"$JS.API.STREAM.MSG.GET.{stream}", lambda message: heard.append(message.subject))
    await listener.flush()
    await Stream(connection, stream).remove_all(f"{stream}.a", below=1_400)
    assert await subjects(connection, stream) == {f"{stream}.a": 99, f"{stream}.b": 15}
    await Stream(connection, stream).remove_all(f"{stream}.a")
    assert await subjects(connection, stream) == {f"{stream}.b": 15}
    await listener.flush()
    assert 0 < len(heard) < 20


async def subjects(connection: Connection, stream: str) -> dict[str, int]:
    return {subject: count async for subject, count in Stream(connection, stream).subjects(f"{stream}.>")}
