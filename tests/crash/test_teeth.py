"""The crash suite notices when a rule of the product is missing: each mutant is tried in a scene that it can't pass.

The same scene is played with and without the mutation, so that it is the mutation that fails it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.crash.activities import play, play_long, wait_for
from tests.crash.fleet import Fleet
from tests.crash.mutant import MUTANTS
from tests.crash.scene import Damage, Scene, leads, scene
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client, JobNotFound, wire
from turnout.errors import TurnoutError
from turnout.testing import NatsServer

TRIES: dict[str, tuple[str, Callable[[Scene, str], Awaitable[None]]]] = {}


def tries(mutant: str, point: str = "-") -> Callable[[Callable[[Scene, str], Awaitable[None]]], None]:
    """The scene that a mutant is tried in, and the point at which the victim dies in it."""

    def note(play_it: Callable[[Scene, str], Awaitable[None]]) -> None:
        TRIES[mutant] = (point, play_it)

    return note


@tries("ack_before_save", "Received.Save")
async def dies_before_the_record(s: Scene, mutant: str) -> None:
    """A job that ends without an attempt, and a worker that dies before its record: somebody else must find the job."""
    victim = await s.victim(mutant)
    names = s.client.store.names
    await s.client.store.connection.store(names.jobs("play", "j"), b"{}", {wire.OPTIONS: "nonsense"})
    await s.died(victim)
    await s.healthy()
    try:
        await s.ends(s.client.job("j", "play"), "faulted")
    except JobNotFound as error:
        raise Damage("the job is gone") from error


@tries("no_fencing")
async def is_overtaken(s: Scene, mutant: str) -> None:
    """Declared dead, the first owner ends before the second: its result must not count."""
    await s.healthy("first", mutant, concurrency=1)
    handle = await s.client.submit(play_long, gate=str(s.gate))
    first = (await s.state(handle, "running")).node
    await s.healthy("second")
    await s.overtake(handle)

    async def second_runs() -> bool:
        info = await handle.info()
        return info.attempt == 2 and info.node not in (None, first)

    await until(second_runs, 30)
    s.gate.with_name("gate-1").touch()
    await asyncio.sleep(2)
    s.gate.with_name("gate-2").touch()
    info = await s.ends(handle, "completed")
    if info.result != 2 or [a.outcome for a in info.attempts] != ["lost", "completed"]:
        raise Damage(f"the result of an attempt that was lost counts: {info}")


@tries("no_doubt_about_the_lease")
async def wakes_up_overtaken(s: Scene, mutant: str) -> None:
    """Frozen while another takes over, the first owner must find out and stop its code."""
    first = await s.healthy("first", mutant, concurrency=1)
    notes = s.gate.with_name("notes")
    handle = await s.client.submit(wait_for, str(s.gate), str(notes))
    await s.state(handle, "running")
    await s.healthy("second")
    await asyncio.sleep(3)
    first.send(signal.SIGSTOP)

    async def second_runs() -> bool:
        info = await handle.info()
        return info.attempt == 2 and info.node not in (None, first.node)

    await until(second_runs, 60)
    await asyncio.sleep(11)
    first.send(signal.SIGCONT)

    async def told() -> bool:
        return notes.exists() and "lease_lost" in notes.read_text()

    try:
        await until(told)
    except TimeoutError as error:
        raise Damage("code that nobody wants any more runs on") from error


@tries("no_sweep", "Failed.Replace")
async def the_alarm_is_spent(s: Scene, mutant: str) -> None:
    """A message's alarm was answered by an owner who then dies: only a sweep finds the job."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="fail", gate=str(s.gate))
    await s.state(handle, "running")
    await s.wear_out(handle, victim)
    s.gate.touch()
    await s.died(victim)
    s.patience_s = 40.0
    await s.healthy("healthy", mutant)
    await s.ends(handle, "completed")


async def is_back_too_early(directory: Path, mutant: str) -> None:
    """The server was away for longer than all liveness; one node is back before the other and must not call it dead."""
    ttl_s = 14.0
    """Who is connected again is sure of itself one TTL later at the earliest. The far node is back by then: it dials at
    least every 3 s."""
    directory.mkdir()
    with NatsServer() as server:
        async with (
            Proxy(server.port) as proxy,
            Client.connect(server.url) as client,
            Fleet(server.url, "turnout", directory) as fleet,
        ):
            gate = directory / "gate"
            far = await fleet.start("far", ttl_s=ttl_s, url=proxy.url)
            handle = await client.submit(wait_for, str(gate), str(directory / "notes"))

            async def runs() -> bool:
                return (await handle.info()).progress is not None

            await until(runs, 30)
            near = await fleet.start("near", ttl_s=ttl_s, mutant=mutant, concurrency=1)
            await asyncio.sleep(ttl_s + 2)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(ttl_s + 3)
            proxy.block()
            await asyncio.to_thread(server.start)

            async def leading() -> bool:
                with contextlib.suppress(TurnoutError):
                    return await leads(client, near)
                return False

            await until(leading, 30)
            await asyncio.sleep(3)  # for as long the mutant has its chance
            proxy.unblock()
            await asyncio.sleep(ttl_s)
            gate.touch()
            result = await handle.result(timeout=60)
            info = await handle.info()
            if result != far.node or info.attempt != 1:
                raise Damage(f"a living node was called dead: {info}")


async def tried(server: NatsServer, directory: Path, name: str, mutant: str) -> None:
    directory = directory / (mutant or "sane")
    if name == "no_doubt_about_oneself":
        await is_back_too_early(directory, mutant)
        return
    directory.mkdir()
    point, play_it = TRIES[name]
    async with scene(server, directory, point) as s:
        await play_it(s, mutant)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_missing_rule_is_noticed(name: str, nats_server: NatsServer, tmp_path: Path) -> None:
    """Each mutant does the damage that its rule prevents, and the scene finds it; without the mutation it passes."""
    sane, mutated = await asyncio.gather(
        tried(nats_server, tmp_path, name, ""), tried(nats_server, tmp_path, name, name), return_exceptions=True
    )
    if sane is not None:
        raise sane
    assert isinstance(mutated, Damage), f"{name} was not noticed: {mutated!r}"
