"""`turnout doctor` and /readyz where a worker is busy, and where nothing can be stored."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import Any

from tests.cli.conftest import Cli, first_document
from turnout import Client, JobState


def storage_check(cli: Cli, code: int) -> Any:
    """What doctor says of the storage."""
    return next(each for each in cli.json("doctor", code=code)["checks"] if each["check"] == "storage")


def limit_registry(cli: Cli, max_bytes: int) -> None:
    """Give the stream of the records another limit."""

    async def update() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            connection = client.store.connection
            stream = f"KV_{cli.namespace}_jobs"
            config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
            await connection.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": max_bytes, "discard": "new"})

    asyncio.run(update())


def test_where_nothing_can_be_stored_that_is_said_and_there_is_a_way_out(cli: Cli) -> None:
    """Doctor and /readyz are red while no record can be stored, errors name the remedy, and deleting jobs helps."""
    with cli.process("worker", "shop", "--health-port", "127.0.0.1:0", "-o", "json") as worker:
        port = first_document(worker)["health_port"]
        ended = [cli("job", "submit", "add", '{"a": 1}', "--wait", "-o", "json") for _ in range(2)]
        ids = [json.loads(each.stdout)["id"] for each in ended]
        limit_registry(cli, 1)
        waiting = cli("job", "submit", "add", '{"a": 3}').stdout.strip()
        storage = storage_check(cli, 1)
        assert storage["verdict"] == "wrong"
        assert "max_bytes" in storage["remedy"]
        assert until_ready(port, 503).startswith("no record can be stored")
        assert "turnout doctor shows what is full" in cli.error(
            "job", "submit", "add", '{"a": 1}', "--delay", "60", code=1
        )
        cli("job", "delete", *ids)
        cli("job", "show", ids[0], code=4)
        limit_registry(cli, -1)
        assert cli.json("job", "result", waiting) == 5
        assert until_ready(port, 200) == "ok\n"
        assert storage_check(cli, 0)["verdict"] == "ok"


def until_ready(port: int, status: int) -> str:
    """What /readyz says when it has this status."""
    text = ""
    for _ in range(200):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        line.request("GET", "/readyz")
        answer = line.getresponse()
        text = answer.read().decode()
        if answer.status == status:
            return text
        time.sleep(0.1)
    raise AssertionError(f"/readyz is not {status}: {text}")


def test_doctor_calls_nothing_stuck_that_a_busy_worker_works_off(cli: Cli) -> None:
    """While thousands of quick jobs come and go, what moves between two counts is not stuck."""
    cli("job", "submit", "add", '{"a": 1}')
    with cli.process("worker", "shop", "-c", "50", "-o", "json") as worker:
        first_document(worker)

        async def examine() -> None:
            async with Client.connect(cli.url, namespace=cli.namespace) as client:
                submitting = asyncio.create_task(client.submit_many("add", [{"a": n} for n in range(6000)]))
                looks = 0
                while not submitting.done() or (await client.count(state="queued"))[JobState.queued]:
                    report = await asyncio.to_thread(cli.json, "doctor")
                    assert not [each for each in report["checks"] if "stuck:" in each["found"]]
                    looks += 1
                assert looks

        asyncio.run(examine())
