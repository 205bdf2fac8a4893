"""What one workflow does to another: starts it as a child, signals or cancels it, asks for its end, ends it.

Each has an outcome, taken or refused, that is told to the asker's own inbox: the code that awaits goes on with it (W2).
"""

from __future__ import annotations

import attrs

from turnout.core.failure import ErrorInfo
from turnout.core.spec import Asker, Body
from turnout.core.workflows.effects import EndChild, ending_of
from turnout.core.workflows.jobs import trace_headers
from turnout.core.workflows.standing import forks, stand
from turnout.core.workflows.task import Starting, final_record, first_record
from turnout.core.workflows.values import (
    ChildOptions,
    Command,
    Ending,
    EndKind,
    InputKind,
    Record,
    Start,
    WorkflowState,
)
from turnout.store.ends import Commit, Ends
from turnout.store.histories import Histories, Overtaken, Stored, is_deleted
from turnout.store.payloads import life_owner
from turnout.store.perform import Store
from turnout.store.starts import IdTaken, Starts
from turnout.wire import histories as wire

_TAKEN = Ending(EndKind.completed)
_UNKNOWN = Ending(EndKind.unknown)
_ENDED = Ending(EndKind.ended)

_TRIES = 10
"""How often a child is started whose id others take and free again and again, where it replaces or joins."""


class Others:
    """Reaches other workflows of the namespace. Errors are those of the connection."""

    def __init__(self, store: Store, commit: Commit) -> None:
        self._store = store
        self._starts = Starts(store.inbox, store.histories)
        self._ends = Ends(store, commit)
        self._commit = commit

    async def start_child(self, record: Record, command: Command, key: str, own: Asker) -> None:
        """Start the child, or join the one that has its id; the own inbox is told that it is there, or why not."""
        options = command.child or ChildOptions()
        now = self._store.connection.now()
        start = Start(
            payload=command.body,
            at=now,
            due_at=command.at,
            parent=own,
            parent_close=options.parent_close,
            labels=options.labels,
            timeout=options.timeout,
            retry=options.retry,
            retention=options.retention,
            headers=trace_headers(record),
            trace_id=record.summary.trace_id,
        )
        starting = Starting(id=command.target, name=command.name, life=key, nonce=key, start=start)
        for _ in range(_TRIES):
            taken = await self._started(starting)
            joins = options.if_exists == "join"
            if taken is not None and forks(record):  # it replaces what has failed, and nobody's that goes on
                joins = joins or (options.if_exists == "replace" and not has_failed(taken.record))
            if taken is None or (joins and await self._asked_for_end(taken.record.id, own)):
                await self._store.inbox.tell(own, InputKind.started, Ending(EndKind.there))
                return
            if options.if_exists == "replace":
                await self._ends.free(taken)
            elif options.if_exists != "join":
                break
        error = ErrorInfo("WorkflowExists", f"workflow {starting.id} exists already: choose another id")
        await self._store.inbox.tell(own, InputKind.done, Ending(EndKind.exists, error=error))

    async def _started(self, starting: Starting) -> Stored | None:
        """Start it; the newest record of what has its id, if that is another life's."""
        try:
            await self._starts.start(starting)
        except IdTaken as taken:
            return taken.newest
        return None

    async def signal(self, command: Command, key: str, own: Asker) -> None:
        """Put the signal into the other's inbox, and tell the own one whether it was taken."""
        ending = await self.send(command.target, InputKind.signal, command.name, command.body, key)
        await self._store.inbox.tell(own, InputKind.done, ending)

    async def cancel(self, command: Command, key: str, own: Asker) -> None:
        """Ask the other one to cancel, and tell the own inbox whether that was taken."""
        ending = await self.send(command.target, InputKind.cancel, "", command.body, key)
        await self._store.inbox.tell(own, InputKind.done, ending)

    async def send(self, workflow_id: str, kind: InputKind, what: str, body: Body, key: str) -> Ending:
        """Append an input to another workflow's inbox, counted by `key`: whether it was taken, or why it can't be.

        The end is looked for again behind the append: an input that lies behind the one that ended it is too late. One
        that was sent before, by whoever has died over it, may be what has ended it.
        """
        newest = await self._store.histories.newest(workflow_id)
        if newest is None or is_deleted(newest):
            return _UNKNOWN
        record = newest.record
        if record.state.final:
            return _TAKEN if await has_taken(self._store.histories, newest, key) else _ENDED
        own = await self._store.payloads.copied(body, "input", life_owner(record.id, record.life), key)
        headers = {**wire.input_headers(input_id=key), **wire.body_headers(own)}
        data = (own.text or "").encode()
        seq = await self._store.inbox.append(record.name, workflow_id, kind, data, what=what, headers=headers)
        after = await self._store.histories.newest(workflow_id)
        return _ENDED if await is_late(self._store.histories, after, record.life, seq, key) else _TAKEN

    async def join(self, workflow_id: str, own: Asker) -> None:
        """Have the other workflow tell the own inbox of its end; one that has ended tells at once."""
        if not await self._asked_for_end(workflow_id, own):
            await self._store.inbox.tell(own, InputKind.done, _UNKNOWN)

    async def _asked_for_end(self, workflow_id: str, own: Asker) -> bool:
        """Whether it is there, so it tells of its end, or has told of it."""
        newest = await self._store.histories.newest(workflow_id)
        if newest is None or is_deleted(newest):
            return False
        if newest.record.state.final:
            await self._store.inbox.tell(own, InputKind.done, ending_of(newest.record))
        else:
            body = wire.dump_asker(own)
            await self._store.inbox.append(newest.record.name, workflow_id, InputKind.joining, body)
        return True

    async def end_child(self, effect: EndChild) -> None:
        """Cancel or terminate the child. One that is not there yet gets its final record, which a late start meets."""
        newest = await self._store.histories.newest(effect.id)
        if newest is None and await self._never_begun(effect):
            return
        newest = newest or await self._store.histories.newest(effect.id)
        if newest is None or newest.record.life != effect.life or newest.record.state.final:
            return  # it was joined, or has ended: nobody's business here
        kind = InputKind.terminate if effect.how == "terminate" else InputKind.cancel
        headers = wire.input_headers(life=effect.life)
        await self._store.inbox.append(effect.name, effect.id, kind, effect.reason.encode(), headers=headers)

    async def _never_begun(self, effect: EndChild) -> bool:
        """Whether the final record of a child that was never started is the first one of its id."""
        now = self._store.connection.now()
        start = Start(at=now)
        starting = Starting(
            id=effect.id, name=effect.name, life=effect.life, nonce=self._store.chance.nonce(), start=start
        )
        record = first_record(starting)
        ended = final_record(record, stand([(record, 0)]), (), WorkflowState.cancelled)
        ended = attrs.evolve(ended, reason=effect.reason)
        try:
            seq = await self._store.histories.append(ended, 0)
        except Overtaken:
            return False
        await self._commit(Stored(ended, seq), ())
        return True


def has_failed(record: Record) -> bool:
    """Whether a workflow with this newest record has ended without a result."""
    return record.state.final and record.state is not WorkflowState.completed


async def is_late(histories: Histories, newest: Stored | None, life: str, seq: int, input_id: str) -> bool:
    """Whether the input of this id, sent to this life and lying at `seq`, lies behind its end and is never taken (W3).

    Not where another copy of it was taken, which may be the very one that has ended the workflow.
    """
    if newest is None or newest.record.life != life:
        return True
    record = newest.record
    if not record.state.final or seq <= record.upto or seq == record.carries_out:
        return False
    return not await has_taken(histories, newest, input_id)


async def has_taken(histories: Histories, newest: Stored, input_id: str) -> bool:
    """Whether an input of this id is in the records of a workflow, of which this is the newest."""
    records = await histories.read(newest.record.id, newest)
    return input_id in stand([(each.record, each.seq) for each in records]).seen
