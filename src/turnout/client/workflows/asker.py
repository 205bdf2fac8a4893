"""Queries of a client: requests to whichever worker of the workflow answers first (W12)."""

from __future__ import annotations

import asyncio

import attrs

from turnout.client.workflows.reader import WorkflowReader
from turnout.client.workflows.sender import Sender
from turnout.errors import QueryFailed, UnreadableRecord, WorkflowNotFound
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


class Asker:
    """Asks workflows. Errors: QueryFailed, WorkflowNotFound, and those of the connection."""

    def __init__(self, store: Store, reader: WorkflowReader, sender: Sender) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender

    async def ask(self, workflow_id: str, life: str | None, query: str, payload: str, within_s: float) -> str:
        """The result of a query as JSON text. It knows of whatever this client has sent to the workflow before."""
        with asking("query", query, workflow_id) as traceparent:
            return await self._ask(workflow_id, life, query, payload, within_s, traceparent)

    async def _ask(
        self, workflow_id: str, life: str | None, query: str, payload: str, within_s: float, traceparent: str
    ) -> str:
        record = (await self._reader.newest(workflow_id)).record
        if life is not None and record.life != life:
            raise WorkflowNotFound(f"workflow {workflow_id} is gone; its id has been started again")
        question = wire.Question(
            id=workflow_id,
            query=query,
            payload=payload,
            life=record.life,
            after=self._sender.sent(workflow_id, record.life),
            within_s=within_s,
            nonce=self._store.chance.nonce(),
            traceparent=traceparent,
        )
        reached, limit = _Reached(), asyncio.timeout(within_s)
        try:
            async with limit:
                subject = self._store.names.query(record.name, record.summary.pin)
                reply = await self._answered(subject, question, reached)
        except TimeoutError:
            if not limit.expired():
                raise
            raise QueryFailed(reached.why(question, record.name, record.summary.pin)) from None
        if reply.result is None:
            raise QueryFailed(reply.failed or f"query {query} of workflow {workflow_id} failed")
        return reply.result

    async def _answered(self, subject: str, question: wire.Question, reached: _Reached) -> wire.Reply:
        """Ask until somebody answers: a worker that dies or freezes with the question never will.

        A query may be asked twice; whichever answer comes first is the answer. A worker that is at it already lets the
        second question be.
        """
        loop = asyncio.get_running_loop()
        deadline, patience = loop.time() + question.within_s, TRY_S[0]
        asked: set[asyncio.Future[Message]] = set()
        try:
            while True:
                asked |= await self._asked(subject, question, max(deadline - loop.time(), 0.01))
                done, asked = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    patience = min(patience * 2, TRY_S[1])
                    reached.nobody = False
                for each in done:
                    reply = _reply(each, reached)
                    if reply is not None:
                        return reply
                if done:
                    await asyncio.sleep(ASK_AGAIN_S)
        finally:
            for each in asked:
                each.cancel()

    async def _asked(self, subject: str, question: wire.Question, left_s: float) -> set[asyncio.Future[Message]]:
        """The question, on its way to one of the workers."""
        connection = self._store.connection
        await connection.wait_up()
        body = wire.dump_question(attrs.evolve(question, within_s=left_s))
        try:
            return {connection.request_nowait(subject, body, timeout_s=left_s)}
        except Disconnected:
            if connection.closed:
                raise
            return {asyncio.get_running_loop().create_future()}  # it has just gone down: ask again when it is up


def _reply(answer: asyncio.Future[Message], reached: _Reached) -> wire.Reply | None:
    """What an answer says; None where there is none. QueryFailed for what is no reply."""
    try:
        reply = wire.load_reply(answer.result().data)
    except NoResponders:
        reached.nobody = True
    except (RequestTimeout, Disconnected):
        return None
    except UnreadableRecord as error:
        raise QueryFailed(str(error)) from error
    else:
        return reply
    return None


class _Reached:
    """Whom the questions have reached, for whoever got no answer."""

    def __init__(self) -> None:
        self.nobody = False

    def why(self, question: wire.Question, name: str, build: str) -> str:
        about = f"query {question.query} of workflow {question.id} was not answered within {question.within_s:g} s"
        if self.nobody:
            which = f" of build {build}" if build else ""
            return f"{about}: no worker of workflow {name}{which} is alive"
        return f"{about}: with_timeout() gives it longer"
