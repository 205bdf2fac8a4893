"""Pulling: one loop per activity that asks the server for as many jobs as there are free slots.

Not `PullSubscription.fetch`: a cancelled fetch leaves its request alive on the server, and the next message vanishes
into it until the ack wait. Here one inbox takes the answers of overlapping requests, the statuses are read, and a
watchdog begins anew with another inbox when the server has fallen silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Awaitable, Callable

from turnout import fastjson
from turnout.core.values import Delivery
from turnout.errors import TurnoutError
from turnout.jetstream.connection import Connection, Received, Subscription
from turnout.jetstream.names import Names
from turnout.jetstream.queue import parse_received
from turnout.jetstream.suspension import suspended_too
from turnout.worker.slots import Slots

logger = logging.getLogger("turnout.worker.pull")

EXPIRES_S = 30.0
HEARTBEAT_S = 10.0
HOLD_S = 0.5
"""How long a job may wait for a slot of the node before it is given back: two activities may have asked at once."""

_BACKOFF_S = (0.2, 5.0)
_TOP_UP_S = 0.005


class Puller:
    """Pulls one activity's jobs and hands them on.

    `ensure` sees to it that there is a consumer, changes it to its own options when called with True, and returns its
    ack wait in seconds and its max_deliver. `accept` takes a delivery and its ack wait.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        activity: str,
        slots: Slots,
        *,
        ensure: Callable[[bool], Awaitable[tuple[float, int]]],
        accept: Callable[[Delivery, float], None],
    ) -> None:
        self.activity = activity
        self.ack_wait_s = 0.0
        self._connection = connection
        self._names = names
        self._slots = slots
        self._ensure = ensure
        self._accept = accept
        self._max_deliver = 0
        self._outstanding = 0
        self._freed = 0
        self._many = max(1, slots.limit(activity) // 2)  # a job tells twice: that it has come, and that it is done
        self._renew = asyncio.Event()
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._heard_at = 0.0
        self._trouble = ""
        self._top_up: asyncio.TimerHandle | None = None

    @property
    def pulling(self) -> bool:
        """Whether the server has been asked and answers."""
        return self._subscription is not None and not self._renew.is_set() and self._connection.up

    @property
    def trouble(self) -> str | None:
        """Why nothing is pulled, None while all is well."""
        if self.pulling:
            return None
        return (
            f"{self.activity} is not pulled: {self._trouble or ('begins anew' if self._connection.up else 'offline')}"
        )

    async def start(self) -> None:
        """Returns when the first request is out. Errors are those of the connection."""
        await self._begin(update=True)
        self._pull()

    async def refresh(self) -> None:
        """Read the consumer's options again: another version of the worker may have changed them."""
        self.ack_wait_s, self._max_deliver = await self._ensure(False)

    async def run(self) -> None:
        """Keep pulling until cancelled."""
        forget = self._connection.on_up(self._renew.set)
        pause = _BACKOFF_S[0]
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._renew.wait()
                silent = self._outstanding > 0 and suspended_too() - self._heard_at > 2 * HEARTBEAT_S
                if not self._renew.is_set() and not silent:
                    self._pull()
                    continue
                await asyncio.sleep(pause * random.uniform(0.5, 1.0) if self._trouble else 0)
                pause = min(pause * 2, _BACKOFF_S[1]) if self._trouble else _BACKOFF_S[0]
                try:
                    await self._connection.wait_up()
                    await self._begin()
                    self._pull()
                except TurnoutError as error:
                    self._trouble = str(error)
                    self._renew.set()
                    logger.warning("activity %s can't be pulled: %s", self.activity, error)
        finally:
            forget()
            await self.stop()

    async def stop(self) -> None:
        """Ask for nothing any more; requests that are out lose their inbox, so that nothing vanishes into them."""
        if self._top_up is not None:
            self._top_up.cancel()
            self._top_up = None
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.drain()

    def slot_freed(self) -> None:
        """A slot is free: ask for more, together with the slots that are freed in the next few milliseconds."""
        self._freed += 1
        if self._freed >= self._many:
            self._pull()
        elif self._top_up is None and self._slots.wanted(self.activity, self._outstanding) > 0:
            self._top_up = asyncio.get_running_loop().call_later(_TOP_UP_S, self._topped_up)

    def _topped_up(self) -> None:
        self._top_up = None
        self._pull()

    async def _begin(self, *, update: bool = False) -> None:
        self.ack_wait_s, self._max_deliver = await self._ensure(update)
        await self.stop()
        self._inbox = f"_INBOX.{uuid.uuid4().hex}"
        self._outstanding = 0
        self._heard_at = suspended_too()
        self._renew.clear()
        self._subscription = await self._connection.subscribe(self._inbox, self._received)
        self._trouble = ""

    def _pull(self) -> None:
        self._freed = 0
        want = self._slots.wanted(self.activity, self._outstanding)
        if want <= 0 or self._subscription is None:
            return
        body = {"batch": want, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.work}.{self.activity}"
        try:
            self._connection.send(subject, fastjson.dumps(body), reply=self._inbox)
        except TurnoutError as error:
            self._trouble = str(error)
            self._renew.set()
            return
        if self._outstanding == 0:
            self._heard_at = suspended_too()
        self._outstanding += want

    def _received(self, received: Received) -> None:
        self._heard_at = suspended_too()
        if received.status is not None:
            self._status(received)
            return
        self._outstanding = max(0, self._outstanding - 1)
        delivery = parse_received(self._names, received, self._max_deliver)
        if delivery is not None:
            self._accept(delivery, self.ack_wait_s)
        # Its share of the node's slots was asked for, which is not all of them when there are other activities.
        self.slot_freed()

    def _status(self, received: Received) -> None:
        """100 is a heartbeat; a request that ends says how many it still had to give; the rest is trouble."""
        if received.status == 100:
            return
        ended = received.headers.get("Nats-Pending-Messages")
        text = received.description.lower()
        if received.status in (404, 408) or "batch completed" in text or "message size" in text:
            self._outstanding = max(0, self._outstanding - int(ended)) if ended and ended.isdigit() else 0
            self._pull()
            return
        # 409 Consumer Deleted, Leadership Change, Server Shutdown, Exceeded MaxWaiting; 503: no such consumer at all.
        self._trouble = f"{received.status} {received.description}"
        logger.info("activity %s: the server ends a request: %s", self.activity, self._trouble)
        self._renew.set()
