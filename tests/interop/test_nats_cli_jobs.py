"""What turnout stores, looked at with the real `nats` program."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.natscli import NatsCli
from turnout import Client, activity
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory


@activity
async def echo(value: str) -> str:
    return value


async def test_large_payloads_are_objects(
    nats_cli: NatsCli, nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, tmp_path: Path
) -> None:
    """`nats object` lists a large payload and result and gets them whole: the layout is NATS's own."""
    large = "渡し" * 100_000
    async with turnout_worker(echo):
        handle = await turnout_client.submit(echo, large)
        assert await handle.result(timeout=30) == large
    bucket = f"{turnout_client.namespace}_payloads"
    listing = nats_cli(nats_server.url, "object", "ls", bucket).stdout
    names = re.findall(rf"{handle.id}-[\w-]+", listing)
    assert len(names) == 2
    got = {}
    for name in names:
        target = tmp_path / name
        nats_cli(nats_server.url, "object", "get", bucket, name, "--output", str(target), "--no-progress", "--force")
        got[name.removeprefix(f"{handle.id}-").split("-")[0]] = json.loads(target.read_text())
    assert got == {"payload": {"value": large}, "result": large}


async def test_a_record_can_be_read_by_a_person(
    nats_cli: NatsCli, nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """`nats kv get` shows a job's record as JSON with the words of the API."""
    async with turnout_worker(echo):
        handle = await turnout_client.submit(echo.options(id="readable"), "x")
        await handle.result(timeout=30)
    bucket = f"{turnout_client.namespace}_jobs"
    record = json.loads(nats_cli(nats_server.url, "kv", "get", bucket, "echo.readable", "--raw").stdout)
    assert (record["id"], record["activity"], record["state"]) == ("readable", "echo", "completed")
