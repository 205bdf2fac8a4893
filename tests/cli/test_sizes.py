"""An account that demands a size of each stream: what is said there, and `turnout setup --max-bytes`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Cli, first_document
from turnout import Client, StorageRefused
from turnout.testing.server import NatsServer

CONFIG = """
accounts {
  DEMANDING: {
    users: [{ user: ann, password: secret }]
    jetstream: { max_file: 1GB, max_bytes_required: true }
  }
}
"""


@pytest.fixture
def demanding() -> Iterator[Cli]:
    """In an account of 1 GB whose streams must have sizes."""
    with NatsServer(config=CONFIG) as server:
        yield Cli(server.url.replace("://", "://ann:secret@"), "sized")


def test_an_account_that_demands_sizes(demanding: Cli) -> None:
    """What is refused says what to do, and with that done everything works; the size stays until it is changed."""
    cli = demanding
    assert "turnout setup --max-bytes 10GB" in cli.error("job", "submit", "add", '{"a": 1}', code=1)
    assert "turnout setup --max-bytes" in cli.error("setup", code=1)
    assert "at least 100,000,000" in cli.error("setup", "--max-bytes", "50MB", code=2)
    assert "no size such as 500MB" in cli.error("setup", "--max-bytes", "much", code=2)
    assert "sizes are reserved" in cli.error("setup", "--max-bytes", "1TiB", code=1)
    assert "sizes are reserved" in cli.error("setup", "--max-bytes", "2GB", code=1)  # with some streams made
    made = cli.json("setup", "--max-bytes", "500MB")
    assert {each["action"] for each in made} == {"create", "update"}
    for again in ([], ["--max-bytes", "500MB"]):
        assert {each["action"] for each in cli.json("setup", *again)} == {"keep"}
    with cli.process("worker", "shop", "-o", "json") as worker:
        first_document(worker)
        assert cli("job", "submit", "add", '{"a": 1, "b": 1}', "--wait").stdout.strip() == "2"
        assert {each["verdict"] for each in cli.json("doctor")["checks"]} <= {"ok", "note"}
    changed = cli.json("setup", "--max-bytes", "0.8GB")
    assert {(each["action"], *each["fields"]) for each in changed} == {("update", "max_bytes")}
    assert {each["action"] for each in cli.json("setup")} == {"keep"}
    assert sum(asyncio.run(sizes(cli))) == 800_000_000


def test_doctor_warns_before_the_oldest_jobs_would_go(demanding: Cli) -> None:
    """A bounded work stream can't refuse what is too much: it is wrong that it is nearly full."""
    cli = demanding
    cli("setup", "--max-bytes", "100MB")

    async def fill(number: int) -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            for _ in range(number):
                await client.store.connection.store(client.store.names.bare("add"), b" " * 1_000_000, {})

    def said(code: int) -> tuple[str, str]:
        storage = next(each for each in cli.json("doctor", code=code)["checks"] if each["check"] == "storage")
        return storage["verdict"], storage["found"]

    asyncio.run(fill(15))
    assert said(1)[0] == "ok"  # that nobody works on them is wrong, and something else
    asyncio.run(fill(6))
    verdict, found = said(1)
    assert verdict == "wrong"
    assert "of the 25000000 bytes that it may: what is oldest there goes then" in found


async def sizes(cli: Cli) -> list[int]:
    """What the streams of the account may have."""
    async with Client.connect(cli.url, namespace=cli.namespace) as client:
        found = await client.store.connection.api("STREAM.LIST")
        return [stream["config"]["max_bytes"] for stream in found["streams"]]


SMALL = """
accounts {
  SMALL: {
    users: [{ user: ann, password: secret }]
    jetstream: { max_file: 1MB }
  }
}
"""


@pytest.fixture
def small() -> Iterator[Cli]:
    """In an account of 1 MB."""
    with NatsServer(config=SMALL) as server:
        yield Cli(server.url.replace("://", "://ann:secret@"), "small")


def test_a_store_that_waiting_jobs_have_filled(small: Cli) -> None:
    """Doctor names the command that makes room, where there is none to cancel anything; then jobs are stored again."""

    async def fill() -> None:
        async with Client.connect(small.url, namespace=small.namespace) as client:
            bare = client.store.names.bare("later")
            with contextlib.suppress(StorageRefused):
                while True:
                    await asyncio.gather(*(client.submit("later", {"text": "x" * 2_000}) for _ in range(50)))
            while True:
                await client.store.connection.store(bare, b"{}", {})

    small("setup")
    small("job", "submit", "later", "{}", "--id", "one")
    with pytest.raises(StorageRefused):
        asyncio.run(fill())
    checks = {each["check"]: each for each in small.json("doctor", code=1)["checks"]}
    assert [checks[name]["verdict"] for name in ("jetstream", "storage")] == ["wrong", "wrong"]
    for name in ("jetstream", "storage"):
        assert "`turnout job delete --unbegun --activity NAME`" in checks[name]["remedy"]
    assert "--unbegun" in small.error("job", "cancel", "one", code=1)
    assert small("job", "delete", "--unbegun", "one").stdout == "one  deleted\n"
    assert "no job one" in small.error("job", "delete", "--unbegun", "one", code=4)
    assert small.json("job", "delete", "--unbegun", "--activity", "later", "--yes")["deleted"] > 100
    assert {each["check"]: each for each in small.json("doctor")["checks"]}["storage"]["verdict"] == "ok"
    small("job", "submit", "later", "{}", "--id", "one")
    small("job", "cancel", "one")
    assert "is cancelled" in small.error("job", "delete", "--unbegun", "one", code=1)
