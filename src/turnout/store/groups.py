"""The records of groups, by compare-and-set, and the rosters that say who their members are.

The roster is stored first, then the record: with it the group is there, and whoever lives submits the members.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from turnout.core.evolve import evolve
from turnout.core.group import GroupRecord, Roster
from turnout.core.struct import struct
from turnout.errors import OutcomeUnknown, TurnoutError, UnreadableRecord
from turnout.nats.connection import Connection, Disconnected, RequestTimeout, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED
from turnout.nats.pages import forward
from turnout.nats.stream import TTL, for_seconds, kv_stream
from turnout.once import warn_once
from turnout.store.names import Names
from turnout.store.payloads import Payloads, group_owner
from turnout.store.records import Conflict
from turnout.wire.converter import Garbled, dump, load

logger = logging.getLogger("turnout.store")

_RESENDS = 3
_RETRY_S = 5.0


class GroupTaken(TurnoutError):
    """There is a group of this id already."""


@struct
class KeptGroup:
    """A group's record as read, the revision that the next write must find, and when it was written (unix seconds).
    Without a record there is none."""

    record: GroupRecord | None = None
    revision: int = 0
    written_at: float = 0.0


class Groups:
    """Reads and writes groups. Errors are those of the connection, `Conflict`, and UnreadableRecord."""

    def __init__(self, connection: Connection, names: Names, payloads: Payloads) -> None:
        self._connection = connection
        self._names = names
        self._payloads = payloads
        self.stream = kv_stream(names.activities_bucket)

    async def load(self, group_id: str) -> KeptGroup:
        """The record by the word of the leader."""
        stored = await self._connection.get_message(self.stream, last_by_subj=self._names.group(group_id))
        return _kept(stored)

    async def save(self, record: GroupRecord, revision: int, *, keep_s: float | None = None) -> KeptGroup:
        """Write it if `revision` is still the newest; it is gone after `keep_s` seconds, if that is given."""
        headers = {EXPECTED: str(revision)}
        if keep_s is not None:
            headers[TTL] = for_seconds(keep_s)
        try:
            ack = await self._connection.store(self._names.group(record.id), dump(record), headers)
        except WrongLastSequence as error:
            raise Conflict(f"group {record.id} has changed") from error
        return KeptGroup(record, ack.seq, self._connection.now())

    async def create(self, record: GroupRecord) -> KeptGroup:
        """Write the first record of a group. GroupTaken when there is one of its id; a write of our own whose answer
        got lost is known by its nonce. OutcomeUnknown when the answers stay away."""
        trouble: TurnoutError | None = None
        for _ in range(_RESENDS):
            try:
                await self._connection.wait_up(timeout_s=_RETRY_S)
                kept = await self.load(record.id)
                if kept.record is None:
                    return await self.save(record, kept.revision)
                if kept.record.nonce == record.nonce:
                    return kept
                raise GroupTaken(f"group {record.id} exists")
            except Conflict:
                continue
            except (RequestTimeout, Disconnected) as error:
                trouble = error
        raise OutcomeUnknown(f"nobody said whether group {record.id} is stored: {trouble}") from trouble

    async def put_roster(self, record: GroupRecord, roster: Roster) -> GroupRecord:
        """The record with its roster, stored where it fits. PayloadTooLarge before anything is stored."""
        text = dump(roster).decode()
        body = await self._payloads.put(text, "roster", group_owner(record.id))
        return evolve(record, roster=body)

    async def roster(self, record: GroupRecord) -> Roster:
        """Who the members are. ObjectGone when that is lost."""
        return load((await self._payloads.get(record.roster)).encode(), Roster)

    async def forget_roster(self, record: GroupRecord) -> None:
        await self._payloads.delete(record.roster)

    async def written_since(self, seq: int) -> AsyncIterator[tuple[int, KeptGroup]]:
        """The records that lie behind this place of the stream, and where. May be a moment old.

        One that can't be read is left out, with a warning.
        """
        async for page in forward(self._connection, self.stream, self._names.group("*"), seq + 1):
            for raw in page:
                try:
                    yield raw.seq, _kept(raw.parsed())
                except UnreadableRecord as error:
                    subject = raw.subject.decode(errors="replace")
                    warn_once(logger, subject, "the group %s is left out: %s", subject, error)


def _kept(stored: StoredMessage | None) -> KeptGroup:
    if stored is None:
        return KeptGroup()
    if stored.marker:
        return KeptGroup(None, stored.seq, stored.time_ns / 1e9)
    try:
        return KeptGroup(load(stored.data, GroupRecord), stored.seq, stored.time_ns / 1e9)
    except Garbled as error:
        raise UnreadableRecord(f"what is under {stored.subject} is no group that can be read here: {error}") from error
