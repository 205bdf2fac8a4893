"""The activities that are measured: they do nothing, or sleep."""

from __future__ import annotations

import asyncio
from typing import Any

from turnout import Limit, activity
from turnout.definition.activity import Activity


@activity
async def noop(n: int = 0) -> int:
    return n


@activity(lease=30)
async def sleeper(seconds: float) -> None:
    await asyncio.sleep(seconds)


@activity(limits=[Limit("wide", concurrency=100_000)])
async def under_wide(n: int = 0) -> int:
    """Under a limit that is never reached."""
    return n


@activity(limits=[Limit("ten", concurrency=10)])
async def under_ten(n: int = 0) -> int:
    """Under a limit that is always reached."""
    return n


def activity_of(name: str) -> Activity[..., Any]:
    """That of the no-op activities of this module which has this name."""
    some: tuple[Activity[..., Any], ...] = (noop, under_wide, under_ten)
    return {each.name: each for each in some}[name]


def _another(name: str) -> Activity[..., Any]:
    async def code(n: int = 0) -> int:
        return n

    return activity(name=name)(code)


fifty = [noop, *(_another(f"idle{number}") for number in range(1, 50))]
"""Fifty activities of one worker."""
