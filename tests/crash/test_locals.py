"""A worker dies with a local activity in its hand, and another one runs it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.flows import local_steps
from tests.support.waiting import until
from turnout import Client


@pytest.mark.timeout(120)
async def test_a_local_activity_survives_its_worker(fleet: Fleet, turnout_client: Client, tmp_path: Path) -> None:
    """What had ended on record is not run again; what its death has interrupted is, by the next worker alone."""
    lines = tmp_path / "lines"
    first = await fleet.start("first")
    handle = await turnout_client.start(local_steps, str(lines))

    async def stays() -> bool:
        return [each.name for each in (await handle.info()).waiting] == ["note_and_stay"]

    await until(stays)
    await first.kill()
    for number in range(2):
        await fleet.start(f"w{number}")
    assert await handle.result(timeout=60) == "first"
    assert lines.read_text().splitlines() == ["first", "stays", "stays"]
