"""Limits over kills: the place of a dead node is free again in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.crash.activities import play_limited
from tests.crash.fleet import Process
from tests.crash.scene import TTL_S, Scene, scene
from turnout import JobHandle
from turnout.testing import NatsServer


async def one_runs_and_one_waits(s: Scene) -> tuple[Process, JobHandle[Any], JobHandle[Any]]:
    """Two jobs of which one has the only place, and the node that runs it; another node is there."""
    node = await s.healthy("doomed")
    first = await s.client.submit(play_limited, gate=str(s.gate))
    await s.state(first, "running")
    await s.healthy("other")
    second = await s.client.submit(play_limited)
    await s.waits_for(second, "crash")
    return node, first, second


async def test_a_holder_that_is_killed_frees_its_place(nats_server: NatsServer, tmp_path: Path) -> None:
    """Its node is killed while it runs, and its job cancelled, so that it does not take its place again: the one that
    waits begins within the liveness TTL and 2 s, and nothing is held in the end."""
    async with scene(nats_server, tmp_path) as s:
        node, first, second = await one_runs_and_one_waits(s)
        await node.kill()
        killed_at = time.monotonic()
        await first.cancel("not any more")
        await s.state(second, "running", "completed")
        took = time.monotonic() - killed_at
        await s.ends(second, "completed")
        await s.ends(first, "cancelled")
        await s.no_place_is_held()
        assert took < TTL_S + 2.0 + 1.0  # the node's last sign of life, and a busy machine


async def test_those_who_wait_go_before_the_job_of_a_dead_node(nats_server: NatsServer, tmp_path: Path) -> None:
    """Its next attempt has no claim on the place of the lost one: whoever has waited meanwhile has his turn first."""
    async with scene(nats_server, tmp_path) as s:
        node, first, second = await one_runs_and_one_waits(s)
        await node.kill()
        await s.state(second, "completed")
        s.gate.touch()
        await s.ends(first, "completed")
        assert (await first.info()).losses == 1
        await s.no_place_is_held()


async def test_the_job_of_a_dead_node_does_not_begin_where_its_limit_holds_everything_up(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """It waits like any other until the limit is let go."""
    async with scene(nats_server, tmp_path) as s:
        node = await s.healthy("doomed")
        job = await s.client.submit(play_limited, gate=str(s.gate))
        await s.state(job, "running")
        await s.healthy("other")
        await s.client.set_limit("crash", concurrency=0)
        await node.kill()
        await s.waits_for(job, "crash")
        s.gate.touch()
        await s.client.clear_limit("crash")
        await s.ends(job, "completed")
        await s.no_place_is_held()
