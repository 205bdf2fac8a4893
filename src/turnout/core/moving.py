"""Jobs that wait, and whose message has to be another one: of the same job, in the same lane or in another."""

from __future__ import annotations

from turnout.core.effects import Effect, Rank, Remove, Replace, Save, Schedule, Unschedule
from turnout.core.events import PriorityRequested
from turnout.core.evolve import evolve
from turnout.core.record import Delivery, JobRecord, JobState, MessageRef
from turnout.core.spec import is_express, priority_of

Effects = tuple[Effect, ...]


def requeue(record: JobRecord, message: MessageRef | None, replaced: int = 0) -> Effects:
    """Put the job's message in once more, in place of the one that is there.

    What waits for its time and has no message may have its timer still: it goes first, for the end of a job that has
    begun leaves timers alone, and it would bring the job back when its record is gone (P11).
    """
    if message is None:
        timer = (Unschedule(record.spec),) if record.state is JobState.scheduled else ()
        return (*timer, Replace(record.spec, 0, replaced))
    if message.bare or message.priority != record.spec.lane:
        # Never replace on the subject that all bare jobs share: it would wipe them (P8). Each lane has its own subject.
        return (Replace(record.spec, 0, replaced), Remove(message))
    return (Replace(record.spec, message.seq, replaced),)


def prioritized(record: JobRecord | None, current: JobRecord, event: PriorityRequested) -> Effects:
    """Another priority for a job that waits: `current` is how it stands, `record` what is recorded of it.

    The record comes first, if need be a new one: where the message is to be found goes by what that says, and a message
    that was moved does not tell when the job was submitted. Should the message stay where it was, or be in both lanes,
    one of them starts the job, and the other is dropped. A message that can't be run stays as it is: the one that took
    its place would say nothing of that, and its turn faults it.

    Into an express lane go jobs of its priority alone, and from there they go only for another priority.
    """
    delivery, before = event.delivery, current.spec
    if delivery is not None and delivery.problem is not None:
        return ()
    if is_express(event.priority) and priority_of(event.priority) != before.priority:
        return ()
    lane = before.lane if event.priority == before.priority else event.priority
    early = event.at_once and current.due_at is not None and current.due_at > event.now
    spec = evolve(before, options=before.options.prioritized(lane))
    changed = evolve(current, spec=spec, due_at=event.now if early else current.due_at)
    save = (Save(changed),) if changed != record else ()
    if delivery is None and current.waits_for is not None:
        return (*save, Rank(changed))  # unless it was moved before, whoever did that may have died on the way
    stays = delivery is None or (delivery.message.priority == lane and not early)
    if changed == current and stays:
        return ()
    if delivery is not None:
        # Of a scheduled job only what a timer or the sweep has put there is taken for its message (P11).
        replaced = max(delivery.replaced, 1) if current.state is JobState.scheduled else delivery.replaced
        return save if stays else (*save, *requeue(changed, delivery.message, replaced))
    if current.state is not JobState.scheduled or current.due_at is None or not save:
        return save
    if early:
        return (*save, *requeue(changed, None, 1))
    return (*save, Unschedule(spec), Schedule(spec, current.due_at, event.nonce))


def twin_of(seen: Delivery | None, found: Delivery | None) -> MessageRef | None:
    """The message that was seen, bare or in another lane, if another one carries the job by now."""
    if seen is None or found is None or found.message.same(seen.message):
        return None
    return seen.message if seen.message.bare or seen.message.priority != found.message.priority else None
