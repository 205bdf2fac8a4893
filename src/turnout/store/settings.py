"""What holds for a whole namespace, whoever asks: kept on the server, and read again now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import attrs

from turnout.core.struct import struct
from turnout.definition.retention import Retention, least_retention
from turnout.errors import TurnoutError
from turnout.nats.connection import Connection, WrongLastSequence
from turnout.nats.messages import EXPECTED, StoredMessage
from turnout.nats.stream import kv_stream
from turnout.once import warn_once
from turnout.store.names import Names
from turnout.wire.converter import dump, load, register

logger = logging.getLogger("turnout.settings")

FRESH_S = 30.0
"""For so long a setting that was read is taken for the one that holds."""


@struct
class _Times:
    """A retention as it is kept, which is read whatever it says."""

    completed: float
    faulted: float
    cancelled: float


@struct
class _Kept(_Times):
    """That of the namespace, and those that activities have declared for themselves."""

    activities: dict[str, _Times] = attrs.field(factory=dict)


register(_Times, _Kept)


@struct
class _Known:
    """What was read, and the revision that the next write must find."""

    namespace: Retention
    activities: Mapping[str, Retention]
    revision: int = 0


class Settings:
    """The settings of one namespace; a `fixed` retention is not asked for. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names, fixed: Retention | None = None) -> None:
        self._connection = connection
        self._subject = names.setting("retention")
        self._stream = kv_stream(names.activities_bucket)
        self._fixed = fixed is not None
        self._known = _Known(fixed or Retention(), {})
        self._read_at: float | None = None

    @property
    def known_retention(self) -> Retention:
        """The namespace's retention as it was read last."""
        return self._known.namespace

    async def retention(self, activity: str = "") -> Retention:
        """How long ended jobs are kept: what was read within the last half a minute, or else is read now.

        Of an activity what it has declared for itself, else what holds for the namespace. While it can't be read what
        was known before holds: a job's end must not wait for it.
        """
        if self._fixed:
            return self._known.namespace
        now = asyncio.get_running_loop().time()
        if self._read_at is None or now - self._read_at > FRESH_S:
            self._read_at = now
            try:
                await self.load()
            except TurnoutError as error:
                logger.debug("the namespace's retention could not be read: %s", error)
        return self._known.activities.get(activity, self._known.namespace)

    async def load(self) -> Retention:
        """Read what is kept, by the word of the leader."""
        self._known = _known(await self._connection.get_message(self._stream, last_by_subj=self._subject))
        self._read_at = asyncio.get_running_loop().time()
        return self._known.namespace

    async def set_retention(self, retention: Retention) -> None:
        """Keep it for everybody, if it is not what is kept."""
        await self._change(lambda known: attrs.evolve(known, namespace=retention))

    async def declare(self, retentions: Mapping[str, Retention | None]) -> None:
        """Keep what activities have declared for themselves, None for nothing, if it is not what is kept."""
        await self.retention()
        if self._fixed or all(
            found is None and name not in self._known.activities for name, found in retentions.items()
        ):
            return

        def declared(known: _Known) -> _Known:
            others = {name: found for name, found in known.activities.items() if name not in retentions}
            own = {name: found for name, found in retentions.items() if found is not None}
            return attrs.evolve(known, activities={**others, **own})

        await self._change(declared)

    async def _change(self, change: Callable[[_Known], _Known]) -> None:
        while True:
            await self.load()
            after = change(self._known)
            if after == self._known and after.revision:
                return
            kept = _Kept(
                **attrs.asdict(after.namespace),
                activities={name: _Times(**attrs.asdict(found)) for name, found in after.activities.items()},
            )
            try:
                ack = await self._connection.store(self._subject, dump(kept), {EXPECTED: str(self._known.revision)})
            except WrongLastSequence:
                continue
            self._known = attrs.evolve(after, revision=ack.seq)
            return


def _known(stored: StoredMessage | None) -> _Known:
    if stored is None or stored.marker:
        return _Known(Retention(), {}, 0 if stored is None else stored.seq)
    try:
        kept = load(stored.data, _Kept)
        activities = {name: _retention(times) for name, times in kept.activities.items()}
        return _Known(_retention(kept), activities, stored.seq)
    except TurnoutError as error:
        warn_once(logger, stored.subject, "the namespace's retention can't be read, the usual one holds: %s", error)
        return _Known(Retention(), {}, stored.seq)


def _retention(times: _Times) -> Retention:
    least = least_retention()
    return Retention(
        completed=max(times.completed, least),
        faulted=max(times.faulted, least),
        cancelled=max(times.cancelled, least),
    )
