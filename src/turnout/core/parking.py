"""Where a job waits that cannot start where it was received: in a line of a limit (P13), on the route to nodes that fit
(P15). And what has to go of it once it has ended: its place in the line, its message on the route, its timer (P11).
"""

from __future__ import annotations

import attrs

from turnout.core.effects import Ack, Effect, Park, Save, SendOn, TakeOff, Unpark, Unschedule
from turnout.core.events import Received
from turnout.core.evolve import evolve
from turnout.core.limits import LimitKey
from turnout.core.record import JobRecord, JobState, WaitsFor
from turnout.core.spec import express_of

Effects = tuple[Effect, ...]


def park(queued: JobRecord, event: Received, full: LimitKey) -> Effects:
    """Wait for a place of this limit, without a delivery, which would go on holding a slot and running out (P13).

    The record comes first: whoever finds the job in the line, or its message without one, goes by what it says. Who has
    waited in the line is let past those who have not: its place would be held for nothing as long as they are received.
    """
    before, spec = queued.waits_for, queued.spec
    since = before.since if before is not None and before.name == full.key else event.now
    parked = evolve(
        queued,
        spec=evolve(spec, options=spec.options.prioritized(express_of(spec.lane))),
        state=JobState.queued,
        message=event.delivery.message,
        rules=event.rules,
        waits_for=WaitsFor(full.key, full.name, since),
    )
    return (Save(parked), Park(parked), Ack(event.delivery.message))


def is_being_parked(queued: JobRecord, event: Received) -> bool:
    """Whether this is the message with which the job was parked: whoever does that will acknowledge it, however late,
    so no attempt may begin with it. Whoever is given a place comes with another one."""
    parked = event.limited and event.admitted is None and queued.waits_for is not None
    return parked and event.delivery.message.same(queued.message)


def send_on(queued: JobRecord, event: Received, requires: dict[str, str]) -> Effects:
    """Send the job on to the nodes that have what it requires: by a message of its own, which only they are handed.

    The record comes first: what ends the job meanwhile is known to whoever finds that message (P15).
    """
    options = attrs.evolve(queued.spec.options, requires=requires)
    routed = evolve(
        queued,
        spec=evolve(queued.spec, options=options),
        state=JobState.queued,
        message=event.delivery.message,
        rules=event.rules,
        waits_for=None,
    )
    return (Save(routed), SendOn(routed, event.delivery.message), Ack(event.delivery.message))


def unparked(record: JobRecord) -> Effects:
    """A job that has ended waits in no line; one that is found there has died before this, and is passed over."""
    return (Unpark(record),) if record.waits_for is not None else ()


def taken_off(record: JobRecord) -> Effects:
    """Of a job that was about to be sent on there may be two messages: none may outlive its record (P15)."""
    return (TakeOff(record),) if record.spec.options.requires else ()


def unscheduled(record: JobRecord) -> Effects:
    """The end of the timer of a job that never began: it would bring the job back when its record is gone (P11)."""
    return (Unschedule(record.spec),) if record.attempt == 0 else ()
