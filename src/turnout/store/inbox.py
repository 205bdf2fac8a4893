"""The inbox of each workflow: what has reached it and no record has taken yet, in the order of its arrival.

The stream has work-queue retention: an acknowledgement removes. A read begins at sequence 1, since only that is quick
on the server, and goes only as far as it needs: what lies in front of anything is always right.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing

import attrs

from turnout.core.spec import Asker
from turnout.core.struct import struct
from turnout.core.workflows.values import COLLECTION, Ending, Input, InputKind, key_of, token_of
from turnout.nats.connection import Connection, PubAck, StoredMessage
from turnout.nats.messages import Message
from turnout.nats.once import store_once
from turnout.nats.pages import few
from turnout.nats.stream import Stream, delivery_of, scheduled
from turnout.store.chance import Chance
from turnout.store.names import Names
from turnout.store.payloads import Payloads, life_of, life_owner
from turnout.wire import MSG_ID, histories


@struct
class Wakeup:
    """An input as the server has handed it over: the wake-up for a task, which reads the inbox for itself.

    `given` is None for what is no input at all. `number` counts hand-overs, `ack` settles it. A bare start has no `id`.
    What never lay in the inbox has `seq` 0: the end of a local activity (W15), or of a job that was `handed_over` (W4).
    `ahead`: the read of the inbox that was begun when the code of that job had ended.
    `passed_on`: another node was handed it, and has left it to this one (W11).
    """

    name: str
    id: str
    seq: int
    time_ns: int
    number: int
    ack: str
    given: Input | None
    data: bytes = b""
    headers: dict[str, str] | None = None
    handed_over: bool = False
    ahead: asyncio.Task[list[Lying]] | None = None
    passed_on: bool = False


@struct
class Lying:
    """An input as it lies in the inbox, and the name of the workflow that it was addressed under."""

    given: Input
    name: str


class Inbox:
    """Appends and reads inputs. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names, payloads: Payloads, chance: Chance) -> None:
        self._connection = connection
        self._names = names
        self._payloads = payloads
        self._prefix = chance.nonce()
        self._count = itertools.count()
        self.alone = False
        """Whether one server is known to keep the stream alone: any of its answers is the leader's."""

    async def append(
        self,
        name: str,
        workflow_id: str,
        kind: InputKind,
        body: bytes = b"",
        *,
        what: str = "",
        headers: dict[str, str] | None = None,
    ) -> int:
        """Put an input into a workflow's inbox; where it lies. The publish is sent again under its own id (P3)."""
        subject = self._names.input(name, workflow_id, kind, what)
        return (await self._store(subject, body, headers or {})).seq

    async def tell(self, asker: Asker, kind: InputKind, ending: Ending) -> None:
        """Tell a workflow how what its command asked for has ended, or that its child is there.

        A large result becomes its own object: that of the job or child may be gone before somebody takes the input.
        """
        token = token_of(asker.command)
        if ending.result is not None and ending.result.ref is not None:
            key = key_of(asker.id, asker.life, asker.run, asker.command)
            owner = life_owner(asker.id, asker.life)
            own = await self._payloads.copied(ending.result, "input", owner, key)
            ending = attrs.evolve(ending, result=own)
        headers = histories.input_headers(life=asker.life, run=asker.run, command=asker.command)
        await self.append(asker.name, asker.id, kind, histories.dump_ending(ending), what=token, headers=headers)

    async def schedule(self, asker: Asker, at: float) -> None:
        """Have the server put a `timer` into the inbox at `at`; a subject is used for one due time only (W6)."""
        token = token_of(asker.command)
        headers = histories.input_headers(life=asker.life, run=asker.run, command=asker.command)
        headers |= scheduled(at, self._names.input(asker.name, asker.id, InputKind.timer, token))
        subject = self._names.workflow_timer(asker.name, asker.id, asker.life, asker.run, token)
        await self._store(subject, b"", headers)

    async def schedule_collection(self, name: str, workflow_id: str, life: str, at: float) -> None:
        """Have the server put a `gc` into the inbox at `at` (W10)."""
        headers = histories.input_headers(life=life)
        headers |= scheduled(at, self._names.input(name, workflow_id, InputKind.gc))
        await self._store(self._names.workflow_timer(name, workflow_id, life, 0, COLLECTION), b"", headers)

    async def clear_timers(self, name: str, workflow_id: str, life: str, run: int | str, command: str = "") -> None:
        """Purge one pending timer, or without a command those of a run, or with run "" those of a life."""
        token = token_of(command) if command else ""
        subject = self._names.workflow_timer(name, workflow_id, life, run, token)
        await Stream(self._connection, self._names.inbox).purge(subject)

    async def purge(self, name: str, workflow_id: str, below: int) -> None:
        """Remove what lies in the inbox in front of this sequence."""
        subject = self._names.input(name, workflow_id, ">")
        await Stream(self._connection, self._names.inbox).remove_all(subject, below=below)

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> PubAck:
        headers = {**headers, MSG_ID: f"{self._prefix}{next(self._count):x}"}
        return await store_once(self._connection, subject, body, headers)

    async def read(self, name: str, workflow_id: str, handed: set[int], *, whole: bool) -> list[Lying]:
        """What lies in the inbox, in order: all of it, or at least as far as what was handed over (or is gone).

        One leader's read is enough where the first one is all that was handed over; others come in batches, from
        whatever replica has them: one that is behind shows what was, and the leader is asked for the rest. Where
        nothing of it was handed over, all of it is read, which mostly is nothing.
        """
        found: dict[int, StoredMessage] = {}
        if not whole:
            subject = self._names.input(name, workflow_id, ">")
            first = await self._connection.get_message(self._names.inbox, next_by_subj=subject, direct=self.alone)
            if first is None:
                return []
            found[first.seq] = first
            whole = not handed
        if whole or max(found) < max(handed):
            subject, upto = self._names.input(name, workflow_id, ">"), None if whole else max(handed)
            async with aclosing(few(self._connection, self._names.inbox, subject)) as pieces:
                async for piece in pieces:
                    found |= {raw.seq: raw.parsed() for raw in piece}
                    if upto is not None and found and max(found) >= upto:
                        break
            await self._catch_up(name, workflow_id, found, max(handed, default=0))
        return _lying(self._names, [found[seq] for seq in sorted(found)])

    async def _catch_up(self, name: str, workflow_id: str, found: dict[int, StoredMessage], upto: int) -> None:
        """Read from the leader what a replica did not have yet, one by one and without a hole."""
        subject = self._names.input(name, workflow_id, ">")
        while (last := max(found, default=0)) < upto:
            stored = await self._connection.get_message(self._names.inbox, next_by_subj=subject, seq=last + 1)
            if stored is None:
                return
            found[stored.seq] = stored

    async def first(self, name: str, workflow_id: str, kind: InputKind) -> Input | None:
        """The first input of this kind that lies in the inbox, by the word of the leader."""
        subject = self._names.input(name, workflow_id, kind)
        stored = await self._connection.get_message(self._names.inbox, next_by_subj=subject)
        lying = _lying(self._names, [] if stored is None else [stored])
        return lying[0].given if lying else None

    async def exists(self, seq: int, time_ns: int) -> bool:
        """Whether what lay there still does, by the word of the leader."""
        stored = await self._connection.get_message(self._names.inbox, seq=seq)
        return stored is not None and stored.time_ns == time_ns

    async def lies(self, seq: int) -> bool:
        """Whether something lies there, by the word of the leader: no record has taken it, or not for long."""
        return await self._connection.get_message(self._names.inbox, seq=seq) is not None

    async def remove(self, seq: int) -> None:
        """Remove one input."""
        await Stream(self._connection, self._names.inbox).delete(seq)

    def settle(self, wakeup: Wakeup, data: bytes) -> None:
        """Send a settlement: `+ACK` removes the input, `-NAK` gives it back, `+WPI` keeps it."""
        self._connection.send(wakeup.ack, data)


def _lying(names: Names, messages: list[StoredMessage]) -> list[Lying]:
    found = []
    for stored in messages:
        named = names.input_of(stored.subject)
        if named is None:
            continue
        given = _input(named, stored.seq, stored.time_ns, stored.data, stored.headers)
        if given is not None:
            found.append(Lying(given, named[0]))
    return found


def _input(
    named: tuple[str, str, str, str], seq: int, time_ns: int, data: bytes, headers: dict[str, str]
) -> Input | None:
    """The input that was sent to the subject which `named` splits; None for what is none.

    A body in the object store is one that was put there for a life of this workflow, and the input is for that life
    alone: nobody reads another's by its name, and what is gone with its life stops no later one.
    """
    _, workflow_id, kind, what = named
    given = histories.parse_input(kind, what, seq, time_ns / 1e9, data, headers)
    if given is None or given.body.ref is None:
        return given
    owner = life_of(given.body.ref)
    if owner is None or owner[0] != workflow_id or given.life not in ("", owner[1]):
        return None
    return attrs.evolve(given, life=owner[1])


def parse_wakeup(names: Names, received: Message) -> Wakeup | None:
    """A message that the consumer handed over; None when its subject is none of an inbox."""
    named, handed = names.input_of(received.subject), delivery_of(received.reply)
    if named is None or handed is None:
        return None
    number, seq, time_ns = handed
    headers = received.headers
    given = None
    if named[2]:
        given = _input(named, seq, time_ns, received.data, headers)
    return Wakeup(named[0], named[1], seq, time_ns, number, received.reply, given, received.data, headers)
