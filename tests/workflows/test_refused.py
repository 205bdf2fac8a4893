"""What can't be is refused where it is said, with what to do instead, and nothing has been stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.workflows.definitions import Cart, arithmetic, double
from turnout import (
    Client,
    DefinitionError,
    History,
    InvalidState,
    InvalidValue,
    UnreadableRecord,
    Worker,
    WorkflowHandle,
    current_workflow,
    workflow,
    workflow_ref,
)
from turnout.testing import WorkflowEnvironment

Carts: Any = Cart.run
"""Untyped: most of what is tried here is what type checkers refuse."""


async def collected(listing: Any) -> list[Any]:
    return [each async for each in listing]


def plain(number: int) -> int:
    return number


async def never() -> bool:
    return False


OF_A_CLIENT: dict[str, tuple[Callable[[Any], Awaitable[Any]], str]] = {
    "a workflow is no job": (lambda c: c.submit(arithmetic, 1), "a workflow is started"),
    "nor by name": (lambda c: c.submit(workflow_ref("arithmetic"), {}), "is no activity"),
    "nor many of them": (lambda c: c.submit_many(arithmetic, [{"number": 1}]), "is no activity"),
    "nor a plain function": (lambda c: c.submit(plain, 1), "with @activity"),
    "nor nothing": (lambda c: c.submit(None), "None is no activity"),
    "an activity is no workflow": (lambda c: c.start(double, 1), "an activity is submitted"),
    "nor is a class": (lambda c: c.start(Cart, "ann"), "its run"),
    "nor a handler": (lambda c: c.start(Cart.add, "milk"), "is no workflow"),
    "a query is no signal": (lambda c: c.start(Carts.with_signal(Cart.count), "ann"), "<query count> is no signal"),
    "a signal is no update": (lambda c: c.start(Carts.with_update(Cart.add, "a"), "b"), "with @workflow.update"),
    "names of those listed": (lambda c: collected(c.workflows(name="a b")), "a workflow's name must match"),
    "what is listed": (lambda c: collected(c.workflows(name=Cart)), "its run"),
    "parents": (lambda c: collected(c.workflows(parent="a b")), "parent must match"),
    "labels": (lambda c: collected(c.workflows(label=3)), "label must be"),
    "labels without a key": (lambda c: collected(c.workflows(label="=a")), "label must be"),
    "nor for many at once": (lambda c: c.cancel_workflows(label=""), "label must be"),
    "pairs without a key": (lambda c: collected(c.jobs(label=("", "a"))), "label must be"),
    "instants": (lambda c: collected(c.workflows(since="yesterday")), "since must be"),
    "counted ones": (lambda c: c.count_workflows(parent=""), "parent must match"),
    "instants of jobs": (lambda c: collected(c.jobs(since="yesterday")), "since must be"),
    "labels of jobs": (lambda c: collected(c.jobs(label=("a",))), "label must be"),
    "activities of jobs": (lambda c: collected(c.jobs(activity=arithmetic)), "is no activity"),
}


@pytest.mark.parametrize("what", OF_A_CLIENT)
async def test_what_a_client_can_not_be_asked(client: Client, what: str) -> None:
    """Each is an InvalidValue that names what was given, or the parameter."""
    call, said = OF_A_CLIENT[what]
    with pytest.raises(InvalidValue, match=said):
        await call(client)
    assert sum((await client.count_workflows()).values()) == 0
    assert sum((await client.count()).values()) == 0


OF_A_HANDLE: dict[str, tuple[Callable[[Any], Awaitable[Any]], str]] = {
    "a query is no signal": (lambda h: h.signal(Cart.count), "<query count> is no signal"),
    "nor is a function": (lambda h: h.signal(plain, 1), "is no signal"),
    "a signal is no query": (lambda h: h.query(Cart.add, "milk"), "<signal add> is no query"),
    "an update is no query": (lambda h: h.query(Cart.replace, "milk"), "is no query"),
    "a signal is no update": (lambda h: h.update(Cart.add, "milk"), "<signal add> is no update"),
    "reasons of a cancel": (lambda h: h.cancel(3), "reason must be text"),
    "reasons of a terminate": (lambda h: h.terminate(None), "reason must be text"),
}


@pytest.mark.parametrize("what", OF_A_HANDLE)
async def test_what_a_workflow_can_not_be_asked(client: Client, what: str) -> None:
    """A handler is called as what it is, and a reason is a text: anything else is refused, and nothing is sent."""
    handle: WorkflowHandle[Any] = await client.start(Cart.run, "ann")
    before = len(await handle.history())
    call, said = OF_A_HANDLE[what]
    with pytest.raises(InvalidValue, match=said):
        await call(handle)
    assert len(await handle.history()) == before
    assert (await handle.info()).state == "running"


OF_ITS_CODE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an activity is no child": (lambda wf: wf.start_child(double, 1), "an activity is submitted"),
    "nor is nothing": (lambda wf: wf.start_child(None), "None is no workflow"),
    "ids of others": (lambda wf: wf.workflow("*"), "id must match"),
    "signals": (lambda wf: wf.receive("a b"), "a signal's name must match"),
    "queries are not received": (lambda wf: wf.receive(Cart.count), "<query count> is no signal"),
    "no first signal of a child": (lambda wf: Carts.with_signal(Cart.add, "a")("b"), "without a signal or an update"),
    "nor a first update": (lambda wf: wf.start_child(Carts.with_update(Cart.replace, "a"), "b"), "signal it behind"),
    "conditions are plain functions": (lambda wf: wf.wait_for(never), "not an async one"),
    "patches": (lambda wf: wf.patched(3), "a patch's id must be text"),
}


@workflow
async def asks(what: str) -> str:
    try:
        asked = OF_ITS_CODE[what][0](current_workflow())
        await asked
    except InvalidValue as error:
        return str(error)
    return "nothing was wrong"


@pytest.mark.parametrize("what", OF_ITS_CODE)
async def test_what_its_code_can_not_ask(what: str) -> None:
    """It is told at the line that asks, and reaches no other workflow."""
    async with WorkflowEnvironment(workflows=[asks]) as env:
        assert OF_ITS_CODE[what][1] in await (await env.start(asks, what)).result(timeout=30)


async def test_what_handles_are_made_of(client: Client) -> None:
    """With the definition of something else a handle would read the result by the wrong type."""
    untyped: Any = client
    with pytest.raises(InvalidValue, match="an activity is submitted"):
        untyped.workflow("w", double)
    with pytest.raises(InvalidValue, match="a workflow is started"):
        untyped.job("j", arithmetic)


@pytest.mark.parametrize(
    ("option", "value"), [("max_cached_workflows", -1), ("max_cached_workflows", "many"), ("pin", "yes")]
)
async def test_what_a_worker_can_not_be_told(client: Client, option: str, value: object) -> None:
    """It is refused at the construction, not when the first workflow comes."""
    options: Any = {option: value}
    with pytest.raises(InvalidValue, match=option):
        Worker(client, workflows=[arithmetic], **options)


def test_an_init_that_can_not_take_what_run_is_given() -> None:
    """It would leave each workflow stuck: the class is refused. One that takes more than it must is fine."""
    with pytest.raises(DefinitionError, match=r"must take what its run takes, or nothing: .*'customer'"):

        @workflow
        class Misfit:
            def __init__(self, customer: str) -> None: ...

            @workflow.run
            async def run(self, name: str) -> None: ...

    with pytest.raises(DefinitionError, match="must take what its run takes"):

        @workflow
        class Strict:
            def __init__(self, name: str) -> None: ...

            @workflow.run
            async def run(self, name: str = "ann") -> None: ...

    @workflow
    class Fits:
        def __init__(self, /, *args: Any, more: int = 1, **kwargs: Any) -> None: ...

        @workflow.run
        async def run(self, name: str, /, *, often: int = 2) -> None: ...

    @workflow
    class Takes:
        def __init__(self, name: str, often: int = 3) -> None: ...

        @workflow.run
        async def run(self, name: str, often: int = 2) -> None: ...

    assert Fits.run.make(("ann",), {"often": 3}) is not None
    assert Takes.run.make((), {"name": "ann"}) is not None


def test_a_validator_that_can_not_take_what_its_update_is_given() -> None:
    """It would reject every update, with a TypeError: the class is refused. Fewer defaults are a misfit as well."""
    misfits: list[Any] = [lambda self: None, lambda self, thing: None, lambda self, item, often: None]
    for validator in misfits:
        with pytest.raises(DefinitionError, match="validator of update put must take what the update takes"):

            class Misfit:
                @workflow.update
                def put(self, item: str, often: int = 1) -> None: ...

                put.validator(validator)

    class Fits:
        @workflow.update
        def put(self, item: str, often: int = 1) -> None: ...

        @put.validator
        def check(self, item: str, often: int = 2) -> None: ...

        @workflow.update
        async def take(self, item: str) -> None: ...

        take.validator(lambda self, *args, **kwargs: None)


def test_an_environment_is_given_activities() -> None:
    """What is not decorated is refused where it is given, as a worker does."""
    undecorated: Any = [plain]
    with pytest.raises(DefinitionError, match="is no activity: decorate it with @activity"):
        WorkflowEnvironment(workflows=[arithmetic], activities=undecorated)


async def test_one_thing_in_place_of_a_list(client: Client) -> None:
    """A worker and an environment that are given one workflow or activity say that they want a list."""
    one: Any
    for one in (arithmetic, Cart, "arithmetic"):
        with pytest.raises(DefinitionError, match=r"workflows must be a list, not .*: put it in brackets"):
            Worker(client, workflows=one)
    one = double
    with pytest.raises(DefinitionError, match=r"activities must be a list, not .*: put it in brackets"):
        Worker(client, activities=one)
    with pytest.raises(DefinitionError, match="activities must be a list"):
        WorkflowEnvironment(workflows=[arithmetic], activities=one)
    fakes: Any = {5: 5}
    with pytest.raises(DefinitionError, match="5 is no activity: a fake stands for an activity"):
        WorkflowEnvironment(workflows=[arithmetic], activities=fakes)


async def test_an_environment_is_entered_first() -> None:
    """Before it is entered it says so; the time at which it begins has a time zone."""
    env = WorkflowEnvironment(workflows=[arithmetic])
    with pytest.raises(InvalidState, match="async with WorkflowEnvironment"):
        await env.start(arithmetic, 1)
    with pytest.raises(InvalidState, match="enter the environment first"):
        await env.advance(1)
    with pytest.raises(InvalidState, match="enter the environment first"):
        env.now()
    given: Any
    for given in (dt.datetime(2026, 1, 1), 5):  # noqa: DTZ001
        with pytest.raises(InvalidValue, match="began_at must be a datetime with a time zone"):
            WorkflowEnvironment(workflows=[arithmetic], began_at=given)


def test_a_text_that_is_no_history() -> None:
    """The line is named that nothing can be made of."""
    with pytest.raises(UnreadableRecord, match="line 2: not a workflow's record of turnout: b'garbage'"):
        History.from_jsonl("\ngarbage\n")
