"""The first page of a list of workflows: from the end of the stream where that tells, else from the entries of all."""

from __future__ import annotations

import pytest

from tests.workflows.definitions import approval, patient
from turnout import Client, WorkflowState
from turnout.client.workflows import newest
from turnout.nats import pages
from turnout.wire.entries import Glance

STARTED = 48


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few workflows are many here, and windows are small. There is one clock, so that starts need no margin."""
    monkeypatch.setattr(newest, "MANY", 10)
    monkeypatch.setattr(newest, "BYTES_EACH", 100_000)
    monkeypatch.setattr(newest, "CLOCKS_S", -60.0)
    monkeypatch.setattr(pages, "WINDOW", 4)


async def test_the_first_page_is_that_of_the_whole_list(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when old ones were written to last and new ones deleted; and where the end of the stream tells nothing."""
    handles = [await client.start(approval) for _ in range(STARTED)]
    await handles[0].terminate("an old one, whose newest record is the last one there")
    await handles[-2].terminate("a new one")
    await handles[-2].delete()
    expected = [handles[-1].id, handles[-3].id, handles[-4].id, handles[-5].id]

    found = await newest.newest_started(client.store, lambda _: True, 4)
    assert found is not None
    assert [workflow_id for _, workflow_id in found] == expected
    assert [info.id async for info in client.workflows(limit=4)] == expected
    assert [info.id async for info in client.workflows()][:4] == expected

    monkeypatch.setattr(newest, "CLOCKS_S", 3600.0)  # all of them were started within the margin
    assert await newest.newest_started(client.store, lambda _: True, 4) is None
    assert [info.id async for info in client.workflows(limit=4)] == expected


async def test_what_is_rare_is_found_all_the_same(client: Client) -> None:
    """The end of the stream is given up where it has too few of what is looked for."""
    old = await client.start(patient)
    for _ in range(STARTED):
        await client.start(approval)
    await old.terminate("")

    def rare(entry: Glance) -> bool:
        return entry.name == patient.name

    assert await newest.newest_started(client.store, rare, 2) is None
    assert [info.id async for info in client.workflows(name=patient, limit=2)] == [old.id]
    listed = [info async for info in client.workflows(state=WorkflowState.terminated, limit=2)]
    assert [info.id for info in listed] == [old.id]


async def test_what_is_written_during_a_listing_is_listed_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends a record that was stored meanwhile behind all that was there: its workflow has been listed."""
    handles = [await client.start(approval) for _ in range(5)]
    histories = client.store.histories
    begin = histories._list_to

    async def begin_and_write(inbox: str) -> int:
        count = await begin(inbox)
        await handles[0].terminate("meanwhile")
        await client.store.connection.flush()
        return count

    monkeypatch.setattr(histories, "_list_to", begin_and_write)
    listed = [workflow_id async for workflow_id, _ in histories.entries()]
    assert sorted(listed) == sorted(handle.id for handle in handles)
