"""A TCP proxy that has accidents on demand: latency, silence in either direction, and cuts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class Proxy:
    """Forwards to a port of 127.0.0.1 until told otherwise.

        async with Proxy(server.port) as proxy:
            ... connect to proxy.url ...
            proxy.block()       # a black hole: connections stay, nothing goes through, and nothing is even read
            proxy.unblock()     # what was held goes on its way
            proxy.cut()         # every connection is reset

    `latency_s` is added in each direction.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.latency_s = 0.0
        self.accepted = 0
        self.unblock()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def block(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing through to the server (up), from it (down), or both."""
        for name, blocked in (("up", up), ("down", down)):
            if blocked:
                self._open[name].clear()

    def unblock(self) -> None:
        for direction in self._open.values():
            direction.set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, server_writer}
        self._writers |= pair
        for name, source, sink in (("up", reader, server_writer), ("down", server_reader, writer)):
            task = asyncio.create_task(self._forward(name, source, sink, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._copy(name, source, sink)
        finally:
            for writer in pair:
                writer.transport.abort()
            self._writers -= pair

    async def _copy(self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while True:
            await self._open[name].wait()
            data = await source.read(65536)
            await self._open[name].wait()
            if not data:
                return
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            sink.write(data)
            await sink.drain()
