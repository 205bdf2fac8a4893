"""`turnout job ls` where there are many jobs, or few that are long in coming."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.support.records import record, store
from turnout import Client, JobInfo
from turnout.cli.jobs import as_they_come
from turnout.client.info import Bodies, job_info

NONE = Bodies(None, None, None)
JOB = job_info(record("a", "queued", 1.0), NONE)


@pytest.mark.parametrize("whole", [False, True])
async def test_what_was_found_is_shown_before_what_is_long_in_coming(whole: bool) -> None:
    """A job that is found is given out though the next has not been found; unless all are wanted in one."""
    seen = asyncio.Event()

    async def jobs() -> AsyncGenerator[JobInfo]:
        for _ in range(250):
            yield JOB
        if not whole:
            await seen.wait()
        yield JOB

    sizes = []
    async with aclosing(as_they_come(jobs(), whole=whole)) as parts:
        async for part in parts:
            sizes.append(len(part))
            if sum(sizes) == 250:
                seen.set()
    assert sum(sizes) == 251
    assert len(sizes) == 1 if whole else sizes[-1] == 1


async def test_a_listing_may_be_left() -> None:
    """Whoever stops listening while a job is awaited leaves nothing behind; without jobs there is one empty part."""
    left = asyncio.Event()

    async def jobs() -> AsyncGenerator[JobInfo]:
        try:
            yield JOB
            await asyncio.Event().wait()
        finally:
            left.set()

    async with aclosing(as_they_come(jobs(), whole=False)) as parts:
        assert [len(part) for part in [await anext(parts)]] == [1]
    assert left.is_set()

    async def none() -> AsyncGenerator[JobInfo]:
        nobody: list[JobInfo] = []
        for info in nobody:
            yield info

    assert [part async for part in as_they_come(none(), whole=False)] == [[]]


def test_all_jobs_in_one_document(cli: Cli) -> None:
    """With --limit 0 all are listed, as the same JSON or the same table that a large limit gives."""

    async def many() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            now = client.store.connection.now()
            await store(client, (record(f"job-{n:03}", "completed", now - 7200 - n) for n in range(250)))

    asyncio.run(many())
    documents = [cli("job", "ls", "-o", "json", "--limit", limit).stdout for limit in ("0", "1000")]
    assert documents[0] == documents[1]
    found: list[dict[str, Any]] = json.loads(documents[0])
    assert [info["id"] for info in found] == [f"job-{n:03}" for n in range(250)]
    tables = [cli("job", "ls", "--limit", limit) for limit in ("0", "1000", "120")]
    assert tables[0].stdout == tables[1].stdout
    assert len(tables[0].stdout.splitlines()) == 251
    assert tables[2].stdout.splitlines() == tables[0].stdout.splitlines()[:121]
    assert "newest 120: --limit 0 shows all" in tables[2].stderr
    assert not tables[0].stderr
