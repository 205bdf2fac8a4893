"""Every configuration in deploy/nats, started with the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.errors import APIError, ServiceUnavailableError

from turnout.testing import NatsServer
from turnout.testing.server import _free_port

DEPLOY = Path(__file__).parents[2] / "deploy" / "nats"
NO_SUITABLE_PEERS = 10005  # JetStream's answer until the other servers of the cluster are known
SECRETS = {"NATS_PASSWORD": "s3same", "NATS_ADMIN_PASSWORD": "s3cret"}
PRODUCTION = {"user": "turnout", "password": SECRETS["NATS_PASSWORD"]}


def environment(file: Path, store: Path, **others: str) -> dict[str, str]:
    """What the .env file sets, with the paths and ports of this test in place of production's."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    values |= SECRETS | {"NATS_MONITOR": "127.0.0.1:-1", "NATS_STORE": str(store)} | others
    assert set(values) == {line.split("=", 1)[0] for line in lines} | set(SECRETS), "the .env file lacks a variable"
    return values


@asynccontextmanager
async def connected(server: NatsServer, **login: str) -> AsyncIterator[NatsClient]:
    client = await nats.connect(server.url, allow_reconnect=False, **login)
    try:
        yield client
    finally:
        await client.close()


async def make_stream(client: NatsClient, replicas: int) -> None:
    """Make a stream as soon as the server can: a cluster elects its leader first."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.jetstream().add_stream(name="s", subjects=["s.>"], num_replicas=replicas)
                return
            except APIError as error:
                if error.err_code != NO_SUITABLE_PEERS and not isinstance(error, ServiceUnavailableError):
                    raise
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                pass  # no leader yet
            await asyncio.sleep(0.05)


async def test_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development server has JetStream on files, beside the project, and asks nobody to log in."""
    monkeypatch.chdir(tmp_path)
    with NatsServer(config=DEPLOY / "dev.conf") as server:
        async with connected(server) as client:
            await make_stream(client, 1)
        assert (tmp_path / ".turnout" / "nats" / "jetstream").is_dir()


async def test_single(tmp_path: Path) -> None:
    """The production server lets nobody in without the password and syncs every write."""
    settings = environment(DEPLOY / "single.env", tmp_path)
    with NatsServer(config=DEPLOY / "single.conf", store_dir=tmp_path, environment=settings) as server:
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await nats.connect(server.url, allow_reconnect=False, max_reconnect_attempts=0)
        async with connected(server, **PRODUCTION) as client:
            await make_stream(client, 1)
        async with connected(server, user="admin", password=SECRETS["NATS_ADMIN_PASSWORD"]) as admin:
            answer = await admin.request("$SYS.REQ.SERVER.PING.VARZ", b"", timeout=10)
            assert json.loads(answer.data)["data"]["jetstream"]["config"]["sync_always"] is True


async def test_cluster(tmp_path: Path) -> None:
    """Three servers elect a leader and keep a stream on all three, also when one of them is killed."""
    ports = free_ports(3)
    routes = {f"NATS_ROUTE_{n}": f"nats://127.0.0.1:{port}" for n, port in enumerate(ports, start=1)}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                NatsServer(
                    config=DEPLOY / "cluster" / f"n{n}.conf",
                    store_dir=tmp_path / f"n{n}",
                    environment=environment(
                        DEPLOY / "cluster" / "cluster.env",
                        tmp_path / f"n{n}",
                        NATS_CLUSTER_LISTEN=f"127.0.0.1:{port}",
                        **routes,
                    ),
                )
            )
            for n, port in enumerate(ports, start=1)
        ]
        async with connected(servers[0], **PRODUCTION) as client:
            await make_stream(client, 3)
            info = await client.jetstream().stream_info("s")
            assert info.cluster is not None
            assert info.cluster.leader
            assert len(info.cluster.replicas or []) == 2
        servers[2].kill()
        async with connected(servers[0], **PRODUCTION) as client:
            await publish(client, "s.a")


async def publish(client: NatsClient, subject: str) -> None:
    """Store a message as soon as the stream has a leader."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.jetstream().publish(subject, b"kept", timeout=2)
                return
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError, nats.js.errors.NoStreamResponseError):
                await asyncio.sleep(0.05)  # no leader yet


def free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(_free_port())
    return list(ports)
