"""Updates: sent into a workflow's inbox, and waited for until an answer stands in its history (W13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

import attrs

from turnout.client.notices import Notices
from turnout.client.workflows.reader import WorkflowReader, refuse_another
from turnout.client.workflows.sender import Given, Sender
from turnout.core.retry import seconds
from turnout.core.workflows.standing import BrokenHistory
from turnout.core.workflows.values import Answer, AnswerState, InputKind
from turnout.definition.codec import decode_as
from turnout.errors import UpdateFailed, UpdateRejected, WorkflowEnded, WorkflowNotFound
from turnout.nats.messages import NoResponders
from turnout.store.histories import Stored
from turnout.store.perform import Store
from turnout.telemetry.questions import asking

R = TypeVar("R")
Decode = Callable[[str], Any]


@attrs.frozen
class Asked:
    """An update that was sent. `seq` is where it lies in the inbox, 0 where nobody knows.

    No record up to `behind` has its answer.
    """

    workflow_id: str
    name: str
    id: str
    life: str
    seq: int = 0
    behind: int = 0


class UpdateHandle(Generic[R]):
    """One update of a workflow, by its id. Made by `WorkflowHandle.start_update`; it is stored already.

    update = await handle.start_update(Cart.checkout.options(id="u1"), "4242")
    receipt = await update.result(timeout=60)
    """

    def __init__(self, updater: Updater, asked: Asked, decode: Decode | None = None) -> None:
        self.id = asked.id
        self.workflow_id = asked.workflow_id
        self._updater = updater
        self._asked = asked
        self._decode = decode
        self._answer: Answer | None = None

    def __repr__(self) -> str:
        return f"<UpdateHandle {self.id} of {self.workflow_id}>"

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """What the update's handler has returned, as soon as it has.

        Errors: UpdateRejected (by its validator), UpdateFailed (no such update, arguments that don't fit, its handler
        raised, or the workflow ended first), WorkflowEnded (it had ended before the update reached it),
        WorkflowNotFound; TimeoutError after `timeout` seconds, which leaves the update as it is.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        if self._answer is None:
            scope = asyncio.timeout(limit)
            try:
                async with scope:
                    self._answer = await self._updater.answer(self._asked)
            except TimeoutError:
                if not scope.expired():
                    raise
                raise TimeoutError(
                    f"update {self.id} of workflow {self.workflow_id} is not answered within {limit:g} s"
                ) from None
        return self.value(self._answer)

    def value(self, answer: Answer) -> R:
        """What an answer says: the value, or the error."""
        if answer.state is AnswerState.completed:
            text = answer.result.text if answer.result is not None else None
            decode = self._decode or decode_as
            value: R = decode("null" if text is None else text)
            return value
        message = answer.error.shown if answer.error is not None else ""
        about = f"update {self._asked.name} of workflow {self.workflow_id}"
        if answer.state is AnswerState.rejected:
            raise UpdateRejected(f"{about} was rejected: {message}")
        raise UpdateFailed(f"{about} failed: {message}")


class Updater:
    """Sends updates, and looks for their answers. Errors are those of the connection, and what the methods name."""

    def __init__(self, store: Store, reader: WorkflowReader, sender: Sender) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender

    async def send(
        self, workflow_id: str, life: str | None, given: Given, decode: Decode | None = None
    ) -> UpdateHandle[Any]:
        """Store an update. WorkflowNotFound; WorkflowEnded, unless an update of this id was answered before."""
        asked, _ = await self._send(workflow_id, life, given)
        return UpdateHandle(self, asked, decode)

    async def call(self, workflow_id: str, life: str | None, given: Given, decode: Decode | None = None) -> Any:
        """Store an update, and wait for what it comes to. Errors: those of `send`, and of its handle's `result`.

        It listens before it sends: the look behind that is the first one for the answer as well.
        """
        async with self._reader.listening(workflow_id) as notices:
            asked, newest = await self._send(workflow_id, life, given)
            answer = await self._reader.awaited(workflow_id, self._heard(asked, notices, newest))
        return UpdateHandle(self, asked, decode).value(answer)

    async def _send(self, workflow_id: str, life: str | None, given: Given) -> tuple[Asked, Stored | None]:
        """The update as it was sent, and the newest record behind that, if it was looked at."""
        with asking("update", given.what, workflow_id) as traceparent:
            return await self._stored(workflow_id, life, given, traceparent)

    async def _stored(
        self, workflow_id: str, life: str | None, given: Given, traceparent: str
    ) -> tuple[Asked, Stored | None]:
        update_id = given.id or self._sender.new_id()
        sending = attrs.evolve(given, id=update_id, traceparent=traceparent)
        try:
            sent = await self._sender.send(workflow_id, life, sending)
        except WorkflowEnded:
            known = await self._answered(workflow_id, life, given) if given.id is not None else None
            if known is None:
                raise
            return known, None
        behind = sent.behind if given.id is None else 0
        return Asked(workflow_id, given.what, update_id, sent.after.record.life, sent.seq, behind), sent.after

    def first(self, workflow_id: str, life: str, given: Given, decode: Decode | None) -> UpdateHandle[Any]:
        """The handle on an update that rode along with a start."""
        return UpdateHandle(self, Asked(workflow_id, given.what, given.id or "", life), decode)

    async def _answered(self, workflow_id: str, life: str | None, given: Given) -> Asked | None:
        """The update of this id that an ended workflow has answered."""
        newest = await self._reader.newest(workflow_id)
        if life is not None and newest.record.life != life:
            return None
        asked = Asked(workflow_id, given.what, given.id or "", newest.record.life)
        return asked if await self._look(asked, newest, 0) is not None else None

    async def answer(self, asked: Asked) -> Answer:
        """The answer, as soon as a record has one. UpdateFailed or WorkflowEnded where none will."""
        return await self._reader.awaited(asked.workflow_id, self._wait_for(asked))

    async def _wait_for(self, asked: Asked) -> Answer:
        async with self._reader.listening(asked.workflow_id) as notices:
            return await self._heard(asked, notices)

    async def _heard(self, asked: Asked, notices: Notices, newest: Stored | None = None) -> Answer:
        behind = asked.behind
        async for stored in self._reader.changes(asked.workflow_id, notices, newest):
            refuse_another(asked.workflow_id, stored.record.life, asked.life)
            if stored.seq > behind:
                try:
                    found = await self._look(asked, stored, behind)
                except (BrokenHistory, ConnectionError, TimeoutError, NoResponders):
                    if self._store.connection.closed:
                        raise
                    continue  # records were removed meanwhile, or the server is away: look again
                if found is not None:
                    return found
                behind = stored.seq
            if stored.record.state.final and stored.seq <= behind:
                raise _never(asked, stored)
        raise WorkflowNotFound(f"no workflow {asked.workflow_id}")

    async def _look(self, asked: Asked, newest: Stored, behind: int) -> Answer | None:
        """The final answer in the records behind this sequence. The newest one has it most often."""
        found = _answer_in(newest, asked.id)
        if found is not None:
            return found
        for stored in await self._store.histories.between(asked.workflow_id, behind, newest):
            found = _answer_in(stored, asked.id)
            if found is not None and stored.record.life == asked.life:
                return found
        return None


def given_update(name: str, text: str, update_id: str | None) -> Given:
    """The update as an input to be sent."""
    return Given(InputKind.update, text, name, update_id)


def _answer_in(stored: Stored, update_id: str) -> Answer | None:
    record = stored.record
    carried = record.start.answers if record.start is not None else ()
    return next(
        (each for each in (*record.answers, *carried) if each.id == update_id and each.state != AnswerState.accepted),
        None,
    )


def _never(asked: Asked, end: Stored) -> UpdateFailed | WorkflowEnded:
    """Why there will be no answer: the workflow has ended first (W3, W13)."""
    if end.record.upto < asked.seq:
        return WorkflowEnded(f"workflow {asked.workflow_id} has ended before update {asked.name} reached it")
    return UpdateFailed(
        f"update {asked.name} of workflow {asked.workflow_id} failed: the workflow has ended before it was finished"
    )
