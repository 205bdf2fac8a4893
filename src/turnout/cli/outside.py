"""What `turnout job complete` and `turnout job fail` do."""

from __future__ import annotations

from turnout.cli.session import Session
from turnout.cli.submitting import read_payload
from turnout.client.handle import AnyHandle
from turnout.core.record import JobState


async def complete(s: Session, handle: AnyHandle, value: str | None, attempt: int | None) -> int:
    await handle.complete(None if value is None else read_payload(value), attempt)
    return await _show(s, handle, "completed")


async def fail(s: Session, handle: AnyHandle, message: str, fatal: bool, attempt: int | None) -> int:
    await handle.fail(message, fatal, attempt)
    return await _show(s, handle, "failed")


async def _show(s: Session, handle: AnyHandle, what: str) -> int:
    info = await handle.info()
    early = info.state is JobState.running and info.node is not None
    kept = "; that is kept, and counts when its code raises CompleteLater" if early else ""
    s.show(info, lambda: [f"{handle.id}  {what}; the job is {info.state}{kept}"])
    return 0
