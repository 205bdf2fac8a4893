"""How long the queues are: what the acting supervisor tells the metrics.

One process tells it for the whole namespace, so that a sum over all processes is right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import attrs

from turnout.bounded import each
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.store.consumers import Consumer
from turnout.store.perform import Store
from turnout.telemetry import metrics

_AT_ONCE = 16


@attrs.frozen
class _Measured:
    """An activity's queue at an instant of `boottime()`."""

    depth: int
    oldest_age_s: float
    at: float

    def with_those_of(self, other: _Measured | None) -> _Measured:
        """Both as one queue: an activity has one of its own, and one on each route."""
        if other is None:
            return self
        return _Measured(self.depth + other.depth, max(self.oldest_age_s, other.oldest_age_s), self.at)

    def now(self) -> metrics.QueueState:
        """The age has grown since, as long as somebody waits."""
        grown = boottime() - self.at if self.depth else 0.0
        return metrics.QueueState(self.depth, self.oldest_age_s + grown)


class Queues:
    """The queues as they were last measured, for any thread to look at."""

    def __init__(self) -> None:
        self._measured: dict[str, _Measured] = {}

    async def measure(self, store: Store, consumers: Iterable[Consumer]) -> None:
        """Ask how old the first message is that each of these consumers has not handed over. Trouble is for later."""
        consumers = list(consumers)
        metrics.serve(consumer.activity for consumer in consumers)

        async def one(consumer: Consumer) -> tuple[str, _Measured]:
            age_s = await _oldest_age(store, consumer) if consumer.pending else 0.0
            return consumer.activity, _Measured(consumer.pending, age_s, boottime())

        with contextlib.suppress(TurnoutError):
            found: dict[str, _Measured] = {}
            for activity, one_of in await each(one, consumers, _AT_ONCE):
                found[activity] = one_of.with_those_of(found.get(activity))
            self._measured = found

    def look(self) -> Mapping[str, metrics.QueueState]:
        """The queues as they are by now."""
        return {activity: measured.now() for activity, measured in self._measured.items()}

    def forget(self) -> None:
        """Somebody else tells it from now on."""
        self._measured = {}


async def _oldest_age(store: Store, consumer: Consumer) -> float:
    names, connection = store.names, store.connection
    # A bare job is on a subject of its own, which no pattern shares with those that have an id.
    found = [
        await connection.get_message(names.work, seq=consumer.delivered_seq + 1, next_by_subj=subject)
        for subject in consumer.subjects(names)
    ]
    times = [stored.time_ns / 1e9 for stored in found if stored is not None]
    return max(connection.now() - min(times), 0.0) if times else 0.0
