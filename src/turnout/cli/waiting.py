"""Waiting for something that goes on without whoever waits: Ctrl-C ends the wait, and says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol, TypeVar

import attrs
import click

from turnout.cli import output, pasting
from turnout.cli.exits import WaitedTooLong


@attrs.frozen
class Patience:
    """Whether to wait for the end of what is begun, to show its progress meanwhile, and for how many seconds.

    `click.UsageError` for a timeout of no wait.
    """

    wait: bool
    follow: bool
    timeout_s: float | None

    def __attrs_post_init__(self) -> None:
        if self.timeout_s is not None and not self.waits:
            raise click.UsageError("--timeout is how long to wait: it goes with --wait or --follow")

    @property
    def waits(self) -> bool:
        """Whether the end is waited for at all."""
        return self.wait or self.follow


@attrs.define
class Wait:
    """What a verb waits for. `said` on Ctrl-C; nothing while it is not there yet, or once its end is known."""

    said: str = ""

    def begins(self, kind: str, id_: str) -> None:
        """From now on it is a job, workflow or group that is waited for."""
        self.said = f"{kind} {id_} goes on; to stop it: {pasting.command(f'{kind} cancel {id_}')}"

    def ends(self) -> None:
        """Nothing is waited for any more: it has ended, or the patience has."""
        self.said = ""


@contextlib.contextmanager
def interruptible() -> Iterator[Wait]:
    """Around all of a verb, its connection too: a server that is away or slow to answer is waited for as well."""
    wait = Wait()
    try:
        yield wait
    except KeyboardInterrupt:
        if wait.said:
            output.note(wait.said)
        raise


class _Seen(Protocol):
    @property
    def state(self) -> Any: ...


_InfoT = TypeVar("_InfoT", bound=_Seen)
_InfoT_co = TypeVar("_InfoT_co", bound=_Seen, covariant=True)


class _Watchable(Protocol[_InfoT_co]):
    """The handle of a job or of a workflow."""

    @property
    def id(self) -> str: ...

    async def info(self) -> _InfoT_co: ...

    def watch(self) -> AsyncIterator[_InfoT_co]: ...


async def until_the_end(
    kind: str,
    handle: _Watchable[_InfoT],
    timeout_s: float | None,
    seen: Callable[[_InfoT], None] = lambda _: None,
) -> _InfoT:
    """The job or workflow as it ended, `seen` in each of its states. WaitedTooLong after `timeout_s`, but never before
    having looked once."""
    info = await handle.info()
    if info.state.final:
        seen(info)
        return info
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            async for info in handle.watch():
                seen(info)
    except TimeoutError:
        if not limit.expired():
            raise
    if not info.state.final:
        waited = f" after {timeout_s:g} s of waiting" if timeout_s else ""
        when = " once its code is repaired" if info.state == "stuck" else ""
        raise WaitedTooLong(f"{kind} {handle.id} is {info.state}{waited}; it goes on{when}")
    return info
