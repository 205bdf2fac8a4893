"""The code that the simulation's jobs run: what the next letter of a job's script says."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any

from turnout import Fatal, Limit, RetryLater, activity, current_job
from turnout.core.retry import RetryPolicy
from turnout.definition.activity import Activity


class Odd(Exception):
    """A failure that is not retried."""


class Scripted(Exception):
    """A failure as the script says."""


EXPECTED = (Odd, Scripted, Fatal, RetryLater)


Play = Callable[[Any], Any]
"""(the job's context) -> what its attempt comes to; awaited."""

PLAY: contextvars.ContextVar[Play] = contextvars.ContextVar("play")
"""What the code does on the host that runs it."""


@functools.cache
def activity_of(
    lease_s: float, max_lost: int, limits: tuple[Limit, ...] = (), fairness: str | None = None
) -> Activity[..., Any]:
    """The activity; making one takes longer than a history."""

    async def act(life: str) -> str:
        return str(await PLAY.get()(current_job()))

    async def of_tenant(life: str, tenant: str) -> str:
        return await act(life)

    retry = RetryPolicy(max_attempts=3, delay=1.0, jitter=0.1, never_on=(Odd,))
    options: dict[str, Any] = {"name": "act", "lease": lease_s, "max_lost": max_lost, "retry": retry, "limits": limits}
    return activity(**options)(act) if fairness is None else activity(**options, fairness=fairness)(of_tenant)


def end(letter: str, nonce: str) -> str:
    """How an attempt ends that nobody stopped."""
    if letter == "X":
        raise Fatal("as the script says")
    if letter == "L":
        raise RetryLater(2.0)
    if letter == "N":
        raise Odd("as the script says")
    if letter == "F":
        raise Scripted("as the script says")
    return nonce


async def forever() -> None:
    """Until somebody stops it."""
    await asyncio.get_running_loop().create_future()
