"""Which supervisor acts: one key with a TTL, taken and kept by compare-and-set.

Two that act at once are harmless, since every decision is a compare-and-set on the job's own record. The election only
keeps them from doing the work twice.
"""

from __future__ import annotations

import contextlib
from typing import Any

from turnout import fastjson
from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.connection import Connection, WrongLastSequence
from turnout.nats.messages import EXPECTED, KV_OPERATION, StoredMessage
from turnout.nats.stream import TTL, for_seconds, kv_stream
from turnout.store.names import Names
from turnout.store.nodes import MAX_TTL_S

_CLOCKS_S = 0.5
"""By how much the server's clock may have been measured wrongly: two that act at once are harmless."""


class Election:
    """This supervisor's claim to act. `term` is the revision of the write that won it, 0 while another one acts.

    The key lives `ttl_s` and is rewritten three times as often. A claim ends by itself when it could not be renewed for
    that long: the server has forgotten the key by then.
    """

    def __init__(self, connection: Connection, names: Names, candidate: str, ttl_s: float) -> None:
        self.term = 0
        self._connection = connection
        self._stream = kv_stream(names.nodes_bucket)
        self._subject = names.node("leader.supervisor")
        self._candidate = candidate
        self._ttl_s = ttl_s
        self._revision = 0
        self._renewed_at = 0.0
        self._unanswered = False
        """Whether a write was sent that nobody has answered: a stop may come in between."""

    @property
    def acting(self) -> bool:
        return self.term > 0 and boottime() - self._renewed_at < self._ttl_s

    async def stand(self) -> bool:
        """Renew the claim when it is time, or claim what nobody holds; whether this one acts."""
        now = boottime()
        if self.acting:
            if now - self._renewed_at >= self._ttl_s * 0.3:
                await self._write(self._revision)
            return self.acting
        self.term = 0
        stored = await self._connection.get_message(self._stream, last_by_subj=self._subject)
        if stored is None or self._vacant(stored):
            await self._write(stored.seq if stored is not None else 0)
        return self.acting

    def _vacant(self, stored: StoredMessage) -> bool:
        """Whether nobody acts by this key: judged by its age, for whatever is written there may have no end."""
        if stored.marker:
            return True
        try:
            ttl_s = min(float(_written(stored)["ttl"]), MAX_TTL_S)
        except (ValueError, TypeError, KeyError, OverflowError):
            ttl_s = self._ttl_s  # of an earlier version, or nobody's
        return not self._connection.now() - stored.time_ns / 1e9 <= ttl_s + _CLOCKS_S

    async def resign(self) -> None:
        """Hand over at once, also what may have been won without our having heard of it."""
        if not self.acting and not self._unanswered:
            return
        self.term = 0
        with contextlib.suppress(TurnoutError):
            if self._unanswered:
                stored = await self._connection.get_message(self._stream, last_by_subj=self._subject)
                if stored is None or _written(stored).get("supervisor") != self._candidate:
                    return
                self._revision = stored.seq
            headers = {KV_OPERATION: "DEL", TTL: "60s", EXPECTED: str(self._revision)}
            await self._connection.store(self._subject, b"", headers)
            reach("election.resigned")

    async def _write(self, revision: int) -> None:
        asked_at = boottime()
        self._unanswered = True
        headers = {TTL: for_seconds(self._ttl_s), EXPECTED: str(revision)}
        body = fastjson.dumps({"supervisor": self._candidate, "term": self.term, "ttl": self._ttl_s})
        try:
            ack = await self._connection.store(self._subject, body, headers)
        except WrongLastSequence:
            self._unanswered = False
            self.term = 0
            return
        self._unanswered = False
        reach("election.claimed")
        self._revision, self._renewed_at = ack.seq, asked_at
        self.term = self.term or ack.seq


def _written(stored: StoredMessage) -> dict[str, Any]:
    """What the key says; nothing for a marker, and for what no supervisor has written."""
    try:
        found = fastjson.loads(stored.data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
