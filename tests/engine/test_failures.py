"""How code fails: whatever it raises is the failure of its job alone, and is told in the same words everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.odd_failures import KINDS, SECRET, in_process, in_thread, on_the_loop
from tests.support.waiting import letters
from turnout import Client, JobFaulted, JobInfo, RetryPolicy, Worker, activity
from turnout.cli.serve import run_to_the_end
from turnout.core.failure import ErrorInfo, Failure
from turnout.worker.failure import redacted

PLACES = [on_the_loop, in_thread, in_process]


async def failed(client: Client, each: Any, *args: Any) -> JobInfo:
    """The job, after it has faulted."""
    with pytest.raises(JobFaulted) as caught:
        await (await client.submit(each, *args)).result(timeout=200)  # many processes start here
    info: JobInfo = caught.value.info
    return info


@pytest.mark.parametrize("each", PLACES, ids=lambda each: each.name)
async def test_an_error_is_told_alike_wherever_its_code_runs(
    turnout_client: Client, turnout_worker: Any, each: Any
) -> None:
    """Type, message and traceback of an error are the same from the event loop, a thread and a child process.

    That holds for those which asyncio, pickle or Python itself treat specially, and the worker goes on.
    """
    async with turnout_worker(each, concurrency=4):
        infos = await asyncio.gather(*(failed(turnout_client, each, kind) for kind in KINDS))
    for kind, info in zip(KINDS, infos, strict=True):
        assert info.error is not None
        type_, message = KINDS[kind]
        assert info.error.type == type_, kind
        assert message is None or info.error.message == message
        assert info.reason == ("fatal" if kind == "fatal" else "failed"), kind
        assert SECRET not in str(info)
        if kind != "cancelled":
            assert "odd_failures.py" in info.error.traceback, info.error.traceback
            assert "turnout/worker" not in info.error.traceback


@pytest.mark.parametrize(
    "each", [on_the_loop, in_thread, pytest.param(in_process, marks=pytest.mark.breadth)], ids=lambda each: each.name
)
async def test_an_odd_error_is_retried_like_another(turnout_client: Client, turnout_worker: Any, each: Any) -> None:
    """The retry policy decides about a StopIteration and a sys.exit() as about any other error."""
    policy = RetryPolicy(max_attempts=2, delay=0.01)
    async with turnout_worker(each, concurrency=4):
        for kind in ("stop", "exit", "interrupt", "no_text"):
            info = await failed(turnout_client, each.options(retry=policy), kind)
            assert (info.attempt, info.failures) == (2, 2), kind


async def test_what_a_task_of_a_job_raises_ends_neither_loop_nor_worker() -> None:
    """A worker process goes on when a task that a job has made raises KeyboardInterrupt or SystemExit."""
    seen: list[str] = []

    async def code(error: type[BaseException]) -> None:
        raise error

    async def work() -> None:
        for error in (KeyboardInterrupt, SystemExit):
            task = asyncio.get_running_loop().create_task(code(error))
            await asyncio.wait({task})
            seen.append(type(task.exception()).__name__)

    loop = asyncio.new_event_loop()
    try:
        # In a thread: there is a loop here already, and what a thread raises is never a Ctrl-C.
        await asyncio.to_thread(run_to_the_end, loop, work())
    finally:
        loop.close()
    assert seen == ["KeyboardInterrupt", "SystemExit"]


async def test_errors_are_redacted_before_anybody_sees_them(turnout_client: Client) -> None:
    """What `redact` takes out of an error is in no record, dead letter or listing; one that fails keeps no text."""

    @activity(retry=RetryPolicy.none())
    async def pay(card: str) -> None:
        raise ValueError(f"card {card} is refused")

    @activity(retry=RetryPolicy.none())
    async def count(number: int) -> None:
        raise AssertionError

    def redact(text: str) -> str:
        return text.replace("4111", "****")

    handle = await turnout_client.submit("count", {"4111": 4111})  # no worker has said yet that this does not fit
    async with Worker(turnout_client, activities=[pay, count, in_process], redact=redact):
        info = await failed(turnout_client, pay, "4111")
        with pytest.raises(JobFaulted) as caught:
            await handle.result(timeout=30)
        bad = caught.value.info
        told = await letters(turnout_client, 2)
    assert info.error is not None
    assert bad.error is not None
    assert info.error.message == "card **** is refused"
    assert "ValueError: card **** is refused" in info.error.traceback
    assert "****: unknown key" in bad.error.message
    errors = [*(each.error for each in info.attempts), info.error, *(fault.error for fault in told)]
    assert "4111" not in str(errors)

    def broken(text: str) -> str:
        raise LookupError(text)

    failure = Failure(ErrorInfo("ValueError", "card 4111", "trace 4111"))
    kept = redacted(failure, broken).error
    assert (kept.type, kept.traceback) == ("ValueError", "")
    assert kept.message == "(the text is withheld: redacting it raised LookupError)"
