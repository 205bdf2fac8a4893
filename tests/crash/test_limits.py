"""Limits over kills: the place of a dead node is free again in time."""

from __future__ import annotations

import time
from pathlib import Path

from tests.crash.activities import play_limited
from tests.crash.scene import TTL_S, scene
from turnout.testing import NatsServer


async def test_a_holder_that_is_killed_frees_its_place(nats_server: NatsServer, tmp_path: Path) -> None:
    """Its node is killed while it runs, and its job cancelled, so that it does not take its place again: the one that
    waits begins within the liveness TTL and 2 s, and nothing is held in the end."""
    async with scene(nats_server, tmp_path) as s:
        node = await s.healthy("doomed")
        first = await s.client.submit(play_limited, gate=str(s.gate))
        await s.state(first, "running")
        await s.healthy("other")
        second = await s.client.submit(play_limited)
        await s.waits_for(second, "crash")
        await node.kill()
        killed_at = time.monotonic()
        await first.cancel("not any more")
        await s.state(second, "running", "completed")
        took = time.monotonic() - killed_at
        await s.ends(second, "completed")
        await s.ends(first, "cancelled")
        await s.no_place_is_held()
        assert took < TTL_S + 2.0 + 1.0  # the node's last sign of life, and a busy machine
