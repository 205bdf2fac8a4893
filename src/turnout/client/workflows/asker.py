"""Queries of a client: requests to whichever worker of the workflow answers first (W12).

A worker that has the workflow in its cache answers without a look at the newest record, and says of which one it tells.
The client looks itself, and compares: one trip where it knows whom to ask, since both are on their way at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict

import attrs

from turnout.client.workflows.reader import WorkflowReader, refuse_another
from turnout.client.workflows.sender import Sender
from turnout.core.evolve import evolve
from turnout.errors import QueryFailed, UnreadableRecord
from turnout.nats.connection import Disconnected, RequestTimeout
from turnout.nats.messages import Message, NoResponders
from turnout.store.perform import Store
from turnout.telemetry.questions import asking
from turnout.wire import queries as wire

WITHIN_S = 10.0
ASK_AGAIN_S = 0.1
"""After how long a namespace without a worker of the workflow is asked again."""

TRY_S = (1.0, 2.0)
"""After how long without an answer the question is asked once more, maybe of another worker: at first, and at most."""


KNOWN_MOST = 10_000
"""Of how many workflows it is remembered whom to ask about them."""


@attrs.frozen
class Whom:
    """Whom a question goes to, the workers of this workflow or those of one build, and which life it is about."""

    name: str
    build: str
    life: str


class Asker:
    """Asks workflows. Errors: QueryFailed, WorkflowNotFound, and those of the connection."""

    def __init__(self, store: Store, reader: WorkflowReader, sender: Sender) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender
        self._known: OrderedDict[str, Whom] = OrderedDict()

    async def ask(self, workflow_id: str, life: str | None, query: str, payload: str, within_s: float) -> str:
        """The result of a query as JSON text. It knows of whatever this client has sent to the workflow before."""
        with asking("query", query, workflow_id) as traceparent:
            question = wire.Question(
                id=workflow_id, query=query, payload=payload, within_s=within_s, traceparent=traceparent
            )
            questions = _Questions(self._store, self._sender, question)
            try:
                reply = await self._ask(questions, life)
            finally:
                questions.forget()
            if reply.result is None:
                raise QueryFailed(reply.failed or f"query {query} of workflow {workflow_id} failed")
            return reply.result

    async def _ask(self, questions: _Questions, life: str | None) -> wire.Reply:
        workflow_id, within_s = questions.id, questions.within_s
        await self._store.connection.wait_up(timeout_s=within_s)
        known = self._known.get(workflow_id)
        if known is not None and life in (None, known.life):
            questions.ask(known)
        seq, newest = await self._reader.entry(workflow_id)
        refuse_another(workflow_id, newest.life, life)
        whom = Whom(newest.name, newest.summary.pin, newest.life)
        if not newest.begins:  # the first task of a run may pin it
            self._know(workflow_id, whom)
        limit = asyncio.timeout(within_s)
        try:
            async with limit:
                if questions.whom != whom:
                    questions.ask(whom)
                reply = await questions.reply()
                if 0 < reply.seq < seq:  # another worker has gone on since that one had it
                    questions.ask(whom, counted=True)
                    reply = await questions.reply()
                return reply
        except TimeoutError:
            if not limit.expired():
                raise
            raise QueryFailed(questions.unanswered()) from None

    def _know(self, workflow_id: str, whom: Whom) -> None:
        self._known[workflow_id] = whom
        self._known.move_to_end(workflow_id)
        if len(self._known) > KNOWN_MOST:
            self._known.popitem(last=False)


class _Questions:
    """A query on its way to one worker after the other: one that dies or freezes with it never answers.

    It may be asked twice; whichever answer comes first is the answer. A worker that is at it already lets the second
    question be.
    """

    def __init__(self, store: Store, sender: Sender, question: wire.Question) -> None:
        self._store = store
        self._sender = sender
        self._question = question
        self._asked: set[asyncio.Future[Message]] = set()
        self._nobody = False
        self.id = question.id
        self.within_s = question.within_s
        self.whom: Whom | None = None

    def ask(self, whom: Whom, *, counted: bool = False) -> None:
        """Ask them from now on, and nobody who was asked before; `counted`: they knew too little, and are to read."""
        self.forget()
        self.whom = whom
        self._question = evolve(
            self._question,
            life=whom.life,
            after=self._sender.sent(self.id, whom.life),
            nonce=self._store.chance.nonce(),
            compares=not counted,
            counted=counted,
        )
        with contextlib.suppress(Disconnected):
            self._send(self.within_s)

    async def reply(self) -> wire.Reply:
        """What the first answer says. QueryFailed for what is no reply."""
        loop = asyncio.get_running_loop()
        deadline, patience = loop.time() + self.within_s, TRY_S[0]
        if not self._asked:
            await self._again(self.within_s)
        while True:
            done, self._asked = await asyncio.wait(self._asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                patience = min(patience * 2, TRY_S[1])
                self._nobody = False
            for each in done:
                reply = self._said(each)
                if reply is not None:
                    return reply
            if done:
                await asyncio.sleep(ASK_AGAIN_S)
            await self._again(max(deadline - loop.time(), 0.01))

    async def _again(self, left_s: float) -> None:
        connection = self._store.connection
        await connection.wait_up()
        try:
            self._send(left_s)
        except Disconnected:
            if connection.closed:
                raise
            self._asked.add(asyncio.get_running_loop().create_future())  # it has just gone down: when it is up again

    def _send(self, left_s: float) -> None:
        assert self.whom is not None
        subject = self._store.names.query(self.whom.name, self.whom.build)
        body = wire.dump_question(evolve(self._question, within_s=left_s))
        self._asked.add(self._store.connection.request_nowait(subject, body, timeout_s=left_s))

    def _said(self, answer: asyncio.Future[Message]) -> wire.Reply | None:
        """What an answer says; None where there is none."""
        try:
            return wire.load_reply(answer.result().data)
        except NoResponders:
            self._nobody = True
        except (RequestTimeout, Disconnected):
            pass
        except UnreadableRecord as error:
            raise QueryFailed(str(error)) from error
        return None

    def forget(self) -> None:
        """Wait for no answer any more."""
        for each in self._asked:
            if not each.cancel() and not each.cancelled():
                each.exception()  # it is known, and told by nobody
        self._asked = set()

    def unanswered(self) -> str:
        """Why there is no answer."""
        assert self.whom is not None
        about = f"query {self._question.query} of workflow {self.id} was not answered within {self.within_s:g} s"
        if self._nobody:
            which = f" of build {self.whom.build}" if self.whom.build else ""
            return f"{about}: no worker of workflow {self.whom.name}{which} is alive"
        return f"{about}: with_timeout() gives it longer"
