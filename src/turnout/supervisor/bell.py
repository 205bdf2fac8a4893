"""A bell: rings when something is published that makes work for a duty, so that one without work need not look often.

It hears what anybody publishes, before that is stored or at about that time, and nothing of what the server stores by
itself, or has from another account. So it says no more than that it is time to look, and whoever listens looks now and
then in any case.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from turnout.nats.connection import Connection, Message
from turnout.nats.subscription import Subscription
from turnout.store.names import Names


class Bell:
    """Listens to these subjects (wildcards allowed). Who listens may rest for `rest_s` seconds."""

    def __init__(self, connection: Connection, *subjects: str, rest_s: float) -> None:
        self.rest_s = rest_s
        self._connection = connection
        self.subjects = subjects
        self._heard: list[Subscription] = []
        self._forget: Callable[[], None] | None = None

    async def listen(self, ring: Callable[[], None]) -> None:
        """Call `ring` once, with the next that is published, or when the connection is lost. What is read after this
        over the same connection was there before, or rings. It goes on if it listens already. Errors are those of the
        connection."""
        if self._forget is not None:
            return

        def hear(_: Message | None = None) -> None:
            self.close()
            ring()

        self._forget = self._connection.on_down(hear)
        try:
            for subject in self.subjects:
                self._heard.append(await self._connection.subscribe(subject, hear, confirmed=False))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ring no more: of what comes now nothing has to be sent here."""
        if self._forget is not None:
            self._forget()
            self._forget = None
        while self._heard:
            self._heard.pop().end()


@attrs.frozen
class Bells:
    """What makes work for which duty."""

    nodes: Bell
    handed: Bell
    waiting: Bell
    records: Bell
    limits: Bell
    completions: Bell
    groups: Bell

    @classmethod
    def over(cls, connection: Connection, names: Names, ttl_s: float) -> Bells:
        """`ttl_s` is the liveness TTL: whoever listens rests for half of it, and for a fifth where the server by itself
        makes work as well: keys of nodes lapse, and delayed jobs are handed to somebody when their time has come."""

        def bell(*subjects: str, rest_s: float = ttl_s / 2) -> Bell:
            return Bell(connection, *subjects, rest_s=rest_s)

        return cls(
            nodes=bell(rest_s=ttl_s / 5),
            handed=bell(names.all_jobs, names.routed("*", "*", "*"), rest_s=ttl_s / 5),
            waiting=bell(names.all_jobs),
            records=bell(names.stored("*", "*")),
            limits=bell(names.limit("*"), names.places("*"), names.parked("*", "*", "*")),
            completions=bell(names.answer("complete", "*"), names.answer("fail", "*")),
            groups=bell(names.group("*")),
        )
