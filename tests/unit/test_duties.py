"""Duties: each at its own pace, and none in the way of another."""

from __future__ import annotations

import asyncio

import pytest

from turnout.errors import ServerUnavailable
from turnout.supervisor.duties import Duties, Duty


async def test_trouble_with_one_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """One that fails is done again, one that hangs keeps nobody waiting."""
    runs: list[str] = []
    enough = asyncio.Event()

    async def fails() -> None:
        runs.append("fails")
        raise KeyError("odd") if len(runs) % 2 else ServerUnavailable("away")

    async def hangs() -> None:
        runs.append("hangs")
        await asyncio.Event().wait()

    async def works() -> None:
        runs.append("works")
        if runs.count("works") >= 3 and runs.count("fails") >= 3:
            enough.set()

    duties = Duties([Duty(name=each.__name__, every_s=0.001, run=each) for each in (fails, hangs, works)])
    duties.start()
    async with asyncio.timeout(30):
        await enough.wait()
    await duties.stop()
    assert runs.count("hangs") == 1
    assert "stumbled over fails" in caplog.text


async def test_a_term_begins_with_nothing_of_the_last() -> None:
    """`begin` is called before the first run of each term, and with its end nothing goes on."""
    told: list[str] = []
    ran = asyncio.Event()

    async def run() -> None:
        told.append("run")
        ran.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cut short")

    duties = Duties([Duty(name="it", every_s=60, run=run, begin=lambda: told.append("begin"))])
    for _ in range(2):
        ran.clear()
        duties.start()
        assert duties.started
        async with asyncio.timeout(30):
            await ran.wait()
        await duties.stop()
        assert not duties.started
    assert told == ["begin", "run", "cut short"] * 2


async def test_a_duty_can_be_hurried() -> None:
    """Whoever is hurried does not wait for its time."""
    ran = asyncio.Event()

    async def run() -> None:
        ran.set()

    hurry = asyncio.Event()
    duties = Duties([Duty(name="it", every_s=3600, run=run, hurry=hurry)])
    duties.start()
    for _ in range(3):
        async with asyncio.timeout(30):
            await ran.wait()
        ran.clear()
        hurry.set()
    await duties.stop()
