"""A worker's health and metrics over HTTP, for whoever watches the process: a small server in a thread of its own.

In a thread, so that it answers while user code blocks the worker's loop, and when the loops it reports on have died.
It answers GET and HEAD of a few paths and closes each connection after its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import attrs

from turnout import fastjson
from turnout.errors import TurnoutError
from turnout.loop_thread import LoopThread

logger = logging.getLogger("turnout.worker.health")

CONNECTIONS = 64
PATIENCE_S = 5.0
_LINE_BYTES = 4096


class CannotListen(TurnoutError):
    """The port for the health can't be listened on: it is taken, or not allowed."""


@attrs.frozen(kw_only=True)
class Report:
    """`dead`: what has ended that should not have. `unready`: why no job can be taken. `status`: the rest, as JSON."""

    dead: list[str]
    unready: list[str]
    status: dict[str, Any]


class HealthServer:
    """Serves what `report` says, which is called in this server's thread, once for each request, and the metrics.

    /livez is 200 unless something is dead; /readyz is 200 while the worker can take jobs; both say why they are 503.
    /status is always 200, and so is /metrics, which is what the whole process counts.
    """

    def __init__(self, host: str, port: int, report: Callable[[], Report]) -> None:
        self.host = host
        self.port = port
        self._report = report
        self._open: dict[asyncio.StreamWriter, None] = {}
        """Whom it talks with, in the order of their coming."""
        self._thread = LoopThread("turnout-health", self._serve)

    async def start(self) -> None:
        """Returns when it answers; `port` is the real one then. CannotListen says why it does not."""
        self._thread.start()
        try:
            await self._thread.wait_ready()
        except OSError as error:
            raise CannotListen(
                f"can't serve the health on {self.host}:{self.port}: {error.strerror or error}"
            ) from error

    async def stop(self) -> None:
        """No more answers."""
        await self._thread.stop(PATIENCE_S)

    # --- in the thread ------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        _metrics()  # counting begins before anybody asks
        server = await asyncio.start_server(self._connected, self.host, self.port, limit=_LINE_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._thread.ready()
        try:
            await asyncio.get_running_loop().create_future()  # until it is stopped
        finally:
            server.close()  # not waited for: what is open ends with this loop

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS:
            # Who came first has had the most time: whoever holds connections open keeps nobody else from asking.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer.write(self._answer(await _request(reader)))
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so oddly, or goes away, gets no answer
        finally:
            self._open.pop(writer, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: tuple[str, str]) -> bytes:
        method, path = request
        if method not in ("GET", "HEAD"):
            return _response(405, "GET or HEAD\n", allow=True)
        try:
            code, body, kind = self._page(path)
        except Exception:  # this server must survive whatever is wrong with what it reports on
            logger.exception("the health can't be told")
            code, body, kind = 500, "the health can't be told: see its log\n", "text/plain"
        return _response(code, body, kind=kind, head=method == "HEAD")

    def _page(self, path: str) -> tuple[int, str, str]:
        match path:
            case "/livez":
                return (*_verdict(self._report().dead), "text/plain")
            case "/readyz":
                report = self._report()
                return (*_verdict(report.dead + report.unready), "text/plain")
            case "/status":
                report = self._report()
                body = {**report.status, "live": not report.dead, "ready": not report.dead + report.unready,
                        "trouble": report.dead + report.unready}  # fmt: skip
                return 200, fastjson.dumps(body).decode() + "\n", "application/json"
            case "/metrics":
                return (200, *_metrics())
            case _:
                return 404, "there is /livez, /readyz, /status and /metrics\n", "text/plain"


def _metrics() -> tuple[str, str]:
    # The SDK is imported only where somebody can ask for it.
    from turnout.telemetry.metrics_page import page

    return page().text(), page().CONTENT_TYPE


def _verdict(problems: list[str]) -> tuple[int, str]:
    return (503, "".join(f"{problem}\n" for problem in problems)) if problems else (200, "ok\n")


async def _request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Method and path of a request; its headers are read, and of no interest."""
    line = (await reader.readuntil(b"\n")).decode("latin-1")
    method, target, _version = line.split()
    for _ in range(100):
        if (await reader.readuntil(b"\n")) in (b"\r\n", b"\n"):
            return method, target.partition("?")[0]
    raise ValueError("too many headers")


_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error",
            503: "Service Unavailable"}  # fmt: skip


def _response(code: int, body: str, *, kind: str = "text/plain", head: bool = False, allow: bool = False) -> bytes:
    data = body.encode()
    lines = [
        f"HTTP/1.1 {code} {_REASONS[code]}",
        f"Content-Type: {kind}; charset=utf-8",
        f"Content-Length: {len(data)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if allow else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else data)
