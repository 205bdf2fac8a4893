"""What a node is asked over its control subject: whether it runs an attempt, to look for a cancel, to drain,
or to look at a consumer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import attrs

from turnout import fastjson, wire
from turnout.nats.connection import Message
from turnout.worker.leases import Lease, Leases

logger = logging.getLogger("turnout.worker.leases")


@attrs.frozen(kw_only=True)
class Control:
    """Answers the messages of the control subject.

    `reply` sends an answer. `on_asked` hears of each lease that somebody asks about, `on_cancel` of each whose job
    somebody cancels, `on_drain` that the node is to drain, `on_look` that the consumer of
    an activity has been paused or resumed.
    """

    leases: Leases
    reply: Callable[[str, bytes], None]
    on_asked: Callable[[Lease], None]
    on_cancel: Callable[[Lease], None]
    on_drain: Callable[[], None]
    on_look: Callable[[str], None]

    def received(self, message: Message) -> None:
        try:
            body: Any = fastjson.loads(message.data)
            if "ask" in body:
                self._answer(message.reply, body)
            elif "cancel" in body:
                lease = self.leases.of(wire.load_token(body["cancel"]).nonce)
                if lease is not None:
                    self.on_cancel(lease)
            elif "look" in body:
                self.on_look(str(body["look"]))
            elif body.get("drain"):
                self.on_drain()
                self.reply(message.reply, b'{"draining":true}')
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("a message on the control subject makes no sense: %s: %r", error, message.data[:200])

    def _answer(self, reply: str, body: dict[str, Any]) -> None:
        lease = self.leases.of(wire.load_token(body["ask"]).nonce)
        if lease is not None and body.get("exhausted"):
            lease.exhausted = True
        self.reply(reply, b'{"yes":true}' if lease is not None else b'{"yes":false}')
        if lease is not None:
            self.on_asked(lease)
