"""The activities that are measured: they do nothing, or sleep."""

from __future__ import annotations

import asyncio
from typing import Any

from turnout import activity
from turnout.definition.activity import Activity


@activity
async def noop(n: int = 0) -> int:
    return n


@activity(lease=30)
async def sleeper(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _another(name: str) -> Activity[..., Any]:
    async def code(n: int = 0) -> int:
        return n

    return activity(name=name)(code)


fifty = [noop, *(_another(f"idle{number}") for number in range(1, 50))]
"""Fifty activities of one worker."""
