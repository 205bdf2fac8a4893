"""Ending a workflow from outside: by force, which needs no code (W8), and for good, which frees its id (W10).
And taking it from the build that it was to stay with, whose workers are gone (W11).

Clients end workflows here, and workers what a child of theirs replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection

from turnout.core.spec import Body
from turnout.core.workflows.effects import ended_in, ending_of
from turnout.core.workflows.standing import Standing, stand
from turnout.core.workflows.task import Author, deleted_record, terminated_record, unpinned_record
from turnout.core.workflows.values import Input, InputKind, Record, Start
from turnout.errors import WorkflowEnded
from turnout.store.histories import Overtaken, Stored, is_deleted
from turnout.store.inbox import Lying
from turnout.store.perform import Store
from turnout.wire import histories as wire

Commit = Callable[[Stored, Collection[str]], Awaitable[None]]
"""Performs the effects of a record; see turnout.store.commit."""


class Ends:
    """Ends workflows. Errors are those of the connection, and what the methods name."""

    def __init__(self, store: Store, commit: Commit) -> None:
        self._store = store
        self._connection = store.connection
        self._inbox = store.inbox
        self._histories = store.histories
        self._commit = commit

    async def terminate(self, newest: Stored, reason: str) -> None:
        """First the input, so that somebody goes on if this process dies; then the end itself (W8).

        WorkflowEnded when it has ended by itself.
        """
        record = newest.record
        headers = wire.input_headers(life=record.life, input_id=self._store.chance.nonce(12))
        seq = await self._inbox.append(record.name, record.id, InputKind.terminate, reason.encode(), headers=headers)
        now = self._connection.now()
        given = Input(InputKind.terminate, now, seq, body=Body(text=reason, size=len(reason)), life=record.life)
        await self.carry_out(record, given)

    async def carry_out(self, record: Record, given: Input) -> None:
        """Append the end that this `terminate` asks for, whoever writes meanwhile. WorkflowEnded."""
        while True:
            newest = await self._histories.newest(record.id)
            if newest is None or newest.record.life != record.life:
                raise WorkflowEnded(f"workflow {record.id} has ended meanwhile")
            if newest.record.state.final:
                if newest.record.carries_out != given.seq:
                    state = newest.record.state
                    raise WorkflowEnded(f"workflow {record.id} has ended by itself: it is {state}")
                return
            try:
                await self._end(newest, given)
            except Overtaken:
                continue
            return

    async def _end(self, newest: Stored, given: Input) -> None:
        records = await self._histories.read(newest.record.id, newest)
        standing = stand([(each.record, each.seq) for each in records])
        await self.make_sure(newest)
        record = terminated_record(standing, self._author(), self._connection.now(), given)
        seq = await self._histories.append(record, standing.seq)
        await self._commit(Stored(record, seq), ())

    async def make_sure(self, newest: Stored) -> list[Lying]:
        """The effects of the newest record, before anything is appended behind it (W2). What lies in its inbox."""
        record = newest.record
        lying = await self._inbox.read(record.name, record.id, set(), whole=True)
        await self._commit(newest, ended_in(record, (each.given for each in lying)))
        return lying

    async def unpin(self, newest: Stored) -> None:
        """Let a run that is pinned to a build go on with any other (W11)."""
        record = newest.record
        while newest.record.summary.pin and not newest.record.state.final and newest.record.life == record.life:
            await self.make_sure(newest)
            standing = Standing(newest=newest.record, seq=newest.seq, start=Start(), state=newest.record.state)
            try:
                await self._histories.append(
                    unpinned_record(standing, self._author(), self._connection.now()), newest.seq
                )
            except Overtaken:
                newest = await self._histories.newest(record.id) or newest
                continue
            return

    async def delete(self, newest: Stored) -> None:
        """Mark an ended one as deleted, and remove what is before the mark; `gc` takes the rest (W10).

        Who has asked for its end and was not told yet is told now: nobody can tell it later.
        """
        for each in await self.make_sure(newest):
            if each.given.asker is not None:
                await self._inbox.tell(each.given.asker, InputKind.done, ending_of(newest.record))
        standing = Standing(newest=newest.record, seq=newest.seq, start=Start(), state=newest.record.state)
        record = deleted_record(standing, self._author(), self._connection.now())
        try:
            seq = await self._histories.append(record, newest.seq)
        except Overtaken:
            return  # somebody else has deleted it
        await self._histories.forget(record.id, record.life, seq)

    async def free(self, newest: Stored) -> None:
        """Make the id free of this life, for what replaces it: what runs is terminated, what has ended is deleted.
        Whatever has its id by then, if that is another life, is left alone."""
        record = newest.record
        if not record.state.final:
            with contextlib.suppress(WorkflowEnded):
                await self.terminate(newest, "replaced")
        ended = await self._histories.newest(record.id)
        if ended is None or ended.record.life != record.life or is_deleted(ended):
            return
        if ended.record.state.final:
            await self.delete(ended)

    def _author(self) -> Author:
        return Author("client", "", self._store.chance.nonce())
