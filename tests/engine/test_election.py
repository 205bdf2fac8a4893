"""Which supervisor acts, and how soon another one does when it has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client
from turnout.supervisor.election import Election

TTL_S = 30.0


async def test_who_is_stopped_while_it_claims_leaves_nothing(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim was stored, and it has not heard of that: another one acts at once, not after the claim's TTL."""
    store = turnout_client.store
    stopped = Election(store.connection, store.names, "stopped", TTL_S)
    put = store.connection.store

    async def unheard(*args: Any, **more: Any) -> Any:
        await put(*args, **more)
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(store.connection, "store", unheard)
        with pytest.raises(asyncio.CancelledError):
            await stopped.stand()
    other = Election(store.connection, store.names, "other", TTL_S)
    assert not await other.stand()
    await stopped.resign()
    assert await other.stand()
    await stopped.resign()
    assert await other.stand()


async def test_a_key_of_no_sense_is_vacant_in_time(turnout_client: Client) -> None:
    """Also one whose TTL is a number that no float holds: it has that of whoever finds it."""
    store = turnout_client.store
    finder = Election(store.connection, store.names, "finder", 0.2)
    await store.connection.store(store.names.node("leader.supervisor"), b'{"ttl":1%s}' % (b"0" * 400))
    await until(finder.stand)
