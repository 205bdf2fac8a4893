"""A worker with one rule taken away: `python -m tests.crash.mutant NAME` and then what tests.crash.worker takes.

The crash suite must notice each of them (test_teeth.py).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import attrs

from tests.crash import worker
from turnout.core import lifecycle
from turnout.core.effects import Ack, Drop, Effect
from turnout.core.events import Aborted, Cancelled, Completed, Event, Failed
from turnout.core.record import JobRecord, JobState
from turnout.nats.connection import Connection
from turnout.store import perform
from turnout.store.failure_detector import FailureDetector
from turnout.supervisor.records import Records
from turnout.supervisor.sweep import Sweep
from turnout.worker.keeper import LeaseKeeper
from turnout.worker.leases import Lease


def ack_before_save() -> None:
    """The message goes before the record says what became of the job."""

    def decide(record: JobRecord | None, event: Event) -> tuple[Effect, ...]:
        effects = lifecycle.decide(record, event)
        acks = [effect for effect in effects if isinstance(effect, Ack)]
        return (*acks, Drop(), *(effect for effect in effects if effect not in acks)) if acks else effects

    replace(perform, "decide", decide)
    do = perform.Performer._do

    async def slowly(self: perform.Performer, effect: Any, event: Event) -> None:
        if isinstance(effect, Drop):
            await asyncio.sleep(0.2)  # the acknowledgement is on its way when the next effect begins
        await do(self, effect, event)

    replace(perform.Performer, "_do", slowly)


def no_fencing() -> None:
    """Whoever ran the code writes its end, whether or not the record bears its token."""

    def decide(record: JobRecord | None, event: Event) -> tuple[Effect, ...]:
        if isinstance(event, Completed | Failed | Cancelled | Aborted) and record is not None:
            record = attrs.evolve(record, state=JobState.running, token=event.token)
        return lifecycle.decide(record, event)

    replace(perform, "decide", decide)


def no_doubt_about_the_lease() -> None:
    """It extends what it thinks it has, and never reads whether it still has it."""

    async def nothing(self: LeaseKeeper, connection: Connection, leases: list[Lease]) -> None:
        return None

    async def blindly(self: LeaseKeeper, connection: Connection, unconfirmed: set[Lease]) -> None:
        for lease in unconfirmed:
            self._extend(connection, lease)

    replace(LeaseKeeper, "_read", nothing)
    replace(LeaseKeeper, "_confirm", blindly)


def no_doubt_about_oneself() -> None:
    """It calls others dead as soon as it is back itself."""
    replace(FailureDetector, "__call__", lambda self: True)


def no_sweep() -> None:
    """It believes in alarms."""

    async def nothing(self: Sweep | Records) -> None:
        return None

    replace(Sweep, "look", nothing)
    replace(Sweep, "read", nothing)
    replace(Records, "look", nothing)


def replace(owner: Any, name: str, by: Any) -> None:
    """Put another thing in the place of one that must be there: a mutant that mutates nothing proves nothing."""
    assert hasattr(owner, name), f"{owner} has no {name} to be mutated"
    setattr(owner, name, by)


MUTANTS: dict[str, Callable[[], None]] = {
    mutate.__name__: mutate
    for mutate in (ack_before_save, no_fencing, no_doubt_about_the_lease, no_doubt_about_oneself, no_sweep)
}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    MUTANTS[sys.argv[1]]()
    asyncio.run(worker.main(*sys.argv[2:]))
