"""Pauses of activities: what is kept of each, and the pause of its consumer, which the server itself holds to.

The record says what shall be; the consumer is made so by whoever changes the record, by each worker that looks at its
consumer, and by the acting supervisor. Each of them reads the record again after it has changed the consumer: whoever
changes the consumer last has seen the newest record.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from turnout.core.struct import struct
from turnout.errors import TurnoutError
from turnout.nats.connection import Connection
from turnout.nats.messages import StoredMessage, unix_ns
from turnout.nats.stream import TTL, Stream, for_seconds, kv_stream
from turnout.once import warn_once
from turnout.store.consumers import served
from turnout.store.names import Names
from turnout.store.records import scan
from turnout.wire.converter import dump, load

logger = logging.getLogger("turnout.pauses")

_FOR_EVER = dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp()
_KEPT_S = 3600
"""For so long a pause that was ended is remembered: by then every consumer has been set right."""


@struct
class Pause:
    """A pause of an activity, from an instant until another (None: until somebody resumes it), with a note why."""

    since: float
    until: float | None = None
    note: str = ""

    def holds(self, now: float) -> bool:
        return self.until is None or self.until > now


class Pauses:
    """The pauses of one namespace. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._stream = kv_stream(names.activities_bucket)

    async def get(self, activity: str) -> Pause | None:
        """The activity's pause by the word of the leader, whether it holds or has ended."""
        return _pause(await self._connection.get_message(self._stream, last_by_subj=self._names.pause(activity)))

    async def known(self) -> dict[str, Pause]:
        """Every pause by its activity, those that have ended not long ago too."""
        found = {}
        async for stored in scan(self._connection, self._stream, self._names.pause("*")):
            if (pause := _pause(stored)) is not None:
                found[stored.subject.rpartition(".")[2]] = pause
        return found

    async def held(self) -> dict[str, Pause]:
        """The pauses that hold now, by activity."""
        now = self._connection.now()
        return {activity: pause for activity, pause in (await self.known()).items() if pause.holds(now)}

    async def put(self, activity: str, pause: Pause) -> None:
        """Pause the activity, or change its pause; returns when nothing is handed out any more."""
        await self._connection.store(self._names.pause(activity), dump(pause))
        await self._apply_to_all(activity)

    async def end(self, activity: str) -> None:
        """Resume the activity; returns when its jobs are handed out again to whoever asks for them."""
        pause, now = await self.get(activity), self._connection.now()
        if pause is not None and pause.holds(now):
            ended = Pause(pause.since, now, pause.note)
            await self._connection.store(self._names.pause(activity), dump(ended), {TTL: for_seconds(_KEPT_S)})
        await self._apply_to_all(activity)

    async def apply(
        self, activity: str, config: Mapping[str, Any] | None = None, consumer: str | None = None
    ) -> float | None:
        """See to it that the activity's consumer does what the record says; until when it is paused then.

        `config`: the consumer's configuration, if it is known. `consumer`: that of a route or a lane of it. Without a
        consumer there is nothing to do: whoever makes one calls this.
        """
        pause, seen = await self.get(activity), None if config is None else paused_until(config)
        now = self._connection.now()
        if config is not None and not _differ(_wanted(pause, now), seen, now):
            return _wanted(pause, now)
        while True:
            wanted = _wanted(pause, self._connection.now())
            if not await self._set(consumer or activity, wanted):
                return None
            newer = await self.get(activity)
            if newer == pause:
                return wanted
            pause = newer

    async def set_right(self) -> None:
        """Apply every pause that is known: whoever has written one may have died before it could."""
        known = await self.known()
        for info in await Stream(self._connection, self._names.work).consumers() if known else ():
            if (activity := served(info)) in known:
                await self.apply(activity, info["config"], info["name"])

    async def _apply_to_all(self, activity: str) -> None:
        await self.apply(activity)
        for info in await Stream(self._connection, self._names.work).consumers():
            if info["name"] != activity and served(info) == activity:
                await self.apply(activity, info["config"], info["name"])

    async def _set(self, consumer: str, until: float | None) -> bool:
        """False when there is no such consumer."""
        return await Stream(self._connection, self._names.work).pause(consumer, until)


def paused_until(config: Mapping[str, Any]) -> float | None:
    """Until when a consumer is paused by its configuration; None for one that never was."""
    until = config.get("pause_until")
    return None if until is None else unix_ns(until) / 1e9


def _wanted(pause: Pause | None, now: float) -> float | None:
    if pause is None or not pause.holds(now):
        return None
    return _FOR_EVER if pause.until is None else pause.until


def _differ(wanted: float | None, seen: float | None, now: float) -> bool:
    """Whether the consumer has to be changed. One whose pause is over is as one that has none."""
    if wanted is None or seen is None:
        return wanted is not None or (seen is not None and seen > now)
    return abs(wanted - seen) > 0.001


def _pause(stored: StoredMessage | None) -> Pause | None:
    if stored is None or stored.marker:
        return None
    try:
        return load(stored.data, Pause)
    except TurnoutError as error:
        warn_once(logger, stored.subject, "a pause can't be read, the activity counts as not paused: %s", error)
        return None
