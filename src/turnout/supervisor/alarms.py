"""The alarms of messages whose deliveries ran out (P7). They are kept in a stream, and dropped when dealt with."""

from __future__ import annotations

import contextlib
import logging

from turnout import fastjson
from turnout.core.events import Lost, Stuck, Verdict
from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.nats.connection import StoredMessage
from turnout.nats.stream import Stream, max_deliveries_advisory
from turnout.store.perform import Store
from turnout.store.queue import delivery_in
from turnout.store.records import scan
from turnout.supervisor.apply import Applier
from turnout.supervisor.owners import Owners

logger = logging.getLogger("turnout.supervisor")

_SEQUENCES = 2**63


class Alarms:
    """Deals with the alarms that are kept."""

    def __init__(self, store: Store, apply: Applier, owners: Owners) -> None:
        self._store = store
        self._apply = apply
        self._owners = owners

    async def look(self) -> None:
        """Deal with each. Errors are those of the connection."""
        names = self._store.names
        subject = max_deliveries_advisory(names.work, "*")
        async for stored in scan(self._store.connection, names.alarms, subject):
            try:
                dealt_with = await self._deal(stored)
            except Exception as error:  # whatever this one says to its reader, there are others
                logger.warning("the alarm %d can't be dealt with yet: %s", stored.seq, error)
                continue
            if dealt_with:
                reach("supervisor.dealt")
                with contextlib.suppress(TurnoutError):
                    await Stream(self._store.connection, names.alarms).delete(stored.seq)
                reach("supervisor.dropped")
        reach("supervisor.alarms")

    async def _deal(self, stored: StoredMessage) -> bool:
        """Put the job in anew, or tell its owner. False: ask again later."""
        seq = sequence_of(stored.data)
        if seq is None:
            return True
        message = await self._store.connection.get_message(self._store.names.work, seq=seq)
        found = delivery_in(self._store.names, message) if message is not None else None
        if message is None or found is None or message.time_ns > stored.time_ns:
            return True  # it is gone, or never was: nothing is delivered before it is stored
        activity = found.activity
        record = (await self._store.registry.load(activity, found.id)).record
        owned = record is not None and record.outside is None
        if owned and record is not None and record.token is not None and record.owned_by(record.token):
            verdict = await self._owners.verdict(record.token, exhausted=True)
            if verdict is not Verdict.gone:
                return verdict is Verdict.alive
            if not await self._apply(activity, found.id, Lost(token=record.token, now=self._now())):
                return False
        return await self._apply(activity, found.id, Stuck(now=self._now(), delivery=found))

    def _now(self) -> float:
        return self._store.connection.now()


def sequence_of(data: bytes) -> int | None:
    """Of which message an alarm tells; None for what is no alarm."""
    try:
        seq = fastjson.loads(data)["stream_seq"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return seq if isinstance(seq, int) and 0 < seq < _SEQUENCES else None
