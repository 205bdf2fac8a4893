"""A workflow with a long history stays with the node that has it in memory, as long as that lives (W11)."""

from __future__ import annotations

import asyncio

from turnout import Client, Worker, current_workflow, workflow
from turnout.testing import NatsServer
from turnout.worker.workflows.passing import LONG_EVENTS

UPDATES = 40
made: list[int] = []
"""Grows each time the code begins: with the start, and with every replay."""


@workflow(name="tally")
class Tally:
    def __init__(self, upto: int) -> None:
        self.told = 0
        made.append(upto)

    @workflow.run
    async def run(self, upto: int) -> int:
        await current_workflow().wait_for(lambda: self.told >= upto)
        return self.told

    @workflow.signal
    async def tell(self) -> None:
        self.told += 1

    @workflow.update
    async def ask(self) -> int:
        self.told += 1
        return self.told


async def test_a_long_one_stays_where_it_is_in_memory(client: Client, server: NatsServer) -> None:
    """Of two nodes the other one passes on what it is handed; when the first leaves, it goes on with one replay."""
    made.clear()
    async with Client.connect(server.url, namespace=client.namespace) as other:
        async with Worker(client, workflows=[Tally]):
            handle = await client.start(Tally.run, LONG_EVENTS + UPDATES + 2)
            await asyncio.gather(*(handle.signal(Tally.tell) for _ in range(LONG_EVENTS)))
            assert await handle.update(Tally.ask) == LONG_EVENTS + 1
            assert len(made) == 1
            second = Worker(other, workflows=[Tally])
            await second.start()
            told = [await handle.update(Tally.ask) for _ in range(UPDATES)]
            assert told == [LONG_EVENTS + 2 + number for number in range(UPDATES)]
            # Half of these went to the other node: it replays where the first has not answered in time, and stays then.
            assert len(made) <= 4
        try:
            replayed = len(made)
            assert await handle.update(Tally.ask) == LONG_EVENTS + UPDATES + 2
            assert await handle.result(timeout=30) == LONG_EVENTS + UPDATES + 2
            assert len(made) <= replayed + 1
        finally:
            await second.stop()
