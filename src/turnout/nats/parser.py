"""What comes in over a link: the bytes of the NATS client protocol, cut into messages as they arrive.

https://docs.nats.io/reference/reference-protocols/nats-protocol. No task and no stream reader: what a read brought is
handed on at once, in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from turnout import fastjson

MAX_LINE_BYTES = 1024 * 1024
"""A control line without an end that is longer than this is none: the longest there is, INFO, has some KiB."""

_END = b"\r\n"
_MESSAGE, _WITH_HEADERS = ord("M"), ord("H")


class Receiver(Protocol):
    """Whoever takes what arrives. Nothing here may raise."""

    @property
    def dead(self) -> bool: ...

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None: ...
    def pinged(self) -> None: ...
    def ponged(self) -> None: ...
    def refused(self, text: str) -> None: ...
    def informed(self, info: dict[str, Any]) -> None: ...
    def lose(self, reason: str) -> None: ...


class Malformed(ValueError):
    """What arrived is not the protocol of NATS."""


class Parser(asyncio.Protocol):
    """Takes over the reading of a transport once the handshake is done. `arrived` counts the bytes that came.

    `quiet`: the last read brought at most one message, and all of it; whoever makes use of that takes it back.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.arrived = 0
        self.quiet = False
        self._receiver = receiver
        self._rest = bytearray()
        self._wanted = 0

    def data_received(self, data: bytes) -> None:
        self.arrived += len(data)
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return  # the rest of a large message is still on its way
            data = bytes(self._rest)
            self._rest.clear()
        try:
            done = self._parse(data)
        except (Malformed, ValueError, IndexError) as error:
            self._receiver.lose(f"what the server sent makes no sense: {error}")
            return
        if done < len(data):
            self._rest += data[done:]

    def eof_received(self) -> None:
        self._receiver.lose("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.lose(str(exc) if exc is not None and str(exc) else "the server closed the connection")

    def _parse(self, data: bytes) -> int:
        """Hand on all that is complete; how many bytes that were."""
        receiver = self._receiver
        find, size = data.find, len(data)
        at, self._wanted, messages, self.quiet = 0, 0, 0, False
        while not receiver.dead:
            end = find(_END, at)
            if end < 0:
                if size - at > MAX_LINE_BYTES:
                    raise Malformed(f"a line that does not end: {data[at : at + 40]!r}")
                break
            kind = data[at]
            if kind in (_MESSAGE, _WITH_HEADERS):
                begin = end + 2
                words = data[at:end].split()
                after = begin + int(words[-1])
                if after < begin:
                    raise Malformed(f"{data[at:end][:40]!r}")
                if after + 2 > size:
                    self._wanted = after + 2 - at
                    break
                split = begin + int(words[-2]) if kind == _WITH_HEADERS else begin
                reply = words[3] if len(words) == (6 if kind == _WITH_HEADERS else 5) else b""
                headers = data[begin:split] if kind == _WITH_HEADERS else None
                receiver.message(int(words[2]), words[1], reply, data[split:after], headers)
                at = after + 2
                messages += 1
            else:
                self._line(data[at:end])
                at = end + 2
        self.quiet = messages <= 1 and at == size
        return at

    def _line(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            self._receiver.pinged()
        elif word == b"PONG":
            self._receiver.ponged()
        elif word == b"-ERR":
            self._receiver.refused(line[4:].decode("utf-8", "replace").strip().strip("'"))
        elif word == b"INFO":
            self._receiver.informed(fastjson.loads(line[4:]))
        elif word[:3] != b"+OK":
            raise Malformed(f"{line[:40]!r}")
