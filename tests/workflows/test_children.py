"""Children and other workflows: how each ends, what the parent's end does to them, what is told to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double, nap
from turnout import (
    Client,
    Fatal,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowTerminated,
    current_workflow,
    workflow,
)
from turnout.core.spec import Body
from turnout.core.workflows.values import EndKind, InputKind
from turnout.store.commit import Committer
from turnout.store.others import Others
from turnout.testing import replay


@workflow
async def waiting(answer: str) -> str:
    """Returns the next signal `go`, or what it was started with if it is cancelled."""
    return f"{answer}:{await current_workflow().receive('go', str)}"


@workflow
async def parent_of(close: Any, end: str) -> str:
    ref: Any = waiting.options(id=f"child-{close}", parent_close=close)
    child = await current_workflow().start_child(ref, "a")
    await current_workflow().receive("end")
    if end == "continue" and current_workflow().run == 1:
        current_workflow().continue_as_new(f"{close}2", "return")
    return child.id


@workflow
async def chatting() -> list[str]:
    """A parent that talks to its child and to others."""
    child = await current_workflow().start_child(waiting.options(id="kid"), "a")
    await child.signal("go", "b")
    heard = [await child.result()]
    for act in (child.signal("go", "c"), child.cancel(), current_workflow().workflow("nobody").signal("go", "x")):
        try:
            await act
        except (WorkflowEnded, WorkflowNotFound) as error:
            heard.append(type(error).__name__)
    return heard


@workflow
async def asking(other: str) -> str:
    """Awaits the end of a workflow that is not its own."""
    try:
        return str(await current_workflow().workflow(other).result())
    except (WorkflowCancelled, WorkflowTerminated, WorkflowNotFound, WorkflowFaulted) as error:
        return type(error).__name__


@workflow
async def stopping(other: str) -> str:
    await current_workflow().workflow(other).cancel("because")
    return "asked"


@workflow
async def starting(child: str, if_exists: Any) -> str:
    ref: Any = waiting.options(id=child, if_exists=if_exists)
    return str(await ref("own"))


@workflow
async def impatient(child: str) -> str:
    """Gives its child up after a moment."""
    try:
        async with asyncio.timeout(0.2):
            await waiting.options(id=child)("a")
    except TimeoutError:
        return "gave up"
    return "?"


@workflow
async def hasty(close: Any) -> str:
    """Starts a child, and is interrupted before it is there."""
    ref: Any = waiting.options(id=f"hasty-{close}", parent_close=close)
    task = asyncio.ensure_future(current_workflow().start_child(ref, "a"))
    await asyncio.sleep(0)
    task.cancel()
    await double(1)
    return "ok"


@workflow
async def unbegun() -> str:
    """Asks for a child and takes it back in the same breath, and for one that it takes back right behind."""
    task = asyncio.ensure_future(waiting.options(id="unbegun")("a"))
    await asyncio.sleep(0)
    task.cancel()
    await double(1)
    return "ok"


FAMILY: list[Any] = [waiting, parent_of, chatting, asking, stopping, starting, impatient, unbegun, hasty]


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=[double, nap], workflows=FAMILY) as started:
        yield started


async def _is(client: Client, workflow_id: str, state: str) -> bool:
    try:
        return (await client.workflow(workflow_id).info()).state == state
    except WorkflowNotFound:
        return False


@pytest.mark.parametrize(("close", "state"), [("cancel", "cancelled"), ("terminate", "terminated")])
async def test_the_end_of_a_parent_ends_its_children(client: Client, worker: Worker, close: str, state: str) -> None:
    """A child that still runs is cancelled or terminated with its parent, as its parent_close says."""
    handle = await client.start(parent_of, close, "return")
    await until(lambda: _is(client, f"child-{close}", "running"))
    await handle.signal("end")
    assert await handle.result(timeout=30) == f"child-{close}"
    assert await until(lambda: _is(client, f"child-{close}", state))


async def test_an_abandoned_child_goes_on(client: Client, worker: Worker) -> None:
    """With parent_close="abandon" the end of the parent is nothing to the child."""
    handle = await client.start(parent_of, "abandon", "return")
    await until(lambda: _is(client, "child-abandon", "running"))
    await handle.signal("end")
    await handle.result(timeout=30)
    child = client.workflow("child-abandon")
    await child.signal("go", "on")
    assert await child.result(timeout=30) == "a:on"


@pytest.mark.parametrize("end", ["terminate", "cancel", "continue"])
async def test_every_end_of_a_parent_counts(client: Client, worker: Worker, end: str) -> None:
    """Terminated, cancelled or continued as new: the run takes back what it waits for."""
    handle = await client.start(parent_of, "cancel", end)
    await until(lambda: _is(client, "child-cancel", "running"))
    if end == "terminate":
        await handle.terminate()
    elif end == "cancel":
        await handle.cancel()
    else:
        await handle.signal("end")
    assert await until(lambda: _is(client, "child-cancel", "cancelled"))


async def test_a_parent_talks_to_its_child(client: Client, worker: Worker) -> None:
    """start_child returns when the child is there; signals reach it; what comes too late says so in the parent."""
    handle = await client.start(chatting)
    assert await handle.result(timeout=30) == ["a:b", "WorkflowEnded", "WorkflowEnded", "WorkflowNotFound"]


async def test_the_end_of_another_workflow(client: Client, worker: Worker) -> None:
    """Whoever asks for the end of another is told, however it ends, and whether it was asked before or after."""
    await client.start(waiting.options(id="one"), "a")
    first = await client.start(asking, "one")
    second = await client.start(asking, "one")
    await until(lambda: _waits(client, first.id))
    await client.workflow("one").signal("go", "b")
    assert await first.result(timeout=30) == "a:b"
    assert await second.result(timeout=30) == "a:b"
    assert await (await client.start(asking, "one")).result(timeout=30) == "a:b"
    assert await (await client.start(asking, "nobody")).result(timeout=30) == "WorkflowNotFound"
    await client.start(waiting.options(id="two"), "a")
    third = await client.start(asking, "two")
    await until(lambda: _waits(client, third.id))
    await client.workflow("two").terminate()
    assert await third.result(timeout=30) == "WorkflowTerminated"


async def _waits(client: Client, workflow_id: str) -> bool:
    return bool((await client.workflow(workflow_id).info()).waiting)


async def test_a_workflow_cancels_another(client: Client, worker: Worker) -> None:
    """wf.workflow(id).cancel returns when the other one has been asked."""
    other = await client.start(waiting.options(id="one"), "a")
    assert await (await client.start(stopping, "one")).result(timeout=30) == "asked"
    with pytest.raises(WorkflowCancelled, match="because"):
        await other.result(timeout=30)
    with pytest.raises(WorkflowFaulted, match="has ended"):
        await (await client.start(stopping, "one")).result(timeout=30)


@pytest.mark.parametrize(
    ("kind", "what", "state"), [(InputKind.signal, "go", "completed"), (InputKind.cancel, "", "cancelled")]
)
async def test_what_has_ended_another_workflow_was_taken(
    client: Client, worker: Worker, kind: InputKind, what: str, state: str
) -> None:
    """Sent again by whoever goes on for a dead worker, it is told as taken; what is sent only then is too late."""
    await client.start(waiting.options(id="other"), "a")
    await until(lambda: _is(client, "other", "running"))
    others, body = Others(client.store, Committer(client.store).commit), Body(text='"b"', size=3)
    assert (await others.send("other", kind, what, body, "first")).kind is EndKind.completed
    assert await until(lambda: _is(client, "other", state))
    assert (await others.send("other", kind, what, body, "first")).kind is EndKind.completed
    assert (await others.send("other", kind, what, body, "second")).kind is EndKind.ended


async def test_a_taken_id_of_a_child(client: Client, worker: Worker) -> None:
    """A child whose id is taken raises in its parent, joins the other one, or replaces it."""
    other = await client.start(waiting.options(id="one"), "a")
    with pytest.raises(WorkflowFaulted, match="exists already"):
        await (await client.start(starting, "one", "raise")).result(timeout=30)
    joined = await client.start(starting, "one", "join")
    await until(lambda: _waits(client, joined.id))
    await other.signal("go", "b")
    assert await joined.result(timeout=30) == "a:b"
    assert await (await client.start(starting, "one", "join")).result(timeout=30) == "a:b"


async def test_a_joined_child_is_not_touched(client: Client, worker: Worker) -> None:
    """parent_close says nothing about what was joined: it goes on when its joiner ends."""
    other = await client.start(waiting.options(id="one"), "a")
    joined = await client.start(starting, "one", "join")
    await until(lambda: _waits(client, joined.id))
    await joined.cancel()
    with pytest.raises(WorkflowCancelled):
        await joined.result(timeout=30)
    await other.signal("go", "b")
    assert await other.result(timeout=30) == "a:b"


async def test_a_child_that_is_given_up(client: Client, worker: Worker) -> None:
    """A child whose parent waits no longer is cancelled."""
    assert await (await client.start(impatient, "kid")).result(timeout=30) == "gave up"
    assert await until(lambda: _is(client, "kid", "cancelled"))


async def test_a_child_that_was_never_begun(client: Client, worker: Worker) -> None:
    """Asked for and taken back in one task, it has its final record, and a late start of it finds that."""
    assert await (await client.start(unbegun)).result(timeout=30) == "ok"
    assert await until(lambda: _is(client, "unbegun", "cancelled"))


@pytest.mark.parametrize(("close", "state"), [("cancel", "cancelled"), ("abandon", "running")])
async def test_a_child_whose_start_was_interrupted(client: Client, worker: Worker, close: str, state: str) -> None:
    """Nobody has a handle on it: it is cancelled, unless it is to go on whatever becomes of its parent."""
    assert await (await client.start(hasty, close)).result(timeout=30) == "ok"
    assert await until(lambda: _is(client, f"hasty-{close}", state))


async def test_a_child_replaces_what_has_its_id(client: Client, worker: Worker) -> None:
    """if_exists="replace": the one that runs is terminated, and the child is begun anew under its id."""
    other = await client.start(waiting.options(id="one"), "a")
    handle = await client.start(starting, "one", "replace")

    async def replaced() -> bool:
        return [info.id async for info in client.workflows(parent=handle.id)] == ["one"]

    assert await until(replaced)
    with pytest.raises(WorkflowNotFound):
        await other.result(timeout=30)
    await client.workflow("one").signal("go", "b")
    assert await handle.result(timeout=30) == "own:b"


@workflow
async def failing(word: str) -> str:
    raise Fatal(f"not {word}")


@workflow
async def looking() -> list[Any]:
    """What the errors of a child that was called, of one that was started and of one that was joined tell of it."""
    wf, found = current_workflow(), list[Any]()
    once = failing.options(labels={"kind": "called"})
    started = await wf.start_child(failing.options(id=f"{wf.id}-2"), "two")
    for end in (once("one"), started.result(), failing.options(id=f"{wf.id}-2", if_exists="join")("three")):
        try:
            await end
        except WorkflowFaulted as error:
            info = error.info
            since = (info.started_at - wf.started_at).total_seconds()
            found.append([info.name, info.state, info.parent == wf.id, info.payload, info.labels, 0 <= since < 3600])
    return found


async def test_the_error_of_a_child_tells_of_it(client: Client) -> None:
    """Its info has the child's name, when it was asked for, and unless it was joined its parent, payload and labels."""
    async with Worker(client, workflows=[failing, looking]):
        handle = await client.start(looking)
        assert await handle.result(timeout=30) == [
            ["failing", "faulted", True, {"word": "one"}, {"kind": "called"}, True],
            ["failing", "faulted", True, {"word": "two"}, {}, True],
            ["failing", "faulted", False, None, {}, True],
        ]
        await replay(await handle.history(), workflows=[failing, looking])
