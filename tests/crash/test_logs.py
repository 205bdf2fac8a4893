"""The log of a job whose node was killed."""

from __future__ import annotations

import re

from tests.crash.activities import tells
from tests.crash.fleet import TTL_S, Fleet
from tests.support.waiting import until
from turnout import Client, LogLine


async def test_the_lines_of_a_lost_attempt_are_kept_up_to_the_last_second(turnout_client: Client, fleet: Fleet) -> None:
    """After a SIGKILL the lines of the dead node are there, but for its last second, and then those of the next one."""
    first = await fleet.start("first")
    handle = await turnout_client.submit(tells, count=100, until=2)

    async def some() -> list[LogLine]:
        return [line for line in await handle.logs() if line.message == "line 20"]

    await until(some)
    said_by = (await handle.info()).node
    await first.kill()
    second = await fleet.start("second")
    assert await handle.result(timeout=TTL_S + 30) == 2
    lines = await handle.logs()
    info = await handle.info()
    assert [attempt.outcome for attempt in info.attempts] == ["lost", "completed"]
    assert said_by == first.node
    assert {line.node for line in lines if line.attempt == 1} == {first.node}
    assert {line.node for line in lines if line.attempt == 2} == {second.node}
    assert [line.attempt for line in lines] == sorted(line.attempt for line in lines)
    numbers = [int(re.sub(r"\D", "", line.message)) for line in lines if line.attempt == 1]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20
