"""`turnout group`: looking at groups, their results, and cancelling them, without a worker."""

from __future__ import annotations

import asyncio

from tests.cli.conftest import Cli
from turnout import Client
from turnout.store.perform import Performer
from turnout.supervisor.groups import GroupWatch


def test_a_group_from_its_submission_to_its_results(cli: Cli) -> None:
    """Each verb shows what it did, as text and as JSON; the exit code of the results is that of the worst end."""

    async def submit() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            await client.submit_group("add", [{"a": 1}, {"a": 2}], id="night")

    async def supervise() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            await GroupWatch(client.store, Performer(client.store)).look()

    asyncio.run(submit())
    assert "2 queued" in cli("group", "ls").stdout
    assert [job["id"] for job in cli.json("job", "ls", "--group", "night")] == ["night-1", "night-0"]
    assert cli.json("job", "show", "night-0")["group"] == "night"
    assert "night has not finished" in cli.error("group", "results", "night", "--timeout", "0", code=5)
    cli("group", "cancel", "night", "--reason", "wrong files")
    assert cli.json("group", "show", "night")["counts"]["cancelled"] == 2
    asyncio.run(supervise())
    assert "2 cancelled" in cli("group", "show", "night").stdout
    results = cli.json("group", "results", "night", code=3)
    assert results[0] == {"id": "night-0", "state": "cancelled", "result": None, "error": None}
    assert "no group nobody" in cli.error("group", "show", "nobody", code=4)
