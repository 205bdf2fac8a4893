"""`turnout group`: looking at groups, their results, and cancelling them, without a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.cli.conftest import Cli
from turnout import Client, RetryPolicy, Worker, activity
from turnout.cli import group_checks
from turnout.core.evolve import evolve
from turnout.core.group import Ends
from turnout.core.record import JobState
from turnout.store.groups import KeptGroup
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


@activity(retry=RetryPolicy.none())
async def too_slow() -> None:
    raise TimeoutError


def test_an_error_without_a_message_is_told_by_its_class_alone(cli: Cli) -> None:
    """In the list of results as everywhere."""

    async def run() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client, Worker(client, activities=[too_slow]):
            await (await client.submit_group(too_slow, [{}], id="late")).results(timeout=60)

    asyncio.run(run())
    shown = cli("group", "results", "late", code=1).stdout
    assert [line.split() for line in shown.splitlines()][1] == ["late-0", "faulted", "TimeoutError"]


def test_doctor_calls_no_group_halted_that_waits_for_its_jobs(cli: Cli) -> None:
    """One that waits for its jobs is fine; that nobody works on those is another line."""

    async def submit() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            await client.submit_group("add", [{"a": 1}], id="open")

    cli("setup")
    asyncio.run(submit())
    found = [each for each in cli.json("doctor", code=1)["checks"] if each["check"] == "groups"]
    assert [(each["verdict"], each["found"]) for each in found] == [("ok", "1 group is open, none has come to a halt")]


async def test_how_a_group_can_come_to_a_halt(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half submitted, half cancelled, ended and not finished, not followed, not seen: each is told with its number."""
    store = turnout_client.store
    monkeypatch.setattr(group_checks, "LATE_S", -1.0)

    async def said() -> dict[str, str]:
        checks = [each async for each in group_checks.group_checks(store) if each.verdict == "wrong"]
        return {each.found.partition(" ")[0].rstrip(":"): each.found for each in checks}

    async def change(group_id: str, **fields: Any) -> KeptGroup:
        kept = await store.groups.load(group_id)
        assert kept.record is not None
        return await store.groups.save(evolve(kept.record, **fields), kept.revision)

    for name in ("waits", "submitted", "cancelled", "over", "followed", "unseen"):
        await turnout_client.submit_group(
            "add", [{"a": 1}, {"a": 2}], id=name, then="add" if name == "followed" else None
        )
    assert await said() == {}
    await change("submitted", published=1)
    await change("cancelled", cancel="enough", cancelled=1)
    ended = Ends.none(2).with_ends({0: JobState.completed, 1: JobState.faulted}).text
    for name in ("over", "followed"):
        await change(name, ends=ended)
    await turnout_client.job("unseen-0").cancel()
    found = await said()
    assert sorted(found) == ["cancelled", "followed", "over", "submitted", "unseen"]
    assert "1 of 2 jobs are submitted" in found["submitted"]
    assert "1 of 2 jobs are asked to end" in found["cancelled"]
    assert "all jobs have ended, it has not finished" in found["over"]
    assert "what follows is not submitted" in found["followed"]
    assert "1 of its jobs have ended, and nobody has seen it" in found["unseen"]
    await GroupWatch(store, Performer(store)).look()
    assert not {"over", "followed", "unseen"} & (await said()).keys()
