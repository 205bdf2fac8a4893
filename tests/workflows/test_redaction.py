"""What `redact` takes out of the errors of workflows' code."""

from __future__ import annotations

import logging

import pytest
from pydantic import TypeAdapter

from tests.support.waiting import until
from turnout import (
    Client,
    QueryFailed,
    RetryPolicy,
    UpdateFailed,
    UpdateRejected,
    Worker,
    WorkflowFaulted,
    current_workflow,
    workflow,
)


@workflow(fail_on=(ValueError,))
async def pay(card: str) -> None:
    raise ValueError(f"card {card} is refused")


@workflow
async def stuck(card: str) -> None:
    raise LookupError(f"card {card} is unknown")


@workflow
class Empty:
    def __init__(self, card: str) -> None:
        raise LookupError(f"card {card} is unknown")

    @workflow.run
    async def run(self, card: str) -> None:
        return None

    @workflow.query
    def owner(self) -> str:
        return ""


@workflow(fail_on=(ValueError,))
class Till:
    @workflow.run
    async def run(self) -> None:
        await current_workflow().receive("end")

    @workflow.query
    def owner(self, card: str) -> str:
        raise ValueError(f"card {card} is refused")

    @workflow.query
    def number(self, card: str) -> int:
        return TypeAdapter(int).validate_python(f"card {card}")

    @workflow.update
    async def charge(self, card: str) -> None:
        raise ValueError(f"card {card} is refused")

    @charge.validator
    def check(self, card: str) -> None:
        if card.endswith("0"):
            raise ValueError(f"card {card} is none")


async def test_errors_of_workflows_are_redacted(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """No history, listing, log line or answer shows what `redact` takes out, however the code fails."""
    seen: list[object] = []

    def redact(text: str) -> str:
        return text.replace("4111", "****")

    with caplog.at_level(logging.INFO, "turnout"):
        async with Worker(client, workflows=[pay, stuck, Till], redact=redact):
            with pytest.raises(WorkflowFaulted) as caught:
                await (await client.start(pay.options(retry=RetryPolicy(max_attempts=2, delay=0.1)), "4111")).result(
                    timeout=30
                )
            assert caught.value.info.error.message == "card **** is refused"
            assert "ValueError: card **** is refused" in caught.value.info.error.traceback
            broken = await client.start(stuck, "4111")

            async def is_stuck() -> bool:
                return (await broken.info()).state == "stuck"

            await until(is_stuck)
            till = await client.start(Till.run)
            with pytest.raises(UpdateRejected, match=r"card \*\*\*\*0 is none") as rejected:
                await till.update(Till.charge, "41110")
            with pytest.raises(UpdateFailed, match=r"card \*\*\*\* is refused") as failed:
                await till.update(Till.charge, "4111")
            seen += [rejected.value, failed.value, caught.value.info.error, (await broken.info()).error]
            for handle in (broken, till, client.workflow(caught.value.info.id)):
                seen += list(await handle.history())
    assert "card 4111" not in caplog.text
    assert "card 4111" not in repr(seen)


async def test_errors_of_queries_are_redacted(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """What a query raises goes the same way as other errors: no answer or log line shows what `redact` takes out."""
    with caplog.at_level(logging.DEBUG, "turnout"):
        async with Worker(client, workflows=[Till, Empty, stuck], redact=lambda text: text.replace("4111", "****")):
            till = await client.start(Till.run)
            with pytest.raises(QueryFailed, match=r"ValueError: card \*\*\*\* is refused"):
                await till.query(Till.owner, "4111")
            empty = await client.start(Empty.run.options(delay=60), "4111")
            with pytest.raises(QueryFailed, match=r"LookupError: card \*\*\*\* is unknown"):
                await empty.query(Empty.owner)
    assert "card 4111" not in caplog.text


async def test_failed_queries_show_no_values(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Where a value does not fit within a query the error says what and not which, as everywhere: without `redact`."""
    with caplog.at_level(logging.DEBUG, "turnout"):
        async with Worker(client, workflows=[Till]):
            till = await client.start(Till.run)
            with pytest.raises(QueryFailed, match="valid integer") as failed:
                await till.query(Till.number, "4111")
    assert "card 4111" not in str(failed.value)
    assert "card 4111" not in caplog.text


async def test_a_query_whose_error_can_not_be_redacted(client: Client) -> None:
    """Nothing of the text is told then; and the worker answers on."""

    def redact(text: str) -> str:
        raise LookupError(text)

    async with Worker(client, workflows=[Till], redact=redact):
        till = await client.start(Till.run)
        for _ in range(2):
            with pytest.raises(QueryFailed, match="withheld: redacting it raised LookupError") as failed:
                await till.query(Till.owner, "4111")
            assert "4111" not in str(failed.value)
