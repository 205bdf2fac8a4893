"""Which supervisor acts: one key with a TTL, taken and kept by compare-and-set.

Two that act at once are harmless, since every decision is a compare-and-set on the job's own record. The election only
keeps them from doing the work twice.
"""

from __future__ import annotations

import contextlib

from turnout import fastjson
from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.jetstream.connection import Connection, WrongLastSequence
from turnout.jetstream.messages import EXPECTED, KV_OPERATION
from turnout.jetstream.names import Names, kv_stream
from turnout.jetstream.suspension import suspended_too


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

    @property
    def acting(self) -> bool:
        return self.term > 0 and suspended_too() - self._renewed_at < self._ttl_s

    async def stand(self) -> bool:
        """Renew the claim when it is time, or claim what nobody holds; whether this one acts."""
        now = suspended_too()
        if self.acting:
            if now - self._renewed_at >= self._ttl_s * 0.3:
                await self._write(self._revision)
            return self.acting
        self.term = 0
        stored = await self._connection.get_message(self._stream, last_by_subj=self._subject)
        if stored is None or stored.marker:
            await self._write(stored.seq if stored is not None else 0)
        return self.acting

    async def resign(self) -> None:
        """Hand over at once."""
        if not self.acting:
            return
        headers = {KV_OPERATION: "DEL", "Nats-TTL": "60s", EXPECTED: str(self._revision)}
        self.term = 0
        with contextlib.suppress(TurnoutError):
            await self._connection.store(self._subject, b"", headers)
            reach("election.resigned")

    async def _write(self, revision: int) -> None:
        asked_at = suspended_too()
        headers = {"Nats-TTL": f"{max(1, round(self._ttl_s))}s", EXPECTED: str(revision)}
        body = fastjson.dumps({"supervisor": self._candidate, "term": self.term})
        try:
            ack = await self._connection.store(self._subject, body, headers)
        except WrongLastSequence:
            self.term = 0
            return
        reach("election.claimed")
        self._revision, self._renewed_at = ack.seq, asked_at
        self.term = self.term or ack.seq
