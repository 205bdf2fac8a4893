"""Builds side by side whose workers are killed: what is pinned to one waits for it, says so, and goes on with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash.flows import long_one, outlasts
from tests.crash.scene import scene
from tests.crash.test_workflow_load import all_wait
from tests.support.waiting import until
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.testing import NatsServer


@pytest.mark.timeout(400)
async def test_a_pinned_workflow_waits_for_its_build_and_goes_on_with_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The only worker of a build is killed beside that of another, and so is the first that follows, at the end of what
    it was handed on: each run ends once, on the build that began it."""
    async with scene(nats_server, tmp_path, "workflow.ScheduleCollection") as s:
        start, path = s.fleet.start, str(tmp_path / "lines")
        old = await start("old", ttl_s=2.0, brisk=True, build="one")
        pinned = [await s.client.start(outlasts, str(s.gate), path, 0.0) for _ in range(4)]
        await until(lambda: all_wait(pinned, {"activity", "signal"}), s.patience_s)
        await start("new", ttl_s=2.0, brisk=True, build="two")
        await old.kill()
        s.gate.touch()
        for each in pinned:
            await each.signal("say", each.id)
        await until(lambda: all_say(pinned, "waits for a worker of build one"), s.patience_s)
        fresh = await s.client.start(long_one, path, 9, 1)
        assert await fresh.result(timeout=s.patience_s) == 90
        assert (await fresh.info()).build == "two"
        assert {(await each.info()).state.value for each in pinned} == {"running"}
        await s.died(await start("victim", ttl_s=2.0, brisk=True, build="one", crash_at=s.point))
        await start("heir", ttl_s=2.0, brisk=True, build="one")
        for each in pinned:
            word, _, _ = await each.result(timeout=s.patience_s)
            info = await each.info()
            assert (word, info.build, info.pinned, info.reason) == (each.id, "one", True, None)
            assert [event.kind for event in await each.history()].count("completed") == 1


async def all_say(handles: list[AnyWorkflowHandle], reason: str) -> bool:
    """Whether each says that it waits for this."""
    return {info.reason for info in await asyncio.gather(*(handle.info() for handle in handles))} == {reason}
