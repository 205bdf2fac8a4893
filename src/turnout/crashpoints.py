"""Named points at which a process can be made to die: for the tests in tests/crash, and off unless they switch it on.

`TURNOUT_CRASH_AT=Completed.Ack` makes the process kill itself (SIGKILL) when it first reaches that point,
`Completed.Ack:3` when it reaches it for the third time. `TURNOUT_CRASH_AT=-` kills nobody, but checks every name that
is reached against the list. Without the variable each point costs a look at a constant or a call that does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable

VARIABLE = "TURNOUT_CRASH_AT"

_EFFECTS = {
    "Submitted": "Publish Save Schedule",
    "Resubmitted": "WriteDeadLetter TellParent Save Unschedule Remove Publish Schedule",
    "Debounced": "Save Schedule",
    "Received": "Save WriteDeadLetter Ack Nak Ask Isolate Admit Park SendOn TakeOff Drop Replace Remove TellParent",
    "Declined": "Replace Remove",
    "Reported": "Save Abandon",
    "Completed": "Save Ack Abandon TellParent",
    "Failed": "Save WriteDeadLetter Ack Nak Replace Remove Abandon TellParent",
    "Snoozed": "Save WriteDeadLetter Ack Nak Replace Remove Abandon TellParent",
    "Deferred": "Save WriteDeadLetter Ack Nak Replace Remove Abandon TellParent",
    "Answered": "Save WriteDeadLetter TakeOff Replace Remove TellParent",
    "KeptAlive": "Save",
    "Cancelled": "Save Ack Abandon TellParent",
    "Aborted": "Save Ack Nak Replace Remove Abandon TellParent",
    "Lost": "Save WriteDeadLetter Nak TakeOff Remove TellParent",
    "CancelRequested": "Save Notify Unschedule TakeOff Remove TellParent Unpark",
    "RetryRequested": "Save WriteDeadLetter Replace TellParent",
    "PriorityRequested": "Save Unschedule Replace Remove Schedule Rank",
    "Expired": "Save WriteDeadLetter Unschedule TakeOff Remove TellParent Unpark",
    "Stuck": "Save WriteDeadLetter Replace Unschedule TakeOff Remove TellParent",
    "Leftover": "Save WriteDeadLetter TakeOff Remove TellParent",
}

_WORKFLOW_EFFECTS = (
    "Dispatch SetTimer ClearTimer ClearTimers CancelJob StartChild EndChild SendSignal SendCancel SendJoin Tell Wake "
    "PurgeRecords ScheduleCollection"
)

POINTS = frozenset(
    {
        # Before each effect of a decision, and after the last one: every prefix of it.
        *(f"{event}.{effect}" for event, effects in _EFFECTS.items() for effect in (*effects.split(), "done")),
        # The path of one delivery (worker/executor.py).
        "execute.received",
        "execute.registered",
        "execute.started",
        "execute.ended",
        "execute.settled",
        # What is done about places of limits (worker/admission.py, store/places.py).
        "execute.admitted",
        "places.parked",
        "places.stored",
        "places.granted",
        "places.released",
        # On the way to the nodes that fit (store/routes.py).
        "routes.made",
        "routes.sent",
        # Before each effect of a workflow's record (store/commit.py).
        *(f"workflow.{effect}" for effect in _WORKFLOW_EFFECTS.split()),
        # Between what makes a workflow, or a fork of one (store/starts.py, store/forks.py).
        "start.woken",
        "start.recorded",
        "fork.copied",
        # A supervisor between any two of its steps (supervisor/).
        "election.claimed",
        "election.resigned",
        "supervisor.elected",
        "supervisor.looked",
        "supervisor.counted",
        "supervisor.dealt",
        "supervisor.dropped",
        "supervisor.alarms",
        "supervisor.read",
        "supervisor.swept",
        "supervisor.registry",
        "supervisor.records",
        "supervisor.places",
        "sweep.verdict",
        "sweep.counted",
        # Between the name of a debounced job and the job itself (client/debouncer.py).
        "debounce.named",
        # On the way of a schedule's tick (supervisor/schedules.py).
        "schedule.begun",
        "schedule.saved",
        "schedule.armed",
        # What becomes of a group (store/members.py, supervisor/groups.py).
        "group.created",
        "group.published",
        "group.cancelled",
        "group.folded",
        "group.followed",
        "group.finished",
        "supervisor.groups",
    }
)
"""Every point there is."""

ARMED = VARIABLE in os.environ
"""Whether the tests have switched this on; decided once."""

_victim, _, _turn = os.environ.get(VARIABLE, "").partition(":")
_reached: Counter[str] = Counter()
_lock = threading.Lock()


def _reach(point: str) -> None:
    if point not in POINTS:
        raise LookupError(f"crash point {point} is not listed in turnout.crashpoints")
    with _lock:
        _reached[point] += 1
        if point == _victim and _reached[point] == int(_turn or 1):
            os.write(2, f"dies at {point}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


reach: Callable[[str], object] = _reach if ARMED else str
"""This process has come to the point of that name. Unless the tests have switched it on, that is the least call there
is: a text of a text is itself."""
