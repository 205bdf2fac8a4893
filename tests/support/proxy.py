"""A TCP proxy that has accidents on demand: latency, silence in either direction, and cuts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Self

_NAME = re.compile(rb'"name":\s*"([^"]*)"')


class Proxy:
    """Forwards to a port of 127.0.0.1 until told otherwise.

        async with Proxy(server.port) as proxy:
            ... connect to proxy.url ...
            proxy.block()       # a black hole: connections stay, nothing goes through, and nothing is even read
            proxy.unblock()     # what was held goes on its way
            proxy.cut()         # every connection is reset

    `latency_s` is added in each direction. `refuse` names clients that are not let in, such as "turnout-leases".
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.latency_s = 0.0
        self.refuse: set[str] = set()
        self._names: dict[asyncio.StreamWriter, str] = {}
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

    def say(self, line: bytes) -> None:
        """Send this to every client, as if the server had said it."""
        for writer in self._clients & self._writers:
            writer.write(line)

    def cut(self, name: str | None = None) -> None:
        """Reset every connection, or those of clients that call themselves so."""
        for writer in list(self._writers):
            if name is None or self._names.get(writer) == name:
                writer.transport.abort()

    def lose(self, name: str) -> None:
        """Reset the connections of clients that call themselves so, and let them in no more."""
        self.refuse.add(name)
        self.cut(name)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, server_writer}
        self._writers |= pair
        self._clients.add(writer)
        for name, source, sink in (("up", reader, server_writer), ("down", server_reader, writer)):
            task = asyncio.create_task(self._forward(name, source, sink, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._copy(name, source, sink, pair)
        finally:
            for writer in pair:
                writer.transport.abort()
                self._names.pop(writer, None)
            self._writers -= pair

    async def _copy(
        self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        while True:
            await self._open[name].wait()
            data = await source.read(65536)
            await self._open[name].wait()
            if not data:
                return
            if name == "up" and sink not in self._names and (found := _NAME.search(data)):
                self._names |= dict.fromkeys(pair, found[1].decode())
            if self._names.get(sink) in self.refuse:
                return
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            sink.write(data)
            await sink.drain()
