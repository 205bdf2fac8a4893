"""Answering queries: requests of core NATS, to whichever worker of the workflow is free (W12).

The answer is that of the newest record's state: of the instance in the cache where it is that record's, else of one
that is replayed. An asker who reads the newest record himself is answered from the cache at once, and is told which
record's state that is. A query is nobody's input: nothing of it is recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from turnout.core.failure import ErrorInfo
from turnout.core.workflows.standing import BrokenHistory, stand
from turnout.core.workflows.values import RecordKind, WorkflowState
from turnout.definition.workflow import Workflow
from turnout.errors import QueryFailed, TurnoutError, UnreadableRecord
from turnout.flow.thread import HeldTooLong, LeftByExit
from turnout.keyed_locks import KeyedLocks
from turnout.nats.messages import Message
from turnout.nats.subscription import Subscription
from turnout.store.histories import Stored, is_deleted
from turnout.store.perform import Store
from turnout.telemetry import questions
from turnout.wire import queries as wire
from turnout.worker.failure import Redact, error_info, redacted_error
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.cache import Cache, Cached
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.ends import NOT_LOADED, CodeBroke
from turnout.worker.workflows.reading import Spoilt, ask
from turnout.worker.workflows.replay import replay

logger = logging.getLogger("turnout.workflow")

T = TypeVar("T")

GROUP = "workers"
TOGETHER = 64
"""For how many queries a node reads histories and runs code at once; others wait."""

SHARE = 0.9
"""The share of the asker's time after which it is told that there is no answer, rather than left to wait."""

POLL_S = (0.005, 0.2)
REPLY_ROOM = 4096
"""What a reply takes of a message beside the result."""

_READ_AGAIN = 5


class RunsCode(Protocol):
    """The thread that runs all workflow code of a process."""

    def run(self, call: Callable[[], T]) -> Awaitable[T]:
        """What `call` returns or raises, on that thread."""
        ...


class Leaving(TurnoutError):
    """The worker stops: whoever asks asks another one."""


class Answering:
    """Finds the state that a question is about, and asks it."""

    def __init__(
        self, store: Store, workflows: Mapping[str, Workflow[..., Any]], code: RunsCode, views: Views, cache: Cache
    ) -> None:
        self._store = store
        self._workflows = workflows
        self._code = code
        self._views = views
        self._cache = cache
        self._bodies = Bodies(store.payloads)
        self.turns = KeyedLocks()
        """Who works on a workflow just now: a task of it, or a query."""
        self._gate = asyncio.Semaphore(TOGETHER)
        self.leaving = False
        """Whether nobody is waited for any more."""

    async def answer(self, name: str, question: wire.Question) -> wire.Reply:
        """The result. QueryFailed, and the errors of the connection.

        TimeoutError when the asker's own inputs are not taken in time. What has begun to run is never broken off.
        """
        reply = await self._at_hand(name, question) if question.compares else None
        return reply or wire.Reply(result=await self._of_the_newest(name, question))

    async def _at_hand(self, name: str, question: wire.Question) -> wire.Reply | None:
        """The result of the instance in the cache, and of which record it is; None without one that may do.

        A failure is told of the newest record alone.
        """
        async with self.turns.of(question.id), self._gate:
            cached = self._cache.take(question.id)
            if cached is None:
                return None
            standing = cached.standing
            same = standing.newest.name == name and question.life in ("", standing.life)
            if not same or standing.upto < question.after:
                self._cache.put(question.id, cached)
                return None
            try:
                return wire.Reply(result=await self._asked(cached, question), seq=standing.seq)
            except QueryFailed:
                if await self._store.histories.is_newest(question.id, standing.seq):
                    raise
                return None

    async def _of_the_newest(self, name: str, question: wire.Question) -> str:
        for _ in range(_READ_AGAIN):
            async with asyncio.timeout(question.within_s * SHARE):
                newest = await self._reached(question)
            if newest.record.name != name:
                raise QueryFailed(f"workflow {question.id} is a {newest.record.name}, not a {name}")
            async with self.turns.of(question.id), self._gate:
                try:
                    return await self._ask(newest, question)
                except BrokenHistory as error:  # another run has begun while this one's records were read
                    logger.debug("a query of workflow %s reads again: %s", question.id, error)
        raise QueryFailed(f"the history of workflow {question.id} can't be read")

    async def _reached(self, question: wire.Question) -> Stored:
        """The newest record, once it knows of the asker's own input, or that is void; of a stuck one at once."""
        pause = POLL_S[0]
        while True:
            newest = await self._newest(question)
            record = newest.record
            if record.upto >= question.after or record.state.final or record.kind is RecordKind.stuck:
                return newest
            if not await self._store.inbox.lies(question.after):
                return await self._newest(question)
            if self.leaving:
                raise Leaving("the worker stops before the asker's own inputs are taken")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_S[1])

    async def _newest(self, question: wire.Question) -> Stored:
        newest = await self._store.histories.newest(question.id)
        if newest is None or is_deleted(newest) or question.life not in ("", newest.record.life):
            raise QueryFailed(f"workflow {question.id} is gone")
        return newest

    async def _ask(self, newest: Stored, question: wire.Question) -> str:
        cached = self._cache.take(question.id)
        if cached is not None and cached.standing.seq < newest.seq:
            await self._code.run(cached.instance.drop)
            cached = None
        return await self._asked(cached or await self._replayed(newest), question)

    async def _asked(self, cached: Cached, question: wire.Question) -> str:
        instance, keep = cached.instance, False
        try:
            text = await self._code.run(lambda: ask(instance, question.query, question.payload))
            keep = True
            return text
        except Spoilt:
            raise
        except QueryFailed:
            keep = True
            raise
        except (HeldTooLong, LeftByExit, CodeBroke) as error:
            raise QueryFailed(f"query {question.query} of workflow {question.id} failed: {error}") from error
        finally:
            await self._leave(cached, keep=keep)

    async def _leave(self, cached: Cached, *, keep: bool) -> None:
        """An instance that a task can go on with is kept; one whose object was made for the query alone is not."""
        standing = cached.standing
        goes_on = standing.newest.kind is RecordKind.task and standing.state is WorkflowState.running
        if keep and goes_on and standing.begun and cached.instance.begun:
            for evicted in self._cache.put(standing.newest.id, cached):
                await self._code.run(evicted.drop)
        else:
            await self._code.run(cached.instance.drop)

    async def _replayed(self, newest: Stored) -> Cached:
        """The state at the newest record; of a stuck one that before the input that broke."""
        workflow = self._workflows[newest.record.name]
        try:
            records = await self._store.histories.read(newest.record.id, newest, of_run=True)
            standing = stand([(each.record, each.seq) for each in records])
            recorded = [await self._bodies.of_record(each.record) for each in records]
            instance = await self._code.run(lambda: replay(workflow, recorded, standing, self._views))
        except NOT_LOADED as error:
            raise QueryFailed(f"workflow {newest.record.id} can't be replayed: {error}") from error
        return Cached(standing, instance)


class QueryServer:
    """Listens for the queries about these workflows, and replies; `pinned_to`: also about runs of that build.

    `redact` edits what is told of those that fail; `node` is who answers.
    """

    def __init__(
        self,
        store: Store,
        names: Mapping[str, Any],
        answering: Answering,
        *,
        node: str = "",
        pinned_to: str = "",
        redact: Redact | None = None,
    ) -> None:
        self._store = store
        self._workflows = names
        self._builds = ("", pinned_to) if pinned_to else ("",)
        self._redact = redact
        self._node = node
        self._answering = answering
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_work: set[str] = set()
        """The questions that are being answered, by their nonces."""

    async def start(self) -> None:
        """Returns when the server knows of it. PermissionDenied where these credentials may not listen."""
        connection, names = self._store.connection, self._store.names
        for name in self._workflows:
            for build in self._builds:
                subject = names.query(name, build)
                self._subscriptions.append(await connection.subscribe(subject, self._hears(name), queue=GROUP))

    async def stop(self) -> None:
        """Leave queries to others, and answer those that were heard."""
        self._answering.leaving = True
        for subscription in self._subscriptions:
            await subscription.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _hears(self, name: str) -> Callable[[Message], None]:
        def hear(message: Message) -> None:
            task = asyncio.ensure_future(self._reply(name, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return hear

    async def _reply(self, name: str, message: Message) -> None:
        if not message.reply:
            return
        try:
            question = wire.load_question(message.data)
        except UnreadableRecord as error:
            self._send(message.reply, "a query", wire.Reply(failed=str(error)))
            return
        asked = question.nonce or message.reply
        if asked in self._at_work:
            return  # it is asked once more; the answer goes to the first one
        self._at_work.add(asked)
        heard = questions.Heard(name, question.id, question.query, question.traceparent, question.counted)
        try:
            reply = await self._outcome(name, question)
            reply = self._send(message.reply, f"query {question.query}", reply)
            questions.answered(heard, self._node, reply.failed if reply.result is None else None)
        except Leaving as error:
            logger.debug("a query of workflow %s is left to others: %s", question.id, error)
        except TurnoutError as error:
            logger.warning("a query of workflow %s is not answered: %s", question.id, error)  # it is asked again
        finally:
            self._at_work.discard(asked)

    async def _outcome(self, name: str, question: wire.Question) -> wire.Reply:
        """What the query has come to. Errors: the connection's."""
        try:
            return await self._answering.answer(name, question)
        except TimeoutError:
            about = f"query {question.query} of workflow {question.id}"
            return wire.Reply(failed=f"{about}: what was sent before it is not taken yet, or the history not read")
        except QueryFailed as error:
            return wire.Reply(failed=self._shown(ErrorInfo("QueryFailed", str(error))).message)
        except TurnoutError:
            raise
        except Exception as error:  # one query's trouble is nobody else's, and its asker learns of it
            info = self._shown(error_info(error))
            logger.error("a query of workflow %s has failed: %s", question.id, info.traceback or info.message)
            return wire.Reply(failed=str(info))

    def _shown(self, error: ErrorInfo) -> ErrorInfo:
        return error if self._redact is None else redacted_error(error, self._redact)

    def _send(self, subject: str, about: str, reply: wire.Reply) -> wire.Reply:
        """Send the reply to what this is about, or that it is too large; what was sent."""
        data, most = wire.dump_reply(reply), self._store.connection.max_payload - REPLY_ROOM
        if len(data) > most:
            large = f"{about}: a result of {len(data)} bytes is over the server's limit of {most}"
            reply = wire.Reply(failed=self._shown(ErrorInfo("QueryFailed", large)).message, seq=reply.seq)
            data = wire.dump_reply(reply)
        self._store.connection.send(subject, data)
        return reply
