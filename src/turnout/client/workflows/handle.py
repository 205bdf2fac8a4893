"""A handle on one workflow: wait for its end, signal it, ask how it is, cancel, terminate or delete it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import attrs

from turnout.client.away import outwaits
from turnout.client.workflows.asker import WITHIN_S, Asker
from turnout.client.workflows.forker import Forked, Forker
from turnout.client.workflows.history import History
from turnout.client.workflows.info import WorkflowInfo
from turnout.client.workflows.reader import WorkflowReader
from turnout.client.workflows.sender import Given, Sender
from turnout.client.workflows.updates import UpdateHandle, Updater, given_update
from turnout.core.failure import NO_REASON, given_reason
from turnout.core.retry import seconds
from turnout.core.workflows.values import InputKind, WorkflowState
from turnout.definition.codec import decode_as
from turnout.definition.handlers import NamedUpdate, Query, Signal, Update
from turnout.definition.workflow import named_call
from turnout.errors import InvalidState, WorkflowCancelled, WorkflowExists, WorkflowFaulted, WorkflowTerminated
from turnout.store.histories import Stored
from turnout.store.perform import Store
from turnout.store.starts import IdTaken
from turnout.telemetry.questions import asking

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@attrs.frozen
class Reach:
    """What a handle reaches its workflow by."""

    store: Store
    reader: WorkflowReader
    sender: Sender
    updater: Updater
    asker: Asker
    forker: Forker


class WorkflowHandle(Generic[R]):
    """One workflow, by its id. Made by `Client.start` and `Client.workflow`; holds no state of the workflow itself.

    handle = await client.start(order, Order(sku="a"))
    await handle.signal("approve", {"by": "ann"})
    receipt = await handle.result(timeout=60)
    """

    def __init__(
        self,
        workflow_id: str,
        reach: Reach,
        decode: Callable[[str], R] | None = None,
        life: str | None = None,
        first_update: UpdateHandle[Any] | None = None,
    ) -> None:
        self.id = workflow_id
        self._store = reach.store
        self._reader = reach.reader
        self._sender = reach.sender
        self._updater = reach.updater
        self._asker = reach.asker
        self._forker = reach.forker
        self._reach = reach
        self._patience_s = WITHIN_S
        self._decode = decode
        self._life = life
        self._first_update = first_update

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id}>"

    @outwaits
    async def info(self) -> WorkflowInfo:
        """The workflow as it stands. WorkflowNotFound when there is none."""
        return await self._reader.info(await self._reader.newest(self.id))

    @outwaits
    async def history(self) -> History:
        """The events of the newest run. WorkflowNotFound when there is none."""
        return await self._reader.history(self.id)

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """The result, as soon as there is one: it follows continue-as-new and retries.

        Errors: WorkflowFaulted, WorkflowCancelled or WorkflowTerminated, each with `.info`; TimeoutError after
        `timeout` seconds, which leaves the workflow as it is.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        try:
            async with asyncio.timeout(limit):
                ended = await self._reader.end(self.id, self._life)
        except TimeoutError:
            raise TimeoutError(f"workflow {self.id} has not ended within {limit:g} s") from None
        return await self._outcome(ended)

    async def _outcome(self, ended: Stored) -> R:
        record = ended.record
        if record.state is WorkflowState.completed:
            text = await self._reader.shown(record.result)
            decode: Callable[[str], Any] = self._decode or decode_as
            result: R = decode("null" if text is None else text)
            return result
        info = await self._reader.info(ended)
        message = record.failure.error.shown if record.failure is not None else record.reason or NO_REASON
        match record.state:
            case WorkflowState.cancelled:
                raise WorkflowCancelled(f"workflow {self.id} was cancelled: {message}", info)
            case WorkflowState.terminated:
                raise WorkflowTerminated(f"workflow {self.id} was terminated: {message}", info)
            case _:
                raise WorkflowFaulted(f"workflow {self.id} faulted: {message}", info)

    @overload
    async def signal(self, signal: Signal[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    async def signal(self, signal: str, /, *args: Any, **kwargs: Any) -> None: ...
    @outwaits
    async def signal(self, signal: str | Signal[Any, Any], /, *args: Any, **kwargs: Any) -> None:
        """Send a signal; returns when it is stored.

        Nothing has changed after WorkflowNotFound, WorkflowEnded and ServerUnavailable. OutcomeUnknown: nobody said
        whether it is stored, or came in time.
        """
        name, text = named_call(Signal, signal, args, kwargs)
        with asking("signal", name, self.id) as traceparent:
            given = Given(InputKind.signal, text, name, traceparent=traceparent)
            await self._sender.send(self.id, self._life, given)

    @overload
    async def query(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def query(self, query: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def query(self, query: str | Query[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        """Ask for what the workflow's code knows: it sees all that this client has sent to the workflow before.

        Any worker of the workflow answers, from the state that its history tells: of a running one, of a stuck one (as
        it was before the input that broke), of one that has ended. QueryFailed: no such query, its handler has raised
        or tried to change something, or nobody answers within 10 s (`with_timeout`). WorkflowNotFound.
        """
        name, text = named_call(Query, query, args, kwargs)
        answer = await self._asker.ask(self.id, self._life, name, text, self._patience_s)
        decode: Callable[[str], Any] = query.codec.decode_result if isinstance(query, Query) else decode_as
        return decode(answer)

    def with_timeout(self, timeout: float | timedelta) -> Self:
        """The same handle, whose queries are waited for this long (seconds).

        total = await handle.with_timeout(30).query(Cart.total)
        """
        changed = copy.copy(self)
        changed._patience_s = seconds(timeout, "timeout")
        return changed

    @overload
    async def update(self, update: Update[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def update(self, update: Update[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def update(self, update: str | NamedUpdate, /, *args: Any, **kwargs: Any) -> Any: ...
    @outwaits
    async def update(self, update: str | NamedUpdate | Update[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        """Send an update and wait for what its handler returns; the errors of `UpdateHandle.result`.

        With an id (`Cart.checkout.options(id="u1")`) it is done once, however often it is sent.
        """
        given, decode = self._as_input(update, args, kwargs)
        return await self._updater.call(self.id, self._life, given, decode)

    @overload
    async def start_update(
        self, update: Update[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> UpdateHandle[T]: ...
    @overload
    async def start_update(self, update: Update[P, T], /, *args: P.args, **kwargs: P.kwargs) -> UpdateHandle[T]: ...
    @overload
    async def start_update(self, update: str | NamedUpdate, /, *args: Any, **kwargs: Any) -> UpdateHandle[Any]: ...
    @outwaits
    async def start_update(
        self, update: str | NamedUpdate | Update[Any, Any], /, *args: Any, **kwargs: Any
    ) -> UpdateHandle[Any]:
        """Send an update; returns when it is stored, whether or not a worker lives.

        What it came to is told by the handle's `result()`. WorkflowNotFound; WorkflowEnded, but an id that was answered
        is answered again.
        """
        given, decode = self._as_input(update, args, kwargs)
        return await self._updater.send(self.id, self._life, given, decode)

    def _as_input(
        self, update: str | NamedUpdate | Update[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Given, Callable[[str], Any] | None]:
        name, text = named_call(Update, update, args, kwargs)
        typed = update if isinstance(update, Update) else None
        given = given_update(name, text, None if isinstance(update, str) else update.id)
        return given, typed.codec.decode_result if typed is not None else None

    @property
    def first_update(self) -> UpdateHandle[Any]:
        """The update that rode along with the start (`with_update`). InvalidState where none did."""
        if self._first_update is None:
            raise InvalidState(f"workflow {self.id} was not started with an update by this handle: see with_update()")
        return self._first_update

    @outwaits
    async def cancel(self, reason: str = "") -> None:
        """Ask for its end: its code sees CancelledError and may clean up. Returns when that is stored.

        WorkflowNotFound, WorkflowEnded.
        """
        text = given_reason(reason)
        with asking("cancel", "", self.id) as traceparent:
            await self._sender.send(self.id, self._life, Given(InputKind.cancel, text, traceparent=traceparent))

    @outwaits
    async def resume(self) -> None:
        """Have a stuck workflow tried again now, by whatever worker has its code. WorkflowNotFound, WorkflowEnded.

        It is tried again by itself when other code is deployed, and now and then; this is for those who can't wait, and
        for one that was stopped because it ended the processes of its workers.
        """
        await self._sender.resume(self.id, self._life)

    @outwaits
    async def terminate(self, reason: str = "") -> None:
        """End it at once: no code of it runs any more. WorkflowNotFound, WorkflowEnded."""
        text = given_reason(reason)
        with asking("terminate", "", self.id):
            await self._sender.terminate(self.id, self._life, text)

    @outwaits
    async def delete(self) -> None:
        """Forget a workflow that has ended; its id may be started again. InvalidState for one that goes on,
        WorkflowNotFound."""
        await self._sender.delete(self.id, self._life)

    @outwaits
    async def fork(self, at: int, id: str | None = None) -> WorkflowHandle[R]:
        """A new workflow that shares the events before number `at` of this one's newest run, whatever became of that.

        Nothing of the shared part is run again. What was waited for there is asked for anew: activities and children
        run for the fork, timers are due when they were. InvalidValue for an event that there is not, WorkflowExists
        (with `.handle`) when the id is taken, WorkflowNotFound.
        """
        return await self._forked(self._forker.fork(self.id, self._life, at, id))

    @outwaits
    async def retry(self, id: str | None = None) -> WorkflowHandle[R]:
        """A new workflow that goes on from where this one faulted: the activity or child that it failed by runs again.

        InvalidState for one that has not faulted, WorkflowExists (with `.handle`) for an id that is taken,
        WorkflowNotFound.
        """
        return await self._forked(self._forker.retry(self.id, self._life, id))

    async def _forked(self, forking: Coroutine[Any, Any, Forked]) -> WorkflowHandle[R]:
        try:
            forked = await forking
        except IdTaken as taken:
            record = taken.newest.record
            existing: AnyWorkflowHandle = WorkflowHandle(record.id, self._reach, life=record.life)
            raise WorkflowExists(
                f"workflow {record.id} exists already ({record.name}, {record.state}): choose another id", existing
            ) from None
        return WorkflowHandle(forked.id, self._reach, self._decode, forked.life)

    async def watch(self) -> AsyncIterator[WorkflowInfo]:
        """The workflow now, then whenever it has changed (quick changes are coalesced), until it has ended."""
        seq = 0
        async with self._reader.listening(self.id) as notices:
            async for stored in self._reader.changes(self.id, notices):
                if stored.seq == seq:
                    continue
                seq = stored.seq
                yield await self._reader.info(stored)
                if stored.record.state.final:
                    return


AnyWorkflowHandle = WorkflowHandle[Any]
