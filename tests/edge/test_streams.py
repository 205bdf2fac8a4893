"""Making streams on a server that is clearing away what was there."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
