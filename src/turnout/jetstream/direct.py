"""Reading many messages at once, from any replica of a stream: `$JS.API.DIRECT.GET`.

The server ends a batch early when it has sent 64 MiB of it, and that is no error. So a batch is asked for in rounds of
a bounded size, which also bounds what waits in memory, and the next round begins after the last message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from turnout.jetstream.calls import no_responders
from turnout.jetstream.messages import ApiError, Received, StoredMessage, stored_by_direct_get

ROUND_BYTES = 8 * 1024 * 1024

Ask = Callable[[str, Mapping[str, Any]], AsyncGenerator[Received]]
"""(subject, body) -> the answers, which end only when the reader closes them."""


async def direct_get(ask: Ask, stream: str, body: Mapping[str, Any]) -> AsyncIterator[StoredMessage]:
    """The messages that `body` asks for. Each subject of a `multi_last` comes once, even if it moves meanwhile."""
    subject = f"$JS.API.DIRECT.GET.{stream}"
    many, wanted = "batch" in body or "multi_last" in body, body.get("batch")
    rest = {"max_bytes": ROUND_BYTES, **body} if many else dict(body)
    count, seen = 0, set[str]()
    while True:
        last_seq = pending = 0
        async with aclosing(ask(subject, rest)) as answers:
            async for message in answers:
                if message.status is not None:
                    pending = _pending(message, subject)
                    break
                stored = stored_by_direct_get(message)
                count, last_seq = count + 1, stored.seq
                if stored.subject in seen:
                    continue
                if "multi_last" in body:
                    seen.add(stored.subject)
                yield stored
                if not many:
                    return
        if not pending or not last_seq or (wanted is not None and count >= wanted):
            return
        rest["seq"] = last_seq + 1
        rest.pop("start_time", None)
        if wanted is not None:
            rest["batch"] = wanted - count


def _pending(end: Received, subject: str) -> int:
    """How many messages the server has beyond the end of this round; raises if it is not just the end."""
    if end.status in (204, 404):
        return int(end.headers.get("Nats-Num-Pending", 0))
    if end.status == 503:
        raise no_responders(subject)
    raise ApiError(end.status or 500, 0, end.description, subject)
