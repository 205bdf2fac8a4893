"""Whom a start is owed to that does not go by priority."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from turnout.worker import elders
from turnout.worker.elders import Elders

LANES = ("first", "last")


async def test_no_slot_waits_for_what_was_known_a_moment_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited longest is asked again now and then, and the answer before counts until the next one is there;
    what was known long ago does not."""
    now, asked = 100.0, list[asyncio.Future[str]]()

    async def oldest(lanes: Sequence[str]) -> str:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    monkeypatch.setattr(elders, "boottime", lambda: now)
    turns = Elders(oldest, lambda: None)
    assert turns.owed(LANES, 20) == (None, 0, 19), "nobody knows yet"
    await asyncio.sleep(0)
    asked[0].set_result("last")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.owed(LANES, 1) == ("last", 1, 0)
    assert len(asked) == 1
    now += 0.2
    assert turns.owed(LANES, 20) == ("last", 1, 19)
    await asyncio.sleep(0)
    assert len(asked) == 2, "it is asked again meanwhile"
    now += 10.0
    assert turns.owed(LANES, 20) == (None, 0, 19)
    turns.stop()
