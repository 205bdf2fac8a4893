"""What a NATS server may do to jobs: restart, freeze, go lame, lose its leader, run out of room, lose the consumer.

Everywhere: running code goes on, every job ends once, and a submitter gets an ack or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.crash.activities import bulky, flaky, stroll, wait_for
from tests.crash.fleet import TTL_S, Fleet
from tests.deploy.test_deploy_nats import DEPLOY, SECRETS, environment, free_ports
from tests.support.waiting import until
from turnout import Client
from turnout.errors import OutcomeUnknown, ServerUnavailable, StorageRefused, TurnoutError
from turnout.nats.connection import Connection, ConnectOptions
from turnout.store.names import Names
from turnout.store.topology import Topology, TopologyOptions
from turnout.testing import NatsServer
from turnout.testing.server import find_binary

MIB = 1024 * 1024


async def submit_under_fire(client: Client, count: int, *, pause: float = 0.02) -> list[Any]:
    """Submit one after the other; whoever gets an error submits the same id again."""

    async def one(number: int) -> Any:
        while True:
            try:
                return await client.submit(flaky.options(id=f"job-{number}", if_exists="join"), number, pause=0.3)
            except TurnoutError:
                await asyncio.sleep(0.2)

    handles = []
    for number in range(count):
        handles.append(asyncio.create_task(one(number)))
        await asyncio.sleep(pause)
    return list(await asyncio.gather(*handles))


async def all_end_once(client: Client, handles: Sequence[Any], *, attempts: int | None = None) -> None:
    """Every job completes, by one attempt, and nothing is left in the stream."""
    await asyncio.gather(*(handle.result(timeout=90) for handle in handles))
    infos = await asyncio.gather(*(handle.info() for handle in handles))
    outcomes = [[attempt.outcome.value for attempt in info.attempts] for info in infos]
    assert all(each.count("completed") == 1 and each[-1] == "completed" for each in outcomes), outcomes
    if attempts is not None:
        assert {len(each) for each in outcomes} == {attempts}

    async def empty() -> bool:
        info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.work}")
        return bool(info["state"]["messages"] == 0)

    await until(empty, 60)


async def running(handle: Any) -> None:
    async def check() -> bool:
        return (await handle.info()).progress is not None

    await until(check, 60)


# --- one server -------------------------------------------------------------------------------------------------------


async def test_a_server_restarted_under_load_loses_nothing(tmp_path: Path) -> None:
    """Stopped in order, killed, and stopped again while jobs are submitted and run: each ends once."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, concurrency=20)
            long = [await client.submit(stroll, 100) for _ in range(10)]
            submitting = asyncio.create_task(submit_under_fire(client, 400))
            for kill in (False, True, False):
                await asyncio.sleep(2)
                await asyncio.to_thread(server.restart, kill=kill)
            await all_end_once(client, [*await submitting, *long])
            infos = [await handle.info() for handle in long]
            assert not [info for info in infos if (info.attempt, info.losses) != (1, 0)]


async def test_a_frozen_server_costs_no_attempt(tmp_path: Path) -> None:
    """A server that hangs for several liveness TTLs and goes on: running jobs go on in the same attempt."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, concurrency=20, ttl_s=2.0)
            handles = [await client.submit(stroll, 40) for _ in range(10)]
            await asyncio.sleep(1)
            await asyncio.to_thread(server.pause)
            await asyncio.sleep(8)
            await asyncio.to_thread(server.resume)
            await all_end_once(client, handles, attempts=1)


async def test_large_results_outwait_a_server_that_is_away(tmp_path: Path) -> None:
    """Checkpoint and result that need the object store, and a server that is away when they are there: no failure."""
    gate = tmp_path / "gate"
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            await fleet.start("a", ttl_s=2.0)
            handles = [await client.submit(bulky, str(gate), 300_000) for _ in range(5)]
            await asyncio.gather(*(running(handle) for handle in handles))
            await asyncio.to_thread(server.kill)
            gate.touch()
            await asyncio.sleep(4)
            await asyncio.to_thread(server.start)
            await all_end_once(client, handles, attempts=1)
            assert await handles[0].result() == "r" * 300_000


@pytest.mark.parametrize(("slots", "times"), [(5, 1), (20, 3)], ids=["every-slot-taken", "free-slots"])
async def test_a_deleted_consumer_is_made_again(
    turnout_client: Client, fleet: Fleet, tmp_path: Path, slots: int, times: int
) -> None:
    """The consumer is deleted under the worker: what runs goes on in its attempt, what waits is run.

    A node whose slots are all taken has nothing to ask the consumer for, and misses it when one is free again.
    """
    await fleet.start("a", concurrency=slots)
    gate = tmp_path / "gate"
    handles = [await turnout_client.submit(wait_for, str(gate), str(tmp_path / "notes")) for _ in range(12)]
    await running(handles[0])
    api, names = turnout_client.store.connection.api, turnout_client.store.names

    async def there() -> bool:
        listed = await api(f"CONSUMER.NAMES.{names.work}")
        return "wait_for" in (listed.get("consumers") or [])

    for _ in range(times):
        await until(there)
        await api(f"CONSUMER.DELETE.{names.work}.wait_for")
    await asyncio.sleep(TTL_S)
    gate.touch()
    await all_end_once(turnout_client, handles, attempts=1)
    assert await there()


# --- no room ----------------------------------------------------------------------------------------------------------


async def fill_up(
    client: Client, tolerated: tuple[type[TurnoutError], ...], accepted: list[Any] | None = None
) -> TurnoutError:
    """Submit jobs that nobody works on until that fails, and return how; `accepted` gets those that were taken."""
    for number in range(5000):
        try:
            handle = await client.submit("nobody", {"number": number, "text": "x" * 20_000})
        except tolerated as error:
            return error
        if accepted is not None:
            accepted.append(handle)
    raise AssertionError("never full")


async def test_when_the_account_is_full_submitters_hear_it_and_jobs_end_once_there_is_room(tmp_path: Path) -> None:
    """StorageRefused for who submits; what runs ends in its attempt as soon as there is room, however late."""
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    with NatsServer(config="jetstream { max_file_store: 24MB }") as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            ballast = await make_ballast(server.url, 8)
            for name in ("a", "b"):
                await fleet.start(name, ttl_s=2.0)
            handles = [await client.submit(wait_for, str(gate), str(notes)) for _ in range(5)]
            await asyncio.gather(*(running(handle) for handle in handles))
            error = await fill_up(client, (StorageRefused,))
            assert "storage" in str(error) or "bytes" in str(error) or "resource" in str(error)
            gate.touch()
            await asyncio.sleep(8)
            await ballast()
            await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
            infos = [await handle.info() for handle in handles]
            assert {(info.state, info.attempt, info.losses) for info in infos} == {("completed", 1, 0)}
            again = await client.submit(flaky, 1)
            assert await again.result(timeout=30) == 1


async def make_ballast(url: str, mib: int) -> Any:
    """A stream that takes up room; returns what throws it overboard."""
    connection = await nats.connect(url)
    streams = connection.jetstream()
    await streams.add_stream(name="ballast", subjects=["ballast"])
    for _ in range(mib * 4):
        await streams.publish("ballast", b"x" * (MIB // 4))

    async def overboard() -> None:
        await streams.delete_stream("ballast")
        await connection.close()

    return overboard


def turnout(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "turnout", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own. Where one can't be mounted the test is skipped, and CI fails."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"NOT PROVED HERE: a full disk needs the right to mount a tmpfs: {done.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


async def test_a_full_disk_is_told_and_survived(tmp_path: Path, small_disk: Path) -> None:
    """Submitters get an error, never a silent loss; jobs are listed, and doctor names the disk; with room and a restart
    nothing acknowledged is gone, and all goes on."""
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    with NatsServer(store_dir=small_disk) as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, ttl_s=2.0)
            handles = [await client.submit(wait_for, str(gate), str(notes)) for _ in range(5)]
            await asyncio.gather(*(running(handle) for handle in handles))
            acknowledged = [await client.submit("later", {"number": number}) for number in range(20)]
            ballast = small_disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while file.write(b"x" * (MIB // 4)):
                    file.flush()
            os.truncate(ballast, ballast.stat().st_size - MIB)  # some more jobs are stored
            error = await fill_up(client, (StorageRefused, OutcomeUnknown, ServerUnavailable), acknowledged)
            assert "disk" in str(error) or "storage" in str(error), error
            assert len(acknowledged) > 20
            assert len([info async for info in client.jobs(activity="wait_for")]) == len(handles)
            doctor = await asyncio.to_thread(turnout, "doctor", "--server", server.url)
            assert doctor.returncode == 1
            assert "is its disk full?" in doctor.stdout or "storage" in doctor.stdout, doctor.stdout
            gate.touch()
            await asyncio.sleep(4)
            ballast.unlink()
            await asyncio.to_thread(server.restart)
            await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
            infos = [await handle.info() for handle in handles]
            assert {info.state.value for info in infos} == {"completed"}
            assert {(await handle.info()).state.value for handle in acknowledged} == {"queued"}
            again = await client.submit(flaky, 1)
            assert await again.result(timeout=30) == 1


# --- a cluster --------------------------------------------------------------------------------------------------------


class Cluster:
    """The three servers of deploy/nats/cluster, with a namespace of three replicas."""

    def __init__(self, servers: list[NatsServer]) -> None:
        self.servers = servers
        login = f"turnout:{SECRETS['NATS_PASSWORD']}@"
        self.urls = [server.url.replace("nats://", f"nats://{login}") for server in servers]

    async def set_up(self) -> None:
        """Make everything with three replicas, before anybody makes it with one."""
        options = ConnectOptions(servers=tuple(self.urls), connect_timeout_s=30)
        connection = await Connection.open(options, name="setup")
        try:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(TurnoutError):
                        await Topology(connection, Names("turnout")).setup(TopologyOptions(replicas=3))
                        return
                    await asyncio.sleep(0.2)
        finally:
            await connection.close()

    async def whole(self, client: Client) -> None:
        """Wait until every stream has a leader and two replicas that are up to date."""

        async def check() -> bool:
            try:
                infos = (await client.store.connection.api("STREAM.LIST"))["streams"]
                return all(
                    info["cluster"].get("leader") and all(r.get("current") for r in info["cluster"]["replicas"])
                    for info in infos
                )
            except (TurnoutError, KeyError):
                return False

        await until(check, 60)


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Cluster]:
    ports = free_ports(3)
    routes = {f"NATS_ROUTE_{n}": f"nats://127.0.0.1:{port}" for n, port in enumerate(ports, start=1)}
    with ExitStack() as stack:
        servers = []
        for n, port in enumerate(ports, start=1):
            store = directory / f"n{n}"
            listen = {"NATS_CLUSTER_LISTEN": f"127.0.0.1:{port}"}
            variables = environment(DEPLOY / "cluster" / "cluster.env", store, **listen, **routes)
            config = DEPLOY / "cluster" / f"n{n}.conf"
            servers.append(stack.enter_context(NatsServer(config=config, store_dir=store, environment=variables)))
        made = Cluster(servers)
        await made.set_up()
        yield made


@pytest.mark.timeout(300)
async def test_a_cluster_whose_servers_are_killed_in_turn_loses_nothing(tmp_path: Path) -> None:
    """Each of three servers, so every stream's leader, is killed under load and comes back: each job ends once."""
    async with cluster(tmp_path) as made:
        urls = ",".join(made.urls)
        async with Client.connect(made.urls, connect_timeout=30) as client, Fleet(urls, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, concurrency=20)
            long = [await client.submit(stroll, 300) for _ in range(10)]
            submitting = asyncio.create_task(submit_under_fire(client, 300, pause=0.1))
            for server in made.servers:
                await asyncio.sleep(2)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(6)
                await asyncio.to_thread(server.start)
                await made.whole(client)
            await all_end_once(client, [*await submitting, *long])
            infos = [await handle.info() for handle in long]
            assert not [info for info in infos if (info.attempt, info.losses) != (1, 0)]


@pytest.mark.timeout(300)
async def test_lame_duck_mode_costs_nothing(tmp_path: Path) -> None:
    """A server that is stopped with `nats-server --signal ldm` sends its clients away; jobs go on in their attempts."""
    async with cluster(tmp_path) as made:
        urls = ",".join(made.urls)
        async with Client.connect(made.urls, connect_timeout=30) as client, Fleet(urls, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, concurrency=20)
            long = [await client.submit(stroll, 300) for _ in range(10)]
            submitting = asyncio.create_task(submit_under_fire(client, 300, pause=0.1))
            await asyncio.sleep(2)
            lame = made.servers[0]
            subprocess.run([find_binary(), "--signal", f"ldm={lame.pid}"], check=True, capture_output=True)

            async def ended() -> bool:
                return not lame.running

            await until(ended, 90)
            await all_end_once(client, [*await submitting, *long])
            infos = [await handle.info() for handle in long]
            assert not [info for info in infos if (info.attempt, info.losses) != (1, 0)]
