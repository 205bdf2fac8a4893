"""`Worker(verify=...)`: code that depends on more than its history is told of while nothing has gone wrong yet."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double
from turnout import Client, InvalidValue, Worker, WorkflowState, current_workflow, workflow

TOLD = "is not deterministic"


def moody() -> Any:
    """A workflow that takes another way each time, by a counter that outlives it."""
    runs = itertools.count()

    @workflow(name="moody")
    async def taking_turns() -> int:
        if next(runs) % 2:
            await double(2)
        await current_workflow().receive("go")
        return await double(1)

    return taking_turns


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.ERROR and f"workflow {name} {TOLD}" in record.getMessage()
    ]


async def test_code_that_does_not_do_the_same_again_is_told_of(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has what differs with its line; the workflow goes on and comes to its end."""
    code = moody()
    async with Worker(client, activities=[double], workflows=[code], verify=1.0):
        handle = await client.start(code)

        async def found() -> list[str]:
            return told(caplog, "moody")

        (line,) = await until(found)
        assert handle.id in line
        assert "+ 0-0 activity double at test_verification.py:" in line
        assert (await handle.info()).state is WorkflowState.running
        await handle.signal("go")
        assert await handle.result(timeout=30) == 2


async def test_code_that_raises_when_it_is_done_again_is_told_of(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """What the code raises in the replay is told with its line, and what `redact` takes out of it is not."""
    runs = itertools.count()

    @workflow(name="brittle")
    async def brittle() -> int:
        if next(runs):
            raise KeyError("secret of the code")
        await current_workflow().receive("go")
        return 1

    def redact(text: str) -> str:
        return text.replace("secret", "[redacted]")

    async with Worker(client, workflows=[brittle], verify=1.0, redact=redact):
        handle = await client.start(brittle)

        async def found() -> list[str]:
            return told(caplog, "brittle")

        (line,) = await until(found)
        assert "KeyError" in line
        assert "test_verification.py" in line
        assert "[redacted] of the code" in line
        assert "secret" not in line
        await handle.signal("go")
        assert await handle.result(timeout=30) == 1


async def test_good_code_is_silent(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Code that depends on nothing but its history is led through it again, and nothing is told."""
    runs: list[str] = []

    @workflow(name="good")
    async def good(number: int) -> int:
        wf = current_workflow()
        runs.append(wf.id)
        wf.random.random()
        if number == 0:
            wf.continue_as_new(3)
        await asyncio.sleep(0.01)
        return await double(number) + await double.options(local=True)(1)

    async with Worker(client, activities=[double], workflows=[good], verify=1.0):

        async def verified_often() -> bool:
            handle = await client.start(good, 0)
            assert await handle.result(timeout=30) == 8
            return len(runs) > 40

        await until(verified_often, 60.0)
        once_started = [each for each in set(runs) if runs.count(each) > 2]
        assert len(once_started) > 3
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_long_run_is_done_again_in_pieces(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A run of more than a thousand inputs is replayed too, and what it does otherwise far behind is told."""
    runs = itertools.count()

    @workflow(name="enduring")
    async def enduring() -> int:
        first = next(runs) == 0
        while (word := await current_workflow().receive("word", int)) >= 0:
            if word == 1000 and not first:
                await asyncio.sleep(0)
                await double(word)
        return await double(word)

    async with Worker(client, activities=[double], workflows=[enduring], verify=1.0):
        handle = await client.start(enduring)
        await asyncio.gather(*(handle.signal("word", min(number, 1000)) for number in range(1, 1060)))

        async def found() -> list[str]:
            await handle.signal("word", 0)
            return told(caplog, "enduring")

        (line,) = await until(found, 180.0)
        assert "activity double at test_verification.py:" in line
        await handle.signal("word", -1)
        assert await handle.result(timeout=60) == -2


async def test_without_a_share_nothing_is_done_again(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """By default the code of a workflow in memory runs once."""
    runs: list[int] = []

    @workflow(name="once")
    async def once(number: int) -> int:
        runs.append(number)
        await double(number)
        return await double(number)

    async with Worker(client, activities=[double], workflows=[once]):
        for number in range(5):
            assert await (await client.start(once, number)).result(timeout=30) == 2 * number
    assert runs == list(range(5))
    assert TOLD not in caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_what_is_no_share_is_refused(client: Client, share: Any) -> None:
    """A share is a number from 0 to 1."""
    with pytest.raises(InvalidValue, match="verify must be a number from 0 to 1"):
        Worker(client, activities=[double], verify=share)
