"""What the code of a workflow waits for besides commands: signals that it receives, and conditions.

A signal without a handler is kept until somebody receives it, in the order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from turnout.core.workflows.values import Input, Wait, WaitKind
from turnout.errors import InvalidValue


@attrs.define(eq=False)
class Receiver:
    """Somebody who waits for a signal; `code` is the line."""

    name: str
    future: asyncio.Future[Input]
    code: str
    since: float


@attrs.define(eq=False)
class Condition:
    """Somebody who waits until `holds()` is true."""

    holds: Callable[[], Any]
    future: asyncio.Future[None]
    code: str
    since: float


class Mailbox:
    """The signals that nobody has taken yet, and those who wait for one, or for a condition."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[Input]] = {}
        self.receivers: list[Receiver] = []
        self.conditions: list[Condition] = []

    @property
    def unreceived(self) -> tuple[Input, ...]:
        """What was taken and not received, in the order of arrival."""
        kept = [given for queue in self._kept.values() for given in queue]
        return tuple(sorted(kept, key=lambda given: (given.at, given.seq)))

    def waits(self) -> list[Wait]:
        """Those who wait, for people to see."""
        signals = [Wait(WaitKind.signal, name=each.name, since=each.since, code=each.code) for each in self.receivers]
        return signals + [Wait(WaitKind.condition, since=each.since, code=each.code) for each in self.conditions]

    def put(self, given: Input) -> None:
        """A signal has come: the one who has waited longest gets it, or it is kept."""
        for receiver in self.receivers:
            if receiver.name == given.what and not receiver.future.done():
                receiver.future.set_result(given)
                return
        self._kept.setdefault(given.what, deque()).append(given)

    def put_back(self, given: Input) -> None:
        """Whoever got the signal was cancelled before it could look: it is the next one's."""
        for receiver in self.receivers:
            if receiver.name == given.what and not receiver.future.done():
                receiver.future.set_result(given)
                return
        self._kept.setdefault(given.what, deque()).appendleft(given)

    def take(self, name: str) -> Input | None:
        """The oldest signal of this name that is kept."""
        queue = self._kept.get(name)
        if not queue:
            return None
        given = queue.popleft()
        if not queue:
            del self._kept[name]
        return given

    async def receive(self, name: str, code: str) -> Input:
        """The next signal of this name, as soon as there is one."""
        given = self.take(name)
        if given is not None:
            return given
        loop = asyncio.get_running_loop()
        receiver = Receiver(name, loop.create_future(), code, loop.time())
        self.receivers.append(receiver)
        try:
            return await receiver.future
        except asyncio.CancelledError:
            if receiver.future.done() and not receiver.future.cancelled():
                self.receivers.remove(receiver)
                self.put_back(receiver.future.result())
                self.receivers.append(receiver)
            raise
        finally:
            self.receivers.remove(receiver)

    async def until(self, holds: Callable[[], Any], code: str) -> None:
        """Return when the condition holds. InvalidValue for a coroutine function: what that returns is always true."""
        held = holds()
        if asyncio.iscoroutine(held):
            held.close()
            raise InvalidValue("wait_for takes a plain function that returns true or false, not an async one")
        if held:
            return
        loop = asyncio.get_running_loop()
        condition = Condition(holds, loop.create_future(), code, loop.time())
        self.conditions.append(condition)
        try:
            await condition.future
        finally:
            self.conditions.remove(condition)

    def check(self) -> bool:
        """Wake those whose condition holds by now; whether there were any."""
        woken = False
        for condition in self.conditions:
            if condition.future.done():
                continue
            try:
                if condition.holds():
                    condition.future.set_result(None)
                    woken = True
            except (Exception, asyncio.CancelledError) as error:  # user code: its error is that of who waits for it
                condition.future.set_exception(error)
                woken = True
        return woken
