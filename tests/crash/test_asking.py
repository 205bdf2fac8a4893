"""A worker dies with an update or a query in its hand, and another one answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash.flows import Box
from tests.crash.scene import scene
from turnout.testing import NatsServer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["workflow.Dispatch", "Completed.TellParent"])
async def test_an_update_survives_its_worker(nats_server: NatsServer, tmp_path: Path, point: str) -> None:
    """The worker dies with an update's handler at work: another one goes on in it, and its answer is the only one."""
    async with scene(nats_server, tmp_path, point) as s:
        path = s.gate.with_name("lines")
        victim = await s.victim()
        handle = await s.client.start(Box.run.options(id="b"), str(path))
        update = await handle.start_update(Box.keep.options(id="u1"), "first")
        await s.died(victim)
        asked = asyncio.ensure_future(handle.with_timeout(s.patience_s).query(Box.content))
        await s.healthy()
        assert await update.result(timeout=s.patience_s) == 1
        assert await asked in ([], ["first"])
        assert await handle.query(Box.content) == ["first"]
        assert await handle.update(Box.keep.options(id="u1"), "first") == 1
        assert await handle.update(Box.keep, "second") == 2
        assert await handle.result(timeout=s.patience_s) == ["first", "second"]
        assert path.read_text().splitlines() == ["first", "second"]
