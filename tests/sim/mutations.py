"""What the simulation must notice: each mutation takes one rule away, of decide() or of whoever performs and asks.

`MISSING` are rules that the actors and the interpreter keep, with plans in which it shows when they do not; `MUTANTS`
wrap decide(), and random histories find them within a few hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from tests.sim.plan import Act, Fault, Plan
from turnout.core import lifecycle
from turnout.core.effects import Abandon, Ack, Effect, Letter, Nak, Replace, Save
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Completed,
    Event,
    Failed,
    Leftover,
    Lost,
    Received,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.values import JobRecord, JobState

Effects = tuple[Effect, ...]
Decide = Callable[[JobRecord | None, Event], Effects]
ENDS = (Completed, Failed, Cancelled, Aborted)


def settle_before_save(record: JobRecord | None, event: Event) -> Effects:
    """Settling comes first: a crash in between loses the job."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, ENDS):
        return tuple(sorted(effects, key=lambda effect: not isinstance(effect, Ack | Nak)))
    return effects


def letter_after_ack(record: JobRecord | None, event: Event) -> Effects:
    """P4: the dead letter comes after the message was removed."""
    return tuple(sorted(lifecycle.decide(record, event), key=lambda effect: isinstance(effect, Letter)))


def no_letter_for_leftovers(record: JobRecord | None, event: Event) -> Effects:
    """P4: whoever meets a faulted job's message only removes it."""
    effects = lifecycle.decide(record, event)
    met = (
        record is not None
        and record.state is JobState.faulted
        and isinstance(event, Received | Leftover | Completed | Failed)
    )
    return tuple(effect for effect in effects if not isinstance(effect, Letter)) if met else effects


def no_doubt_at_the_end(record: JobRecord | None, event: Event) -> Effects:
    """P1: whoever ran code writes its end, whether or not the record bears its token."""
    if isinstance(event, ENDS) and record is not None and not record.state.final:
        record = attrs.evolve(record, state=JobState.running, token=event.token)
    return lifecycle.decide(record, event)


def revision_is_ownership(record: JobRecord | None, event: Event) -> Effects:
    """P1: an owner who finds the record changed, if only by a cancel request, has lost its lease."""
    if isinstance(event, ENDS) and record is not None and record.cancel_request is not None:
        return (Abandon(),)
    return lifecycle.decide(record, event)


def generations_unseen(record: JobRecord | None, event: Event) -> Effects:
    """P2: a delivery is taken for the record's own generation."""
    if isinstance(event, Received) and record is not None:
        event = attrs.evolve(event, delivery=attrs.evolve(event.delivery, generation=record.generation))
    return lifecycle.decide(record, event)


def retry_saves_first(record: JobRecord | None, event: Event) -> Effects:
    """P2: a retry resets the record in its place, and publishes nothing that tells the lives apart."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, RetryRequested) and effects and record is not None:
        again = attrs.evolve(record, state=JobState.queued, failures=0, losses=0, attempts=(), finished_at=None)
        return (
            Save(again),
            *(e if not isinstance(e, Replace) else attrs.evolve(e, record=again) for e in effects[-1:]),
        )
    return effects


def lapsed_is_dead(record: JobRecord | None, event: Event) -> Effects:
    """P5: a redelivery is the verdict; nobody is asked."""
    if isinstance(event, Received) and record is not None and record.token is not None:
        event = attrs.evolve(event, asked=record.token, verdict=Verdict.gone)
    return lifecycle.decide(record, event)


def losses_uncounted(record: JobRecord | None, event: Event) -> Effects:
    """Budgets: a lost attempt costs nothing, poison goes on for ever."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, Lost | Received) and record is not None:
        return tuple(
            attrs.evolve(e, record=attrs.evolve(e.record, losses=record.losses)) if isinstance(e, Save) else e
            for e in effects
        )
    return effects


def failures_unbounded(record: JobRecord | None, event: Event) -> Effects:
    """Budgets: what the code asks for (RetryLater) is granted whatever the policy says."""
    if isinstance(event, Failed) and record is not None and event.fatal is None:
        effects = lifecycle.decide(attrs.evolve(record, failures=0), event)
        return tuple(
            attrs.evolve(e, record=attrs.evolve(e.record, failures=record.failures + 1)) if isinstance(e, Save) else e
            for e in effects
        )
    return lifecycle.decide(record, event)


def exhausted_is_naked(record: JobRecord | None, event: Event) -> Effects:
    """P7: the sweep NAKs what is stuck; an exhausted message is not revived by that."""
    if isinstance(event, Stuck) and event.found is not None and lifecycle.decide(record, event):
        return (Nak(attrs.evolve(event.found.message, ack="built")),)
    return lifecycle.decide(record, event)


def rounds_uncounted(record: JobRecord | None, event: Event) -> Effects:
    """P7: what was put in anew doesn't say how often, so poison that kills before the first record never ends."""
    effects = lifecycle.decide(record, event)
    return tuple(attrs.evolve(e, replaced=0) if isinstance(e, Replace) else e for e in effects)


def due_unread(record: JobRecord | None, event: Event) -> Effects:
    """A delivery starts whenever it comes: a server that forgets delays breaks the retry policy."""
    if isinstance(event, Received) and record is not None and record.state is JobState.retrying:
        record = attrs.evolve(record, due_at=0.0)
    return lifecycle.decide(record, event)


def duplicates_beside_a_schedule_run(record: JobRecord | None, event: Event) -> Effects:
    """P11: whatever message of the id comes, starts the scheduled job."""
    if isinstance(event, Received) and record is not None and record.state is JobState.scheduled:
        record = attrs.evolve(record, state=JobState.queued)
    return lifecycle.decide(record, event)


def replaced_is_a_duplicate(record: JobRecord | None, event: Event) -> Effects:
    """P11: only the timer's own message starts a scheduled job, not one that the sweep put in anew."""
    if isinstance(event, Received) and record is not None and record.state is JobState.scheduled:
        if event.delivery.replaced:
            return (Ack(event.delivery.message),)
    return lifecycle.decide(record, event)


def expiring_overwrites(record: JobRecord | None, event: Event) -> Effects:
    """P12: the queued record of an expiring job is written whatever is there by then."""
    if isinstance(event, Submitted) and record is not None and event.at is None:
        return (Save(event.draft),)
    return lifecycle.decide(record, event)


def supervisor_only_naks(record: JobRecord | None, event: Event) -> Effects:
    """P6: the supervisor leaves the counting to the next worker's start."""
    effects = lifecycle.decide(record, event)
    return tuple(effect for effect in effects if isinstance(effect, Nak)) if isinstance(event, Lost) else effects


def cancel_takes_the_job(record: JobRecord | None, event: Event) -> Effects:
    """P1: a client's cancel ends a running job in the record, over its owner's head."""
    if isinstance(event, CancelRequested) and record is not None and record.state is JobState.running:
        record = attrs.evolve(record, state=JobState.queued)
    return lifecycle.decide(record, event)


@attrs.frozen
class Tooth:
    """A rule that is taken away; `plans` are tried before random ones, each with its own seed."""

    costs: str
    caught_by: tuple[str, ...]
    plans: tuple[Plan, ...] = ()
    decide: Decide = lifecycle.decide


def plans(script: str, *extra: Fault | Act, kind: str = "plain", seeds: int = 20, **more: Any) -> tuple[Plan, ...]:
    """The same plan under several seeds."""
    faults = tuple(e for e in extra if isinstance(e, Fault))
    acts = tuple(e for e in extra if isinstance(e, Act))
    plan = attrs.evolve(Plan(jobs=((kind, script),), faults=faults, acts=acts), **more)
    return tuple(attrs.evolve(plan, seed=seed) for seed in range(seeds))


MUTANTS: dict[Decide, tuple[str, ...]] = {
    settle_before_save: ("U5", "U6"),
    letter_after_ack: ("U6",),
    no_letter_for_leftovers: ("U6",),
    no_doubt_at_the_end: ("U3",),
    revision_is_ownership: ("U13",),
    generations_unseen: ("U1", "U5", "U13"),
    retry_saves_first: ("U2",),
    lapsed_is_dead: ("U9",),
    losses_uncounted: ("U8", "U4"),
    failures_unbounded: ("U4",),
    exhausted_is_naked: ("U13",),
    rounds_uncounted: ("U5", "U13"),
    due_unread: ("U12",),
    duplicates_beside_a_schedule_run: ("U12",),
    replaced_is_a_duplicate: ("U5", "U13"),
    expiring_overwrites: ("U8", "U3", "U2"),
    supervisor_only_naks: ("U13",),
    cancel_takes_the_job: ("U3",),
}
"""decide() without one of its rules, and the invariants that may notice first."""

MISSING: dict[str, Tooth] = {
    "start CAS": Tooth("two start it, or one starts what has ended", ("U2", "U3", "U8", "U4")),
    "end CAS": Tooth(
        "an end that was held up overwrites what has happened since",
        ("U2", "U3"),
        plans("C", Fault("cut", 0.2, 12.0, 0)) + plans("C", Fault("cut", 0.2, 12.0, 1)),
    ),
    "ask": Tooth("a redelivery is a verdict", ("U9",), plans("W", Fault("early", 1.0))),
    "silence": Tooth("no answer is a verdict", ("U9",), plans("W", Fault("lossy", 0.0, 8.0), Fault("early", 1.0))),
    "self doubt": Tooth(
        "after an outage whoever is back first declares the others dead",
        ("U9",),
        plans("WC", Fault("server", 0.5, 5.0), Fault("early", 6.0))
        + plans("WC", Fault("kill", 0.5, 7.0), Fault("early", 8.2)),
    ),
    "registered first": Tooth(
        "an owner denies the attempt that it is about to start",
        ("U9",),
        plans("W", Fault("lossy", 0.0, 3.0), *(Fault("early", n / 10) for n in range(1, 12)), seeds=60),
    ),
    "supervisor decides": Tooth("poison with no worker left runs for ever", ("U13",), plans("KK", deliver=2)),
    "sweep": Tooth("what is exhausted stays so", ("U13",), plans("KZF", deliver=2)),
    "walks the stream": Tooth(
        "nobody finds a job that never got a record", ("U13",), plans("C", deliver=2, crash=(2, 3))
    ),
    "nonces": Tooth("the window swallows a retry", ("U1",), plans("X", Act("retry", 5.0))),
    "bare moves": Tooth(
        "a rollup on the bare subject wipes all bare jobs", ("U1",), plans("K", jobs=(("bare", "K"),) * 3, deliver=2)
    ),
    "node nonce": Tooth("a namesake answers for the owner", ("U9",), plans("W", Fault("early", 1.0))),
    "age": Tooth(
        "what lay in a frozen worker runs when all trace of the job is gone",
        ("U2",),
        sum((plans("C", Fault("freeze", n / 1000, 4000.0), Act("delete", 30.0), seeds=6) for n in range(2, 20, 3)), ()),
    ),
    "marker": Tooth(
        "an ack that comes back revives a deleted job",
        ("U2",),
        plans("C", Act("delete", 6.0), Fault("kill", 12.0, 3.0)),
    ),
    "retention": Tooth("an ack that comes back finds no record any more", ("U2",), plans("C", Fault("kill", 8.0, 2.0))),
    "doubt": Tooth("a zombie holds the message and runs on", ("U14",), plans("D")),
    "one voice": Tooth("one's own +WPI undoes one's own nak(delay)", ("U15",), plans("FC") + plans("LC")),
}
"""Rules that the interpreter and the actors keep."""
