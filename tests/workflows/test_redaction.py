"""What `redact` takes out of the errors of workflows' code."""

from __future__ import annotations

import logging

import pytest

from tests.support.waiting import until
from turnout import (
    Client,
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


@workflow(fail_on=(ValueError,))
class Till:
    @workflow.run
    async def run(self) -> None:
        await current_workflow().receive("end")

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
                    timeout=20
                )
            assert caught.value.info.error.message == "card **** is refused"
            assert "ValueError: card **** is refused" in caught.value.info.error.traceback
            broken = await client.start(stuck, "4111")

            async def is_stuck() -> bool:
                return (await broken.info()).state == "stuck"

            await until(is_stuck, 15)
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
