"""The workflows of `flows` after a change that does not fit what they did."""

from __future__ import annotations

from turnout import activity, current_workflow, workflow


@activity
async def triple(number: int) -> int:
    return number * 3


@workflow
async def doubled(number: int) -> int:
    return await triple(number)


@workflow
async def approval(amount: int) -> str:
    wf = current_workflow()
    if wf.patched("thrice"):
        amount = await triple(amount)
    word = await wf.receive("decide")
    return f"{amount}: {word['say']}"
