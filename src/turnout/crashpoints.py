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

VARIABLE = "TURNOUT_CRASH_AT"

_EFFECTS = {
    "Submitted": "Publish Save Schedule",
    "Received": "Save Letter Ack Nak Ask Drop Replace Remove",
    "Reported": "Save Abandon",
    "Completed": "Save Ack Abandon",
    "Failed": "Save Letter Ack Nak Replace Remove Abandon",
    "Cancelled": "Save Ack Abandon",
    "Aborted": "Save Ack Nak Replace Remove Abandon",
    "Lost": "Save Letter Nak Remove",
    "CancelRequested": "Save Notify Unschedule Remove",
    "RetryRequested": "Save Letter Replace",
    "Expired": "Save Letter Unschedule Remove",
    "Stuck": "Save Letter Replace Unschedule Remove",
    "Leftover": "Save Letter Remove",
}

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
        # A supervisor between any two of its steps (supervisor/).
        "election.claimed",
        "election.resigned",
        "supervisor.elected",
        "supervisor.looked",
        "supervisor.counted",
        "supervisor.dealt",
        "supervisor.dropped",
        "supervisor.alarms",
        "supervisor.swept",
        "supervisor.registry",
        "sweep.verdict",
        "sweep.counted",
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


def _pass(point: str) -> None:
    """What `reach` is in every process but those of the tests."""


reach = _reach if ARMED else _pass
