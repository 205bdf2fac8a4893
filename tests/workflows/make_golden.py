"""Makes the golden histories of a version, by real runs on a real server.

python -m tests.workflows.make_golden 0.1
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.waiting import until
from tests.workflows import golden_flows as flows
from turnout import (
    Client,
    UpdateFailed,
    UpdateRejected,
    Worker,
    WorkflowCancelled,
    WorkflowFaulted,
    WorkflowState,
    WorkflowTerminated,
)
from turnout.testing import NatsServer

GOLDEN = Path(__file__).parent / "golden"


async def _waits(handle: Any) -> bool:
    return bool((await handle.info()).waiting)


async def talk_to(handle: Any) -> None:
    """What the workflow with signals and updates hears."""
    await handle.signal(flows.Signals.add, "tea")
    with contextlib.suppress(UpdateRejected):
        await handle.update(flows.Signals.replace, "")
    with contextlib.suppress(UpdateFailed):
        await handle.update(flows.Signals.fail)
    assert await handle.update(flows.Signals.replace, "milk") == 1
    await handle.signal("unknown", {"a": 1})
    await handle.signal("decision", {"by": "ann"})
    await handle.signal(flows.Signals.add, "x" * 33_000)


async def scenes(client: Client) -> AsyncIterator[tuple[str, Any, Callable[[Any], Awaitable[None]] | None]]:
    """Each history's name, its workflow's handle, and what happens to it."""

    async def cancel(handle: Any) -> None:
        await until(lambda: _waits(handle))
        await handle.cancel("enough")

    async def terminate(handle: Any) -> None:
        await until(lambda: _waits(handle))
        await handle.terminate("closed")

    yield "activities", await client.start(flows.activities, 3), None
    yield "timers", await client.start(flows.timers), None
    yield "signals", await client.start(flows.Signals.run, 2), talk_to
    yield "children", await client.start(flows.children, 3), None
    yield "runs", await client.start(flows.runs.options().with_signal("kept", "abc"), 1, 3), None
    yield "patches", await client.start(flows.patches, 3), None
    yield "cancelled", await client.start(flows.cancelled), cancel
    yield "terminated", await client.start(flows.terminated), terminate
    yield "faulted", await client.start(flows.faulted), None
    yield "locals", await client.start(flows.locals_, 3), None
    yield "delayed", await client.start(flows.leaf.options(delay=0.1), 3), None


async def make(version: str) -> None:
    """Write the histories of this version, if they are not there."""
    folder = GOLDEN / version
    folder.mkdir(parents=True, exist_ok=True)
    with NatsServer() as server:
        async with (
            Client.connect(server.url, namespace="golden") as client,
            Worker(client, activities=flows.ACTIVITIES, workflows=flows.WORKFLOWS, name="golden"),
        ):
            async for name, handle, happens in scenes(client):
                if happens is not None:
                    await happens(handle)
                with contextlib.suppress(WorkflowFaulted, WorkflowCancelled, WorkflowTerminated):
                    await handle.result(timeout=60)
                assert (await handle.info()).state in set(WorkflowState)
                file = folder / f"{name}.jsonl"
                if not file.exists():
                    text = (await handle.history()).to_jsonl()
                    for place in (f"{Path.cwd()}/", f"{sys.base_prefix}/"):  # in tracebacks
                        text = text.replace(place, "")
                    file.write_text(text)


if __name__ == "__main__":
    asyncio.run(make(sys.argv[1]))
