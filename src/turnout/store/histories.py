"""The histories of workflows: one subject each, appended by compare-and-set only (W1).

Decisions read the newest record from the leader. A whole history may be read from any replica: the numbers of its
records tell whether anything is missing, and its end must be the newest record.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from turnout.core.spec import Body
from turnout.core.struct import struct
from turnout.core.workflows.standing import BrokenHistory
from turnout.core.workflows.values import Record, RecordKind
from turnout.errors import InvalidValue, OutcomeUnknown, ServerUnavailable, TurnoutError, UnreadableRecord
from turnout.nats.connection import Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED, Message, header_in, stored_by_direct_get
from turnout.nats.pages import newest_of
from turnout.nats.stream import Stream
from turnout.store.names import Names
from turnout.store.payloads import Payloads, life_of, life_owner
from turnout.telemetry import workflows
from turnout.wire import histories
from turnout.wire.entries import ENTRY, Entry, Glance, glance_at, load_entry

logger = logging.getLogger("turnout.store")

T = TypeVar("T")

READ_TOGETHER = 200
"""How many records are read at once: a read holds up those who write to the stream."""

OFFLOAD_BYTES = 512 * 1024
"""A record's body over this size goes to the object store (W17)."""

LISTING_S = 5.0
_READ_AGAIN = 5
_BEHIND_S = 0.05
"""How long a replica that is behind is given."""


class Overtaken(TurnoutError):
    """Somebody else has appended since the history was read, or nobody said whether we have: begin again (W1)."""


@struct
class Stored:
    """A record and the sequence at which it lies. `offloaded` is the name of the object that holds its body, if so."""

    record: Record
    seq: int
    offloaded: str = ""


class Histories:
    """Reads and appends records. Errors are those of the connection, `Overtaken`, and `UnreadableRecord`."""

    def __init__(self, connection: Connection, names: Names, payloads: Payloads) -> None:
        self._connection = connection
        self._names = names
        self._payloads = payloads
        self.alone = False
        """Whether one server is known to keep the stream alone: any of its answers is the leader's."""

    async def newest(self, workflow_id: str) -> Stored | None:
        """The newest record by the word of the leader; None when there is no history."""
        stored = await self._newest(workflow_id)
        return None if stored is None else await self._loaded(stored)

    async def is_newest(self, workflow_id: str, seq: int) -> bool:
        """Whether what lies at `seq` is the newest record by the word of the leader; nothing of it is loaded."""
        stored = await self._newest(workflow_id)
        return stored is not None and stored.seq == seq

    async def entry(self, workflow_id: str) -> tuple[int, Entry] | None:
        """Where the newest record lies by the word of the leader, and what its header tells: its body is left unread.

        None when there is no history.
        """
        stored = await self._newest(workflow_id)
        if stored is None:
            return None
        text = stored.headers.get(ENTRY)
        if text is None:
            raise UnreadableRecord(f"the newest record of workflow {workflow_id} has no entry")
        return stored.seq, load_entry(text)

    async def _newest(self, workflow_id: str) -> StoredMessage | None:
        subject = self._names.records(workflow_id)
        return await self._connection.get_message(self._names.history, last_by_subj=subject, direct=self.alone)

    async def append(self, record: Record, expected: int) -> int:
        """Append the record behind the one at `expected` (0: there is none); where it lies.

        Overtaken when something else lies there, and when nobody said what does: it may still be stored later, and
        whoever reads the history from its beginning finds out.
        """
        body, entry = histories.dump_with_entry(record)
        headers = {EXPECTED: str(expected), ENTRY: entry}
        if len(body) > min(OFFLOAD_BYTES, self._connection.max_payload // 2):
            owner = life_owner(record.id, record.life)
            offloaded = await self._payloads.put(body.decode(), "record", owner, key=record.nonce)
            headers[histories.OFFLOADED] = f"{offloaded.ref} {offloaded.size}"
            body = b""
        try:
            seq = (await self._connection.store(self._names.records(record.id), body, headers)).seq
        except WrongLastSequence:
            seq = await self._own(record)
        except (OutcomeUnknown, ServerUnavailable):
            await self._connection.wait_up(timeout_s=5.0)
            seq = await self._own(record)
        workflows.appended(record)
        return seq

    async def _own(self, record: Record) -> int:
        """Where our own record lies, if it is the newest one."""
        newest = await self.newest(record.id)
        if newest is not None and newest.record.nonce == record.nonce:
            return newest.seq
        raise Overtaken(f"somebody else has written record {record.number} of workflow {record.id}")

    async def read(self, workflow_id: str, newest: Stored, *, of_run: bool = False) -> list[Stored]:
        """The records from the begin of the newest run on, up to `newest`.

        `of_run`: for a replay, which needs nothing of the summaries of those in between but their size.
        BrokenHistory when they can't be had without a hole: records are missing.
        """
        if newest.record.begins_run:
            return [newest]
        for _ in range(_READ_AGAIN):
            records = [stored async for stored in self._scan(workflow_id, newest.seq, of_run=of_run)]
            begins = [n for n, each in enumerate(records) if each.record.begins_run]
            if not begins or records[-1].seq != newest.seq:
                continue
            run = [*records[begins[-1] : -1], newest]
            if run[0].record.life == newest.record.life and _whole(run):
                return run
        raise BrokenHistory(f"the history of workflow {workflow_id} has a hole: records were removed by other means")

    async def first_of_run(self, newest: Stored) -> Record | None:
        """The record that begins the newest run."""
        if newest.record.begins_run:
            return newest.record
        # Records of earlier runs are purged: the first one there is nearly always is the one.
        subject = self._names.records(newest.record.id)
        stored = await self._connection.get_message(self._names.history, next_by_subj=subject)
        first = None if stored is None else (await self._loaded(stored)).record
        if (
            first is not None
            and first.begins_run
            and (first.life, first.run) == (newest.record.life, newest.record.run)
        ):
            return first
        return (await self.read(newest.record.id, newest))[0].record

    def entries(self) -> AsyncIterator[tuple[str, Entry]]:
        """The entry of each workflow, from the headers of its newest record, in the order of their last change."""
        return self._all(load_entry)

    def glances(self) -> AsyncIterator[tuple[str, Glance]]:
        """As much of each entry as a listing chooses by."""
        return self._all(glance_at)

    async def _all(self, read: Callable[[bytes], T]) -> AsyncIterator[tuple[str, T]]:
        inbox = f"_INBOX.{secrets.token_hex(11)}"
        arrived, news = list[Message](), asyncio.Event()

        def arrives(message: Message) -> None:
            arrived.append(message)
            news.set()

        subscription = await self._connection.subscribe(inbox, arrives)
        try:
            left = await self._list_to(inbox)
            while left > 0:
                async with asyncio.timeout(LISTING_S):
                    await news.wait()
                news.clear()
                together = arrived[:left]  # what lies behind was written meanwhile
                arrived.clear()
                left -= len(together)
                for message in together:
                    if (listed := _listed(message, read)) is not None:
                        yield listed
        finally:
            await subscription.close()

    async def entries_of(self, ids: Iterable[str]) -> list[tuple[str, Entry]]:
        """The entries of these workflows. May be a moment old."""
        subjects = {self._names.records(key).encode(): key for key in ids}
        newest = await newest_of(self._connection, self._names.history, map(bytes.decode, subjects))
        entries = ((subjects[subject], entry_in(raw.block, load_entry)) for subject, raw in newest.items())
        return [(key, entry) for key, entry in entries if entry is not None]

    async def _list_to(self, inbox: str) -> int:
        """Have the server send the newest record of every subject, without its body; how many there are."""
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": self._names.records("*"),
            "ack_policy": "none",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(5e9),
        }
        made = await Stream(self._connection, self._names.history).make_consumer(config)
        return int(made["num_pending"]) + int(made["delivered"]["consumer_seq"])

    async def between(self, workflow_id: str, behind: int, newest: Stored) -> list[Stored]:
        """The records behind this sequence, up to `newest`; those of runs that have ended may be purged.

        BrokenHistory where no replica has the newest one for long.
        """
        for _ in range(_READ_AGAIN):
            records = [stored async for stored in self._scan(workflow_id, newest.seq, begin=behind + 1)]
            if records and records[-1].seq == newest.seq:
                return records
            if await self.newest(workflow_id) is None:
                return []
            await asyncio.sleep(_BEHIND_S)
        raise BrokenHistory(f"the history of workflow {workflow_id} can't be read up to its newest record")

    async def _scan(self, workflow_id: str, end: int, *, begin: int = 1, of_run: bool = False) -> AsyncIterator[Stored]:
        """Piece after piece. What is written meanwhile is left out; a purge between two pieces makes a hole."""
        seq, subject = begin, self._names.records(workflow_id)
        while True:
            count = 0
            body = {"seq": seq, "next_by_subj": subject, "batch": READ_TOGETHER}
            async for stored in self._connection.direct_get(self._names.history, body):
                count, seq = count + 1, stored.seq + 1
                if stored.seq > end:
                    return
                yield await self._loaded(stored, of_run=of_run)
            if count < READ_TOGETHER or seq > end:
                return

    async def purge_before(self, workflow_id: str, seq: int) -> None:
        """Remove the records before this sequence."""
        await Stream(self._connection, self._names.history).purge(self._names.records(workflow_id), below=seq)

    async def forget(self, workflow_id: str, life: str, seq: int) -> None:
        """Remove the records before this sequence, and before them the objects of the life that they name."""
        async for stored in self._scan(workflow_id, seq - 1):
            for name in (*histories.references(stored.record), stored.offloaded):
                if life_of(name) == (workflow_id, life):
                    await self._payloads.delete(Body(ref=name))
        await self.purge_before(workflow_id, seq)

    def republished(self, workflow_id: str, notice: Message) -> Stored | None:
        """The record of this workflow that the server has republished; None where the leader is to be asked for it.

        So it is with a body in the object store, and in a namespace whose stream republishes headers alone.
        """
        if not notice.data:
            return None
        try:
            stored = stored_by_direct_get(notice)
            record = histories.load_history_record(stored.data)
        except (KeyError, ValueError, InvalidValue, UnreadableRecord):
            return None
        return Stored(record, stored.seq) if record.id == workflow_id else None

    async def _loaded(self, stored: StoredMessage, *, of_run: bool = False) -> Stored:
        data = stored.data
        offloaded = histories.parse_offloaded(stored.headers)
        if offloaded is not None:
            data = (await self._payloads.get(offloaded)).encode()
        ref = offloaded.ref if offloaded is not None else None
        record = histories.load_history_record(data, of_run=of_run)
        if self._names.records(record.id) != stored.subject:
            raise UnreadableRecord(f"it is of workflow {record.id!r}")
        return Stored(record, stored.seq, ref or "")


def left_out(workflow_id: str, error: Exception) -> None:
    """Say that a listing goes on without a workflow whose records somebody else has written, or damaged."""
    logger.warning("workflow %s is left out: %s", workflow_id, error)


def _whole(run: list[Stored]) -> bool:
    first = run[0].record.number
    return all(each.record.number == first + n for n, each in enumerate(run))


def is_deleted(stored: Stored | None) -> bool:
    """Whether the workflow was deleted: to all but a new start there is none."""
    return stored is not None and stored.record.kind is RecordKind.deleted


def _listed(message: Message, read: Callable[[bytes], T]) -> tuple[str, T] | None:
    """The workflow whose record this is, and what is read of its entry; None where it has none that can be read."""
    workflow_id = message.subject.rpartition(".")[2]
    try:
        entry = entry_in(message.block, read)
        return None if entry is None else (workflow_id, entry)
    except UnreadableRecord as error:
        left_out(workflow_id, error)
        return None


def entry_in(block: bytes, read: Callable[[bytes], T]) -> T | None:
    """What is read of the entry of a record, from its headers as they came; None where it has none."""
    text = header_in(block, _ENTRY)
    return None if text is None else read(text)


_ENTRY = ENTRY.encode()
