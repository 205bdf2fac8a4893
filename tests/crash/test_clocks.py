"""Nodes whose clocks are a minute wrong, in either direction."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from tests.crash.activities import flaky, steps
from tests.crash.fleet import Fleet
from tests.support.waiting import until
from turnout import Client, JobFaulted


@pytest.mark.parametrize("ahead_s", [60, -60])
async def test_a_wrong_clock_neither_hurries_nor_holds_up_a_job(
    turnout_client: Client, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, ahead_s: int, tmp_path: object
) -> None:
    """Retries, delays and deadlines are in the server's time; records tell it, whatever the node believes."""
    monkeypatch.setenv("CLOCK_AHEAD_S", str(ahead_s))
    await fleet.start("wrong")
    before = dt.datetime.now(dt.UTC)
    retried = await turnout_client.submit(flaky, 5)
    delayed = await turnout_client.submit(flaky.options(delay=2), 1)
    late = await turnout_client.submit(steps.options(expires_in=3), f"{tmp_path}/steps", count=1000)
    assert await asyncio.wait_for(retried.result(), 30) == 5
    assert await delayed.result(timeout=30) == 1
    with pytest.raises(JobFaulted, match="expired"):
        await late.result(timeout=30)
    for handle, least_s, most_s in ((retried, 0.05, 20.0), (delayed, 2.0, 20.0), (late, 3.0, 20.0)):
        info = await handle.info()
        assert info.finished_at is not None
        took_s = (info.finished_at - info.submitted_at).total_seconds()
        assert least_s <= took_s <= most_s
        assert abs((info.attempts[0].started_at - before).total_seconds()) < 30


async def test_nodes_of_two_times_hand_jobs_over(
    turnout_client: Client, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """A node a minute ahead dies; one a minute behind takes its job over once, and calls nobody else dead."""
    monkeypatch.setenv("CLOCK_AHEAD_S", "60")
    ahead = await fleet.start("ahead")
    handle = await turnout_client.submit(steps, f"{tmp_path}/steps", count=100)

    async def on(node: str) -> bool:
        return (await handle.info()).node == node

    await until(lambda: on(ahead.node))
    monkeypatch.setenv("CLOCK_AHEAD_S", "-60")
    behind = await fleet.start("behind")
    await ahead.kill()
    await until(lambda: on(behind.node), within_s=30)
    assert await handle.result(timeout=30) == 2
    assert (await handle.info()).losses == 1
