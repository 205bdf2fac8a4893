"""Routing over kills: a job whose node dies goes on at another one that has what it requires, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from tests.crash.activities import play
from tests.crash.scene import scene
from tests.support.waiting import until
from turnout.testing import NatsServer


async def test_a_job_whose_node_is_killed_goes_on_at_another_that_fits(nats_server: NatsServer, tmp_path: Path) -> None:
    """While there is none it waits, and says for what; the plain node that lives all the time runs none of it."""
    async with scene(nats_server, tmp_path) as s:
        plain = await s.healthy("plain")
        east = await s.healthy("east", properties="region=east")
        handle = await s.client.submit(play.options(requires={"region": "east"}), gate=str(s.gate))
        await s.state(handle, "running")
        await east.kill()

        async def says_so() -> bool:
            waiting = (await handle.info()).waiting_for
            return waiting is not None and (waiting.kind, waiting.name) == ("node", "region=east")

        await until(says_so, s.patience_s)
        assert plain.alive
        s.gate.touch()
        await s.healthy("next", properties="region=east")
        info = await s.ends(handle, "completed")
        outcomes = [(attempt.node.partition("-")[0], attempt.outcome) for attempt in info.attempts]
        assert outcomes == [("east", "lost"), ("next", "completed")]
