"""The pull loop of any consumer: asks the server for messages, and hands each one on as it comes.

Not `PullSubscription.fetch`: a cancelled fetch leaves its request alive on the server, and the next message vanishes
into it until the ack wait. Here one inbox takes the answers of overlapping requests, the statuses are read, and what
the server has forgotten is asked for again over another inbox.

How much is asked for is for a `Demand` to say. It has two ways of asking. A request takes messages, as many as it says,
until it expires. A watch takes none: the server tells when there is a message, and keeps it for whoever asks next. A
peek is a watch that ends at once: the server tells whether there is a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs

from turnout import fastjson
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.connection import Connection, Message, Subscription, Violation
from turnout.nats.messages import level_of
from turnout.once import log_rarely

logger = logging.getLogger(__name__)

EXPIRES_S = 5.0
"""How long a request stands by default. A client that freezes goes on to be handed what it asked for until then."""

WATCH_S = 15.0
SLACK_S = 5.0
"""How much later than it should a request may end before it counts as forgotten."""

_BACKOFF_S = (0.2, 5.0)
_TICK_S = 5.0
_TOP_UP_S = 0.005


@attrs.frozen(kw_only=True)
class Source:
    """Where messages come from. `ensure` sees to it that the consumer is there; called with True it may change the
    consumer to what its owner wants."""

    stream: str
    consumer: str
    ensure: Callable[[bool], Awaitable[None]]


class Demand(Protocol):
    """What a puller's owner wants of it. Every method is called on the loop, and may call the puller's `ask`, `watch`
    and `freed`."""

    def top_up(self, puller: Puller) -> None:
        """Ask for what there is room for now. Called at the start, now and then, and after `freed`."""

    def ended(self, puller: Puller, unused: int) -> None:
        """A request has expired, and would have taken so many messages more: there are none to be had now."""

    def available(self, puller: Puller) -> None:
        """A watch has ended: there is a message to be had, or there was a moment ago."""


class Room:
    """The plainest demand: as many messages at once as there is room for.

        room = Room(100)
        puller = Puller(connection, Source(stream="orders", consumer="packing", ensure=ensure), room, deliver)

    `deliver` calls `room.take()`; whoever is done with a message calls `room.give()`, then `puller.freed()`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self) -> None:
        self.taken += 1

    def give(self) -> None:
        self.taken -= 1

    def top_up(self, puller: Puller) -> None:
        puller.ask(self.limit - self.taken - puller.asked)

    def ended(self, puller: Puller, unused: int) -> None:
        self.top_up(puller)

    def available(self, puller: Puller) -> None:
        self.top_up(puller)


class Puller:
    """Pulls the messages of one consumer. `start` it, let `run` go on beside, `stop` it at the end.

    `deliver` takes each message, straight from the read loop. `many` freed places are asked for at once, fewer after a
    few milliseconds.
    """

    def __init__(
        self,
        connection: Connection,
        source: Source,
        demand: Demand,
        deliver: Callable[[Message], None],
        *,
        expires_s: float = EXPIRES_S,
        many: int = 1,
    ) -> None:
        self.consumer = source.consumer
        self.asked = 0
        """How many messages have been asked for and have not come."""
        self.watching = False
        self.begun = 0
        """How often it has begun anew, and all that it had asked for was forgotten."""
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{source.stream}.{source.consumer}"
        self._demand = demand
        self._ensure = source.ensure
        self._deliver = deliver
        self._expires_s = expires_s
        self._many = many
        self._freed = 0
        self._requests: deque[tuple[float, int]] = deque()
        self._watch_until = 0.0
        self._renew = asyncio.Event()
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._trouble = ""
        self.refused = ""
        """What the server does not allow, and has not allowed since by an answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._listening: list[Callable[[], None]] = []

    @property
    def pulling(self) -> bool:
        """Whether the server has been asked and answers."""
        return self._subscription is not None and not self._renew.is_set() and not self.refused and self._connection.up

    @property
    def trouble(self) -> str | None:
        """Why nothing is pulled, None while all is well."""
        if self.pulling:
            return None
        return self.refused or self._trouble or ("begins anew" if self._connection.up else "offline")

    # --- its life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the server has the first request. Errors are those of the connection and of `ensure`; a request
        that is not allowed is no error, but `trouble`."""
        self._listening = [
            self._connection.on_up(self._renew.set),
            self._connection.on_refused(self._not_allowed),
        ]
        await self._begin(update=True)
        await self._connection.flush()

    async def refresh(self) -> None:
        """Look at the consumer again: somebody else may have changed it."""
        await self._ensure(False)

    def renew(self) -> None:
        """Look at the consumer again, and ask for everything anew: the server serves new requests at once after a
        pause, and those that stood meanwhile seconds later."""
        self._renew.set()

    async def run(self) -> None:
        """Keep pulling until cancelled."""
        pause = _BACKOFF_S[0]
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await self._renew.wait()
                if not self._renew.is_set() and not self._forgotten():
                    self.top_up()
                    continue
                await asyncio.sleep(pause * random.uniform(0.5, 1.0) if self._trouble else 0)
                pause = min(pause * 2, _BACKOFF_S[1]) if self._trouble else _BACKOFF_S[0]
                try:
                    await self._connection.wait_up()
                    await self._begin()
                except TurnoutError as error:
                    self._fail(error)
        finally:
            for forget in self._listening:
                forget()
            await self.stop()

    async def stop(self) -> None:
        """Ask for nothing any more; requests that are out lose their inbox, so that nothing vanishes into them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.drain()

    async def _begin(self, *, update: bool = False) -> None:
        await self._ensure(update)
        await self.stop()
        self._inbox = self._connection.new_inbox()
        self.asked, self.watching = 0, False
        self._requests.clear()
        self._renew.clear()
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._received)
        self._trouble = ""
        self.begun += 1
        self.top_up()

    # --- asking -------------------------------------------------------------------------------------------------------

    def freed(self) -> None:
        """There is more room: ask soon, together with what is freed in the next few milliseconds."""
        self._freed += 1
        if self._freed >= self._many:
            self.top_up()
        elif self._timer is None and self._subscription is not None:
            self._timer = self._loop.call_later(_TOP_UP_S, self.top_up)

    def top_up(self) -> None:
        """Let the demand ask for what there is room for."""
        self._freed = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._subscription is not None and not self._renew.is_set():
            self._demand.top_up(self)

    def ask(self, count: int, expires_s: float | None = None) -> bool:
        """Ask for so many messages more, for none if it is not above 0. False: the server can't be asked now."""
        if count <= 0:
            return True
        expires_s = expires_s or self._expires_s
        if not self._send("pull", {"batch": count, "expires": int(expires_s * 1e9)}):
            return False
        self.asked += count
        due = boottime() + expires_s + SLACK_S
        last = self._requests[-1] if self._requests else (0.0, 0)
        if due - last[0] < 0.5:  # as good as one request: a busy consumer is asked a thousand times a second
            self._requests[-1] = (due, last[1] + count)
        else:
            self._requests.append((due, count))
        return True

    def watch(self) -> None:
        """Have the server tell when there is a message, which stays where it is: it is larger than one byte."""
        if not self.watching and self._send("watch", {"batch": 1, "max_bytes": 1, "expires": int(WATCH_S * 1e9)}):
            self.watching = True
            self._watch_until = boottime() + WATCH_S + SLACK_S

    def peek(self) -> bool:
        """Have the server tell at once whether there is a message, by `available` or `ended`."""
        return self._send("peek", {"batch": 1, "max_bytes": 1, "no_wait": True})

    def _send(self, kind: str, body: dict[str, int]) -> bool:
        if self._subscription is None or self._renew.is_set():
            return False
        try:
            self._connection.send(self._subject, fastjson.dumps(body), reply=f"{self._inbox}.{kind}")
        except TurnoutError as error:
            self._trouble = str(error)
            self._renew.set()
            return False
        return True

    def _forgotten(self) -> bool:
        """Whether a request should have ended long ago: the server has lost it, and all that was asked for with it."""
        now = boottime()
        if self.asked == 0:
            self._requests.clear()
        while self._requests and self._requests[0][0] < now:
            self._requests.popleft()
        return self.asked > sum(count for _, count in self._requests) or (self.watching and now > self._watch_until)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _received(self, received: Message) -> None:
        self.refused = ""
        if received.status is not None:
            self._status(received)
            return
        self.asked = max(0, self.asked - 1)
        self._deliver(received)

    def _status(self, received: Message) -> None:
        """A request that ends says how many messages it still had to take; what ends otherwise is trouble."""
        if received.status == 100:
            return
        watch = received.subject.endswith((".watch", ".peek"))
        if received.subject.endswith(".watch"):
            self.watching = False
        text = received.description.lower()
        if watch and "message size" in text:
            self._demand.available(self)
        elif received.status in (404, 408) or "batch completed" in text or "message size" in text:
            unused = received.headers.get("Nats-Pending-Messages", "0")
            count = int(unused) if unused.isdigit() and not watch else 0
            self.asked = max(0, self.asked - count)
            self._demand.ended(self, count)
        else:
            # 409 Consumer Deleted, Leadership Change, Server Shutdown, Exceeded MaxWaiting; 503: no consumer at all.
            self._trouble = f"{received.status} {received.description}"
            logger.info("consumer %s: the server ends a request: %s", self.consumer, self._trouble)
            self._renew.set()

    def _not_allowed(self, violation: Violation) -> None:
        if violation.operation == "publish" and violation.subject == self._subject:
            self.refused = str(violation.error())
            self._fail(violation.error())

    def _fail(self, error: TurnoutError) -> None:
        """Begin anew after a while."""
        self._trouble = str(error)
        self._renew.set()
        level = level_of(error, logging.WARNING)
        log_rarely(logger, level, f"pull {self.consumer}", "consumer %s can't be pulled: %s", self.consumer, error)
