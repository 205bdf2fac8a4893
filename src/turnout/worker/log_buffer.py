"""The lines of `job.log` of one attempt, on their way out: events of its span, and batches in the stream of logs.

Logging never waits for anything. Lines gather here and are written once a second at most, and at the attempt's end. How
many gather is bounded, the oldest go first, and the next line to be kept says how many: code that logs in a loop costs
its node no more than that, and neither does a server that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque

import attrs
from opentelemetry.trace import Span

from turnout.core.loglines import Line, marker
from turnout.core.record import JobRecord
from turnout.store.job_logs import BATCH_BYTES
from turnout.store.perform import Store
from turnout.telemetry import spans

WRITE_EVERY_S = 1.0
LINES_MAX, LINES_MAX_HELD = 200, 1000
"""How many lines gather between two writes, and how many while there is no connection."""
BYTES_MAX, BYTES_MAX_HELD = BATCH_BYTES, 4 * BATCH_BYTES
EVENTS_MAX = 64
"""How many lines of an attempt become events of its span, the first ones."""
_LINE_OVERHEAD_BYTES = 150


class AttemptLog:
    """Gathers and writes. `add` is for any thread, `end` for that of the loop."""

    def __init__(self, store: Store, record: JobRecord, span: Span, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._activity, self._job_id = record.activity, record.id
        self._span = span
        self._loop = loop
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._dropped = 0
        self._events = 0
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, line: Line) -> None:
        """Keep a line; an event of the span as well, if it is one of the first."""
        up = self._store.logs.up
        most_lines, most_bytes = (LINES_MAX, BYTES_MAX) if up else (LINES_MAX_HELD, BYTES_MAX_HELD)
        with self._lock:
            self._lines.append(line)
            self._bytes += _size(line)
            while len(self._lines) > most_lines or self._bytes > most_bytes:
                self._bytes -= _size(self._lines.popleft())
                self._dropped += 1
            wake, self._waking = not self._waking, True
            self._events += 1
            event = self._events <= EVENTS_MAX
        if event:
            spans.event(self._span, "log", {"level": line.level, "message": line.message})
        if wake:
            with contextlib.suppress(RuntimeError):  # the loop is closed: a thread that was left behind logs
                self._loop.call_soon_threadsafe(self._wait)

    def end(self) -> None:
        """Write what has gathered, connected or not. Code that is left behind may log on."""
        if self._timer is not None:
            self._timer.cancel()
        self._waking = False
        self._write()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(WRITE_EVERY_S, self._tick)

    def _tick(self) -> None:
        if self._store.logs.up:
            self._waking = False
            self._write()
        else:  # what is too much is dropped with a word about it here, and without one there
            self._wait()

    def _write(self) -> None:
        """Hand over what has gathered, its times by the server's clock."""
        with self._lock:
            lines, dropped = list(self._lines), self._dropped
            self._lines.clear()
            self._bytes = self._dropped = 0
        if dropped:
            lines.insert(0, marker(dropped, lines[0]))
        offset_s = self._store.connection.clock.offset_s
        if lines:
            shifted = (attrs.evolve(line, at=line.at + offset_s) for line in lines)
            self._store.logs.append(self._activity, self._job_id, shifted)


def _size(line: Line) -> int:
    text = line.message
    return _LINE_OVERHEAD_BYTES + (len(text) if text.isascii() else len(text.encode()))
