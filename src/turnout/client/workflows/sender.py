"""What a client sends to a workflow that is there: signals, cancels, its end by force, its deletion."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict

import attrs

from turnout.client.workflows.reader import WorkflowReader, refuse_another
from turnout.core.workflows.caution import RESUME
from turnout.core.workflows.values import InputKind, WorkflowState
from turnout.errors import (
    InvalidState,
    OutcomeUnknown,
    ServerUnavailable,
    TurnoutError,
    WorkflowEnded,
)
from turnout.nats.connection import NoResponders
from turnout.store.commit import Committer
from turnout.store.ends import Ends
from turnout.store.histories import Histories, Stored, is_deleted
from turnout.store.others import is_late
from turnout.store.payloads import life_owner
from turnout.store.perform import Store
from turnout.wire import histories as wire

SENT_KNOWN = 10_000
"""Of how many workflows it is remembered what was sent to them last."""


@attrs.frozen
class Given:
    """An input as a client sends it: `what` names the signal or update, `id` is what it is counted by, if chosen;
    `traceparent` is the span that it is sent in."""

    kind: InputKind
    text: str
    what: str = ""
    id: str | None = None
    traceparent: str = ""


@attrs.frozen
class Sent:
    """An input that is stored: where it lies, and the workflow's newest record after that.

    No record up to `behind` has taken it.
    """

    seq: int
    after: Stored
    behind: int


@attrs.frozen
class Seen:
    """A record that this client has read of an open workflow: of which life, of which name, and where it lies, 0 where
    a listing has told of it."""

    life: str
    name: str
    seq: int


class Reads:
    """Reads of newest records, by the word of the leader: those who ask for one at the same time share it.

    It begins after each of them has asked, so that it shows whatever they have stored before. A thousand signals at
    once need a few of them, not two thousand.
    """

    def __init__(self, histories: Histories) -> None:
        self._histories = histories
        self._to_begin: dict[str, asyncio.Task[Stored | None]] = {}
        self._tasks: set[asyncio.Task[Stored | None]] = set()

    async def newest(self, workflow_id: str) -> Stored | None:
        """The newest record of the workflow, None when there is no history."""
        reading = self._to_begin.get(workflow_id)
        if reading is None:
            reading = asyncio.create_task(self._read(workflow_id), name=f"that reads workflow {workflow_id}")
            self._to_begin[workflow_id] = reading
            self._tasks.add(reading)
            reading.add_done_callback(lambda ended: self._ended(workflow_id, ended))
        return await asyncio.shield(reading)

    async def _read(self, workflow_id: str) -> Stored | None:
        await asyncio.sleep(0)
        self._to_begin.pop(workflow_id, None)  # whoever asks from here on wants another one
        return await self._histories.newest(workflow_id)

    def _ended(self, workflow_id: str, reading: asyncio.Task[Stored | None]) -> None:
        self._tasks.discard(reading)
        if self._to_begin.get(workflow_id) is reading:
            del self._to_begin[workflow_id]  # it was cancelled before it could begin
        if not reading.cancelled():
            reading.exception()  # whoever has asked may have gone


class Sender:
    """Sends inputs to workflows, and ends them. Errors are those of the connection, and what the methods name."""

    def __init__(self, store: Store, reader: WorkflowReader) -> None:
        self._store = store
        self._reader = reader
        self._reads = Reads(store.histories)
        self._ends = Ends(store, Committer(store).commit)
        self._sent: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def sent(self, workflow_id: str, life: str) -> int:
        """Where the last input lies that went from here to this life, 0 if none did: a query must know of it (W12)."""
        known, seq = self._sent.get(workflow_id, ("", 0))
        return seq if known == life else 0

    def note(self, workflow_id: str, life: str, seq: int) -> None:
        """An input of ours lies there."""
        self._sent[workflow_id] = (life, max(seq, self.sent(workflow_id, life)))
        self._sent.move_to_end(workflow_id)
        if len(self._sent) > SENT_KNOWN:
            self._sent.popitem(last=False)

    def new_id(self) -> str:
        """What a signal or an update is counted by that has no id of its own."""
        return self._store.chance.nonce(12)

    async def send(self, workflow_id: str, life: str | None, given: Given) -> Sent:
        """Append an input; WorkflowEnded when the end lies in front of it. ServerUnavailable: it is not stored.
        OutcomeUnknown: nobody said whether it is, or came in time.

        Whether the workflow is open is looked at behind the append. In front of it as well, unless this client has seen
        that life open: sent too late it is void, as it is where the end comes between look and append (W3).
        """
        seen = self._seen.get(workflow_id)
        known = seen is not None and seen.life == life and self._store.payloads.inline(given.text) is not None
        if seen is None or not known:
            seen = _seen(await self._open(workflow_id, life))
        body = await self._store.payloads.put(given.text, "input", life_owner(workflow_id, seen.life))
        input_id = given.id or self.new_id()
        headers = {
            **wire.input_headers(life=seen.life, input_id=input_id),
            **wire.body_headers(body),
        }
        if given.traceparent:
            headers[wire.TRACEPARENT] = given.traceparent
        data = b"" if body.ref is not None else given.text.encode()
        seq = await self._store.inbox.append(seen.name, workflow_id, given.kind, data, what=given.what, headers=headers)
        self.note(workflow_id, seen.life, seq)
        try:
            after = await self._reads.newest(workflow_id)
            gone = after is None or is_deleted(after)
            late = gone or await is_late(self._store.histories, after, seen.life, seq, input_id)
        except (ServerUnavailable, NoResponders) as error:
            about = f"the {given.kind} for workflow {workflow_id} is stored"
            raise OutcomeUnknown(f"{about}, but nobody said whether that had ended before: {error}") from error
        if after is None or late:
            self._seen.pop(workflow_id, None)
            if after is not None and after.record.life == seen.life and after.record.state.final:
                with contextlib.suppress(TurnoutError):  # else whoever is handed it removes it (W3)
                    await self._store.inbox.remove(seq)
            if known:
                self._opened(workflow_id, life, after)
            raise WorkflowEnded(f"workflow {workflow_id} has ended before the {given.kind} reached it")
        self.see(after)
        return Sent(seq, after, after.seq if after.record.upto < seq else seen.seq)

    async def _open(self, workflow_id: str, life: str | None) -> Stored:
        return self._opened(workflow_id, life, await self._reads.newest(workflow_id))

    def _opened(self, workflow_id: str, life: str | None, newest: Stored | None) -> Stored:
        newest = self._reader.there(workflow_id, newest)
        refuse_another(workflow_id, newest.record.life, life)
        if newest.record.state.final:
            raise WorkflowEnded(f"workflow {workflow_id} has ended: it is {newest.record.state}")
        return newest

    def see(self, newest: Stored) -> None:
        """Remember this record."""
        workflow_id = newest.record.id
        if newest.record.state.final:
            self._seen.pop(workflow_id, None)
            return
        self._remember(workflow_id, _seen(newest))

    def see_open(self, workflow_id: str, life: str, name: str) -> None:
        """Remember that a listing has shown this life to be open."""
        known = self._seen.get(workflow_id)
        if known is None or known.life != life:
            self._remember(workflow_id, Seen(life, name, 0))

    def _remember(self, workflow_id: str, seen: Seen) -> None:
        self._seen[workflow_id] = seen
        self._seen.move_to_end(workflow_id)
        if len(self._seen) > SENT_KNOWN:
            self._seen.popitem(last=False)

    async def resume(self, workflow_id: str, life: str | None) -> None:
        """Have a stuck workflow tried again now: by any build, where its own has no worker or got stuck with it."""
        newest = await self._open(workflow_id, life)
        record = newest.record
        if record.summary.pin:
            builds = await self._reader.builds(record.name)
            others = builds - {record.summary.pin}
            if record.summary.pin not in builds or (record.state is WorkflowState.stuck and others):
                await self._ends.unpin(newest)
        headers = wire.input_headers(life=record.life)
        await self._store.inbox.append(record.name, workflow_id, InputKind.start, what=RESUME, headers=headers)

    async def terminate(self, workflow_id: str, life: str | None, reason: str) -> None:
        """End it by force. WorkflowEnded when it has ended by itself."""
        self._seen.pop(workflow_id, None)
        await self._ends.terminate(await self._open(workflow_id, life), reason)

    async def free(self, newest: Stored) -> None:
        """Make the id free of this life, for what replaces it."""
        self._seen.pop(newest.record.id, None)
        await self._ends.free(newest)

    async def delete(self, workflow_id: str, life: str | None) -> None:
        """Forget an ended one. InvalidState for one that goes on."""
        newest = await self._reader.newest(workflow_id)
        refuse_another(workflow_id, newest.record.life, life)
        if not newest.record.state.final:
            state = newest.record.state
            raise InvalidState(
                f"workflow {workflow_id} is {state}; only an ended one can be deleted: terminate it first"
            )
        await self._ends.delete(newest)


def _seen(newest: Stored) -> Seen:
    return Seen(newest.record.life, newest.record.name, newest.seq)
