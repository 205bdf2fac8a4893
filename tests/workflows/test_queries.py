"""Queries: answered from the state of the newest record, by whichever worker, and without changing anything."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    InvalidArguments,
    QueryFailed,
    Worker,
    WorkflowCancelled,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    current_workflow,
    workflow,
)
from turnout.nats.messages import Message
from turnout.testing import NatsServer, WorkflowEnvironment
from turnout.wire.queries import Question, Reply, dump_question, dump_reply


@workflow
class Mistaken:
    def __init__(self, number: int) -> None:
        self.share = 1 / number

    @workflow.run
    async def run(self, number: int) -> float:
        return self.share

    @workflow.query
    def part(self) -> float:
        return self.share


@activity
async def weigh(item: str) -> int:
    return len(item)


@workflow
class Parcel:
    def __init__(self, to: str) -> None:
        self.to = to
        self.items: list[str] = []
        self.weight = 0
        self.sent = asyncio.Event()
        self.draws: list[float] = []

    @workflow.run
    async def run(self, to: str) -> int:
        await self.sent.wait()
        return self.weight

    @workflow.signal
    async def add(self, item: str) -> None:
        self.weight += await weigh(item)
        self.items.append(item)

    @workflow.signal
    def put(self, item: str) -> None:
        if item == "poison":
            raise ZeroDivisionError("a bug of ours")
        self.items.append(item)

    @workflow.signal
    def draw(self) -> None:
        self.draws.append(current_workflow().random.random())

    @workflow.signal
    def send(self) -> None:
        self.sent.set()

    @workflow.signal
    def again(self) -> None:
        current_workflow().continue_as_new("carl")

    @workflow.query
    def content(self) -> list[str]:
        return self.items

    @workflow.query(name="weight")
    def weight_of(self, factor: int = 1) -> int:
        return self.weight * factor

    @workflow.query
    def address(self) -> str:
        return self.to

    @workflow.query
    def drawn(self) -> list[float]:
        return self.draws

    @functools.cached_property
    def label(self) -> str:
        return f"to {self.to}"

    @workflow.query
    def labelled(self) -> str:
        return self.label

    @workflow.query
    def chance(self) -> list[float]:
        return [random.random(), random.random()]

    @workflow.query
    def broken(self) -> int:
        raise LookupError("no such thing")

    @workflow.query
    def eats(self) -> None:
        self.items.clear()

    @workflow.query
    def sets(self) -> None:
        self.to = "nobody"

    @workflow.query
    def wakes(self) -> None:
        self.sent.set()

    @workflow.query
    def starts(self) -> None:
        _background.append(asyncio.ensure_future(asyncio.sleep(0)))

    @workflow.query
    def calls(self) -> None:
        _background.append(weigh("x"))

    @workflow.query
    def waits(self) -> None:
        asyncio.get_running_loop().call_later(1, print)

    @workflow.query
    def rolls(self) -> float:
        return current_workflow().random.random()

    @workflow.query
    def names(self) -> str:
        return str(uuid.uuid4())

    @workflow.query
    def tells(self) -> None:
        current_workflow().set_details("changed")

    @workflow.query
    def first(self) -> str:
        return self.items[0]

    @workflow.query
    def large(self, size: int) -> str:
        return "x" * size


_background: list[Any] = []


@workflow
async def bare() -> str:
    word: str = await current_workflow().receive("word", str)
    return word


ALL: list[Any] = [Parcel, Mistaken, bare]


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=[weigh], workflows=ALL) as started:
        yield started


async def test_a_query_sees_what_its_asker_has_sent(client: Client, worker: Worker) -> None:
    """A query that follows one's own signals knows of all of them, whichever handle they went through."""
    handle = await client.start(Parcel.run, "ann")
    for n in range(20):
        await handle.signal(Parcel.put, f"item {n}")
        assert len(await client.workflow(handle.id, Parcel.run).query(Parcel.content)) == n + 1


async def test_queries_by_name_and_with_arguments(client: Client, worker: Worker) -> None:
    """A query is asked by its method, typed, or by its name with a payload."""
    handle = await client.start(Parcel.run, "ann")
    await handle.signal(Parcel.add, "teapot")
    await until(lambda: _weight(client, handle.id))
    assert await handle.query(Parcel.weight_of, 2) == 12
    assert await handle.query("weight", {"factor": 3}) == 18
    assert await handle.query("weight") == 6
    assert await handle.query(Parcel.labelled) == "to ann"
    untyped: Any = handle
    with pytest.raises(InvalidArguments):
        await untyped.query(Parcel.weight_of, 1, 2)


async def _weight(client: Client, workflow_id: str) -> int:
    answer: int = await client.workflow(workflow_id).query("weight")
    return answer


async def test_before_the_first_task(client: Client) -> None:
    """Before run begins the state is what `__init__` makes of the arguments; a signal that rode along is waited for."""
    handle = await client.start(Parcel.run.options(delay=60), "ann")
    first = await client.start(Parcel.run.with_signal(Parcel.put, "cup"), "bob")
    async with Worker(client, workflows=ALL):
        assert await handle.query(Parcel.address) == "ann"
        assert await handle.query(Parcel.content) == []
        assert await first.query(Parcel.content) == ["cup"]


async def test_ended_and_continued_ones_answer(client: Client, worker: Worker) -> None:
    """An ended workflow answers from its last state; one that has continued as new from its new run's."""
    handle = await client.start(Parcel.run, "ann")
    await handle.signal(Parcel.put, "cup")
    await handle.signal(Parcel.again)
    assert await handle.query(Parcel.address) == "carl"
    assert await handle.query(Parcel.content) == []
    await handle.signal(Parcel.put, "pot")
    await handle.signal(Parcel.send)
    await handle.result(timeout=30)
    assert await handle.query(Parcel.content) == ["pot"]
    other = await client.start(Parcel.run, "bob")
    await other.signal(Parcel.put, "can")
    assert await other.query(Parcel.content) == ["can"]
    await other.terminate("enough")
    assert await other.query(Parcel.content) == ["can"]
    await other.delete()
    with pytest.raises(WorkflowNotFound):
        await other.query(Parcel.content)


@pytest.mark.parametrize("worked", [True, False])
async def test_one_that_never_began_answers(client: Client, worked: bool) -> None:
    """One that was cancelled or terminated before it began tells what `__init__` makes of its arguments."""
    cancelled = await client.start(Parcel.run.options(delay=60), "ann")
    ended = await client.start(Parcel.run.options(delay=60), "bob")
    if not worked:
        await ended.terminate("too late")
    async with Worker(client, workflows=ALL):
        await cancelled.cancel("not needed")
        if worked:
            await ended.terminate("too late")
        for handle in (cancelled, ended):
            with pytest.raises((WorkflowCancelled, WorkflowTerminated)):
                await handle.result(timeout=60)
        assert (await cancelled.query(Parcel.address), await ended.query(Parcel.address)) == ("ann", "bob")
        assert await cancelled.query(Parcel.content) == []


async def test_a_stuck_one_answers(client: Client, worker: Worker) -> None:
    """The state of a stuck workflow is that before the input which broke it; what lies behind is not waited for."""
    handle = await client.start(Parcel.run, "ann")
    await handle.signal(Parcel.put, "cup")
    await handle.signal(Parcel.put, "poison")
    await until(lambda: _is_stuck(client, handle.id))
    await handle.signal(Parcel.put, "pot")
    assert await handle.query(Parcel.content) == ["cup"]


async def _is_stuck(client: Client, workflow_id: str) -> bool:
    return (await client.workflow(workflow_id).info()).state == "stuck"


async def test_what_can_not_be_asked(client: Client, worker: Worker) -> None:
    """An unknown query lists the known ones; a misfit says where; what a handler raises is the caller's alone."""
    handle = await client.start(Parcel.run, "ann")
    with pytest.raises(QueryFailed, match="no query nothing in workflow Parcel; known: address, broken, calls, chance"):
        await handle.query("nothing")
    with pytest.raises(QueryFailed, match="factor"):
        await handle.query("weight", {"factor": "x"})
    with pytest.raises(QueryFailed, match="LookupError: no such thing"):
        await handle.query(Parcel.broken)
    with pytest.raises(QueryFailed, match="over the server's limit"):
        await handle.query(Parcel.large, 2_000_000)
    assert len(await handle.query(Parcel.large, 500_000)) == 500_000
    function = await client.start(bare)
    with pytest.raises(QueryFailed, match="known: none"):
        await function.query("count")
    with pytest.raises(WorkflowNotFound):
        await client.workflow("nothing").query("count")
    assert await handle.query(Parcel.content) == []


@pytest.mark.parametrize("name", ["eats", "sets", "wakes", "starts", "calls", "waits", "rolls", "names", "tells"])
async def test_a_query_changes_nothing(client: Client, worker: Worker, name: str) -> None:
    """A query that gives a command, draws chance, wakes code or sets an attribute fails, and the state is as before."""
    handle = await client.start(Parcel.run, "ann")
    await handle.signal(Parcel.put, "cup")
    assert await handle.query(Parcel.content) == ["cup"]
    before = len(await handle.history())
    with pytest.raises(QueryFailed, match="a query may change nothing"):
        await handle.query(name)
    assert await handle.query(Parcel.content) == ["cup"]
    assert await handle.query(Parcel.address) == "ann"
    info = await handle.info()
    assert (info.state, info.details) == ("running", "")
    assert len(await handle.history()) == before
    await handle.signal(Parcel.send)
    assert await handle.result(timeout=30) == 0


async def test_chance_is_the_workflows_own(client: Client, worker: Worker) -> None:
    """What a query draws from the module `random` is drawn from a copy: the workflow draws what it would have drawn."""
    handle = await client.start(Parcel.run, "ann")
    expected = await handle.query(Parcel.chance)
    assert await handle.query(Parcel.chance) == expected
    await handle.signal(Parcel.draw)
    await handle.signal(Parcel.draw)
    assert await handle.query(Parcel.drawn) == expected


async def test_another_worker_answers_from_the_history(client: Client) -> None:
    """Where the worker that has run the workflow is gone, another one replays it; while none is alive one waits."""
    handle = await client.start(Parcel.run, "ann")
    async with Worker(client, activities=[weigh], workflows=ALL):
        await handle.signal(Parcel.put, "cup")
        assert await handle.query(Parcel.content) == ["cup"]
    with pytest.raises(QueryFailed, match="no worker of workflow Parcel is alive"):
        await handle.with_timeout(0.3).query(Parcel.content)
    asked = asyncio.ensure_future(handle.query(Parcel.content))
    async with Worker(client, activities=[weigh], workflows=ALL):
        assert await asked == ["cup"]


async def test_two_workers_share_the_queries(client: Client) -> None:
    """Each query is answered once, by either of two workers, and both know the newest state."""
    handle = await client.start(Parcel.run, "ann")
    async with Worker(client, workflows=ALL), Worker(client, workflows=ALL):
        for n in range(10):
            await handle.signal(Parcel.put, f"item {n}")
            answers = await asyncio.gather(*(handle.query(Parcel.content) for _ in range(4)))
            assert [len(each) for each in answers] == [n + 1] * 4


async def test_no_client_is_told_less_than_another(client: Client, server: NatsServer) -> None:
    """What a query has told one client, the next query of any client knows as well, whichever worker's cache is old."""
    handle = await client.start(Parcel.run, "ann")
    async with (
        Client.connect(server.url, namespace=client.namespace) as other,
        Worker(client, workflows=ALL),
        Worker(other, workflows=ALL),
    ):
        theirs = other.workflow(handle.id, Parcel.run)
        for _ in range(8):  # both workers have it in their caches
            with pytest.raises(QueryFailed, match="IndexError"):
                await handle.query(Parcel.first)
        for n in range(10):
            await theirs.signal(Parcel.put, f"item {n}")
            assert len(await theirs.query(Parcel.content)) == n + 1
            assert [len(await handle.query(Parcel.content)) for _ in range(4)] == [n + 1] * 4
            assert [await handle.query(Parcel.first) for _ in range(4)] == ["item 0"] * 4


async def test_what_a_worker_knew_is_not_enough(client: Client) -> None:
    """An answer that tells of a record before the newest is none: a worker is asked once more, to look for itself."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    heard: list[bool] = []

    def answer(message: Message) -> None:
        compares = json.loads(message.data)["compares"]
        heard.append(compares)
        reply = Reply(result='"old"', seq=1) if compares else Reply(result='"new"')
        connection.send(message.reply, dump_reply(reply))

    await client.start(Parcel.run.options(id="before"), "bob")
    await client.workflow("before").terminate()
    later = await client.start(Parcel.run, "carl")
    answering = await connection.subscribe(names.query("Parcel"), answer, queue="workers")
    assert await handle.query(Parcel.address) == "old"
    assert await later.query(Parcel.address) == "new"
    assert heard == [True, True, False]
    await answering.close()


async def test_a_cached_one_is_looked_at_once(client: Client, worker: Worker, server: NatsServer) -> None:
    """The newest record is read by the asker alone, while a worker answers from its cache."""
    handle = await client.start(Parcel.run, "ann")
    await handle.signal(Parcel.put, "cup")
    assert await handle.query(Parcel.content) == ["cup"]
    await until(lambda: _is_covered(client, handle.id))
    looks: list[bytes] = []
    async with Client.connect(server.url, namespace=client.namespace) as listener:
        api = f"$JS.API.DIRECT.GET.{client.store.names.history}"
        listening = await listener.store.connection.subscribe(api, lambda message: looks.append(message.data))
        for _ in range(3):
            assert await handle.query(Parcel.content) == ["cup"]
        await listener.store.connection.flush()
        await listening.close()
    assert [handle.id.encode() in each for each in looks] == [True] * 3


async def _is_covered(client: Client, workflow_id: str) -> bool:
    """Whether nothing lies in the inbox any more."""
    names = client.store.names
    subject = names.input("Parcel", workflow_id, ">")
    return await client.store.connection.get_message(names.inbox, next_by_subj=subject) is None


async def test_another_life_of_the_id(client: Client, worker: Worker, server: NatsServer) -> None:
    """Who has asked a workflow before asks the one that lives under its id now; the old one is gone."""
    first = await client.start(Parcel.run.options(id="p"), "ann")
    by_id = client.workflow("p")
    await first.signal(Parcel.put, "cup")
    assert await by_id.query("address") == "ann"
    async with Client.connect(server.url, namespace=client.namespace) as other:
        await other.start(Parcel.run.options(id="p", if_exists="replace"), "bob")
        assert await by_id.query("address") == "bob"
        with pytest.raises(WorkflowNotFound, match="started again"):
            await first.query(Parcel.address)
        await other.workflow("p").terminate()
        await other.workflow("p").delete()
        with pytest.raises(WorkflowNotFound, match="no workflow p"):
            await by_id.query("address")
        await other.start(Mistaken.run.options(id="p"), 2)
        assert await by_id.query("part") == 0.5


async def test_a_question_that_its_worker_has_lost(client: Client) -> None:
    """A worker that takes a question and says nothing is not waited for: it is asked once more, of another one."""
    handle = await client.start(Parcel.run, "ann")
    swallowed = asyncio.Event()
    names, connection = client.store.names, client.store.connection
    silent = await connection.subscribe(names.query("Parcel"), lambda _: swallowed.set(), queue="workers")
    asked = asyncio.ensure_future(handle.query(Parcel.address))
    await swallowed.wait()
    await silent.close()
    async with Worker(client, activities=[weigh], workflows=ALL):
        assert await asked == "ann"


async def test_a_silent_worker_is_told_from_none(client: Client) -> None:
    """Whoever gets no answer learns whether there was nobody to ask, or somebody who said nothing."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    silent = await connection.subscribe(names.query("Parcel"), lambda _: None, queue="workers")
    with pytest.raises(QueryFailed, match=r"within 1.5 s: with_timeout\(\)"):
        await handle.with_timeout(1.5).query(Parcel.address)
    await silent.close()
    with pytest.raises(QueryFailed, match="no worker of workflow Parcel is alive"):
        await handle.with_timeout(0.3).query(Parcel.address)


async def test_one_without_a_state_says_why(client: Client, worker: Worker) -> None:
    """Where `__init__` can't make an object of the arguments, the query says what it raised."""
    broken = await client.start(Mistaken.run, 0)
    await until(lambda: _is_stuck(client, broken.id))
    with pytest.raises(QueryFailed, match="ZeroDivisionError"):
        await broken.query(Mistaken.part)
    misfit = await client.start("Mistaken", {"number": "x"})
    with pytest.raises(QueryFailed, match="number"):
        await misfit.query("part")


async def test_garbage_is_no_question(client: Client, worker: Worker) -> None:
    """What anybody publishes there is answered with what is wrong about it, and harms nothing."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    for body in (b"", b"{", b"[]", b'{"v": 1}', b'{"v": 99, "id": "x", "query": "y", "payload": "{}"}'):
        answer = await connection.request(names.query("Parcel"), body)
        assert json.loads(answer.data)["failed"]
        connection.send(names.query("Parcel"), body)
    assert await handle.query(Parcel.address) == "ann"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"v": 1, "result": "1", "seq": "x"}', b'{"v": 1, "result": "1", "seq": []}']
)
async def test_garbage_is_no_answer(client: Client, body: bytes) -> None:
    """What is no reply of a worker fails the query."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    answering = await connection.subscribe(names.query("Parcel"), lambda each: connection.send(each.reply, body))
    with pytest.raises(QueryFailed, match="not the answer to a query"):
        await handle.query(Parcel.address)
    await answering.close()


async def test_queries_in_the_test_environment() -> None:
    """Without a server queries answer as they do with one."""
    async with WorkflowEnvironment(workflows=ALL, activities=[weigh]) as env:
        handle = await env.start(Parcel.run, "ann")
        await handle.signal(Parcel.put, "cup")
        assert await handle.query(Parcel.content) == ["cup"]
        with pytest.raises(QueryFailed, match="a query may change nothing"):
            await handle.query(Parcel.eats)
        await handle.signal(Parcel.send)
        assert await handle.result() == 0
        assert await handle.query(Parcel.content) == ["cup"]


async def test_a_worker_that_stops_waits_for_nobodys_signals(client: Client) -> None:
    """A question that waits until a signal is taken does not hold up a worker that stops; it is left to others."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    worker = Worker(client, activities=[weigh], workflows=ALL)
    await worker.start()
    assert await handle.query(Parcel.address) == "ann"
    lying = await connection.store(names.input("Nobody", handle.id, "signal", "put"), b"{}")
    question = Question(id=handle.id, query="address", payload="{}", after=lying.seq, within_s=120)
    asked = connection.request_nowait(names.query("Parcel"), dump_question(question), timeout_s=120)
    await connection.flush()
    async with asyncio.timeout(30):
        await worker.stop(grace=0)
    assert not asked.done()
    asked.cancel()


async def test_a_question_waits_no_longer_than_its_asker(client: Client, worker: Worker) -> None:
    """Where what was sent before is not taken in the asker's time, it is told so rather than left to wait."""
    handle = await client.start(Parcel.run, "ann")
    names, connection = client.store.names, client.store.connection
    lying = await connection.store(names.input("Nobody", handle.id, "signal", "put"), b"{}")
    question = Question(id=handle.id, query="address", payload="{}", after=lying.seq, within_s=0.5)
    answer = await connection.request(names.query("Parcel"), dump_question(question))
    assert "what was sent before it is not taken yet" in json.loads(answer.data)["failed"]
