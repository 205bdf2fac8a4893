"""Reading workflows: one, its history, its end as soon as there is one, all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from turnout.client.away import unless_away
from turnout.client.notices import Notices
from turnout.client.workflows.history import History
from turnout.client.workflows.info import Around, Texts, WorkflowInfo, workflow_info
from turnout.client.workflows.whole import whole
from turnout.core.catalog import NodeInfo
from turnout.core.record import JobRecord
from turnout.core.spec import Body
from turnout.core.workflows.standing import BrokenHistory
from turnout.core.workflows.values import InputKind, Record, RecordKind, WaitKind, key_of
from turnout.errors import UnreadableRecord, WorkflowNotFound
from turnout.nats.messages import Message
from turnout.store.histories import Stored, is_deleted
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Store
from turnout.wire import entries

T = TypeVar("T")

_POLL_S = (2.0, 10.0)


class Living:
    """The living workers, as they were when somebody first asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asking = asyncio.Lock()
        self._nodes: list[NodeInfo] | None = None

    async def builds(self, name: str) -> set[str]:
        """The builds of the living workers of this workflow."""
        async with self._asking:
            if self._nodes is None:
                self._nodes = await self._store.nodes.living()
        return {node.build for node in self._nodes if name in node.workflows}


class WorkflowReader:
    """Reads workflows for clients."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def newest(self, workflow_id: str) -> Stored:
        """The newest record by the word of the leader. WorkflowNotFound."""
        return self.there(workflow_id, await self._store.histories.newest(workflow_id))

    def there(self, workflow_id: str, newest: Stored | None) -> Stored:
        """The newest record of a workflow that is there. WorkflowNotFound."""
        if newest is None or is_deleted(newest):
            raise self._not_found(workflow_id)
        return newest

    def _not_found(self, workflow_id: str) -> WorkflowNotFound:
        about = f"no workflow {workflow_id} in namespace {self._store.names.ns}"
        return WorkflowNotFound(f"{about}: is the id right, or has it expired?")

    async def entry(self, workflow_id: str) -> tuple[int, entries.Entry]:
        """Where the newest record lies by the word of the leader, and what it tells in its header. WorkflowNotFound."""
        found = await self._store.histories.entry(workflow_id)
        if found is None or found[1].kind is RecordKind.deleted:
            raise self._not_found(workflow_id)
        return found

    async def info(self, newest: Stored, living: Living | None = None) -> WorkflowInfo:
        """The workflow as users see it. A listing asks but once which workers are `living`."""
        record = newest.record
        waits_for = await self._lacking(record, living or self.living())
        payload = record.start.payload if record.start is not None else await self._payload(newest)
        texts = Texts(await self.shown(payload), await self.shown(record.result))
        around = Around(waits_for, await self._cancel_requested(record), await self._jobs(record))
        return workflow_info(record, texts, around)

    async def _cancel_requested(self, record: Record) -> str | None:
        """Why it is asked to stop: as its code was told, or will be by what waits behind the input it is stuck by."""
        known = record.summary.cancel_request
        if known is not None or record.kind is not RecordKind.stuck:
            return known
        given = await self._store.inbox.first(record.name, record.id, InputKind.cancel)
        return None if given is None or given.life not in ("", record.life) else given.body.text or ""

    async def _jobs(self, record: Record) -> dict[str, JobRecord]:
        """The records of the jobs it waits for, by their commands; of those that nobody has begun there are none."""
        if record.state.final:
            return {}
        asked = [each for each in record.summary.waits if each.kind == WaitKind.activity and each.attempt is None]
        keys = [(each.name, key_of(record.id, record.life, record.run, each.id)) for each in asked]
        found = await asyncio.gather(*(self._store.registry.load(name, job_id) for name, job_id in keys))
        return {each.id: one.record for each, one in zip(asked, found, strict=True) if one.record is not None}

    async def _lacking(self, record: Record, living: Living) -> str:
        """Whom an open workflow waits for: a worker of its build, or any where none has begun it."""
        pin = record.summary.pin
        if record.state.final or (record.node and not pin):
            return ""
        builds = await living.builds(record.name)
        if pin:
            return "" if pin in builds else f"a worker of build {pin}"
        return "" if builds else f"a worker of workflow {record.name}"

    async def builds(self, name: str) -> set[str]:
        """The builds of the living workers of a workflow."""
        return await Living(self._store).builds(name)

    def living(self) -> Living:
        """The living workers, asked for once, and only where somebody needs to know."""
        return Living(self._store)

    async def _payload(self, newest: Stored) -> Body | None:
        with contextlib.suppress(BrokenHistory, UnreadableRecord):
            first = await self._store.histories.first_of_run(newest)
            return first.start.payload if first is not None and first.start is not None else None
        return None

    async def shown(self, body: Body | None) -> str | None:
        """The text of a body, None if it is gone."""
        if body is None:
            return None
        try:
            return await self._store.payloads.get(body)
        except ObjectGone:
            return None

    async def history(self, workflow_id: str) -> History:
        """The events of the newest run."""
        newest = await self.newest(workflow_id)
        records = await self._store.histories.read(workflow_id, newest)
        return History([await whole(stored.record, self.shown) for stored in records])

    async def awaited(self, workflow_id: str, outcome: Coroutine[Any, Any, T]) -> T:
        """What is waited for until the workflow has gone on; a test environment lets the time go on meanwhile."""
        return await outcome

    async def end(self, workflow_id: str, life: str | None) -> Stored:
        """The final record, as soon as there is one. WorkflowNotFound when it is gone, or another life has begun."""
        return await self.awaited(workflow_id, self._end(workflow_id, life))

    async def _end(self, workflow_id: str, life: str | None) -> Stored:
        async with self.listening(workflow_id, ends_only=True) as notices:
            async for stored in self.changes(workflow_id, notices):
                refuse_another(workflow_id, stored.record.life, life)
                if stored.record.state.final:
                    return stored
        raise WorkflowNotFound(f"no workflow {workflow_id}")

    poll_s = _POLL_S
    """How soon it is looked again where no notice has come, and how late that gets."""

    @contextlib.asynccontextmanager
    async def listening(self, workflow_id: str, *, ends_only: bool = False) -> AsyncIterator[Notices]:
        """Within this block each record of the workflow is heard of, maybe only its end."""
        notices = Notices(self._store.connection, _tells_end if ends_only else None)
        await notices.begin(self._store.names.recorded(workflow_id))
        try:
            yield notices
        finally:
            await notices.end()

    def changes(self, workflow_id: str, notices: Notices, newest: Stored | None = None) -> Changes:
        """The newest record now, and again whenever there may be a newer one; ends never.

        `newest` was read since the notices began.
        """
        return Changes(self, workflow_id, notices, newest)

    def republished(self, workflow_id: str, notice: Message) -> Stored | None:
        """The record that came with its notice; None where the leader is to be asked for it."""
        return self._store.histories.republished(workflow_id, notice)

    async def unless_away(self, workflow_id: str) -> Stored | None:
        """The newest record; None where the server does not answer just now. WorkflowNotFound."""
        return await unless_away(self._store, self.newest(workflow_id))

    async def all(self) -> AsyncIterator[tuple[str, entries.Glance]]:
        """What a listing chooses by, of all workflows, unsorted; those that were deleted are left out."""
        async for workflow_id, entry in self._store.histories.glances():
            if entry.kind is not RecordKind.deleted:
                yield workflow_id, entry


class Changes:
    """What `WorkflowReader.changes` gives. An iterator by hand: a generator that is left takes a task to be closed.

    A record that came with its notice is believed: what is stored in a history stays as it is. A look may be ahead of
    the notices: one that tells of nothing newer asks for none.
    """

    def __init__(self, reader: WorkflowReader, workflow_id: str, notices: Notices, newest: Stored | None) -> None:
        self._reader = reader
        self._id = workflow_id
        self._notices = notices
        self._ahead = newest
        self._pause: float | None = None
        self._seq = 0

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Stored:
        while True:
            await self._wait()
            found, self._ahead = self._ahead or await self._look(), None
            if found is not None:
                self._seq = found.seq
                return found

    async def _wait(self) -> None:
        """Wait until there may be a newer record; the first look is taken at once."""
        soonest, latest = self._reader.poll_s
        if self._pause is None or await self._notices.within(self._pause):
            self._pause = soonest
        else:
            self._pause = min(self._pause * 1.5, latest)

    async def _look(self) -> Stored | None:
        notice = self._notices.take()
        came = None if notice is None else self._reader.republished(self._id, notice)
        if came is None:
            return await self._reader.unless_away(self._id)
        return self._reader.there(self._id, came) if came.seq > self._seq else None


def refuse_another(workflow_id: str, found: str, life: str | None) -> None:
    """WorkflowNotFound where a handle knows its `life`, and another one is what was found."""
    if life is not None and found != life:
        raise WorkflowNotFound(f"workflow {workflow_id} is gone; its id has been started again")


def _tells_end(notice: Message) -> bool:
    """Whether this may tell of a workflow that has ended; whoever reads its record will know."""
    try:
        return entries.state_of(notice.headers.get(entries.ENTRY, "").encode()).final
    except UnreadableRecord:
        return True
