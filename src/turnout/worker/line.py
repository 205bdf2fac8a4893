"""A line of jobs at a node: an activity's, those of one priority, or a route's. How many run, and what is asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from turnout.core.record import Delivery
from turnout.core.spec import DEFAULT_PRIORITY, priority_of
from turnout.definition.activity import Activity
from turnout.nats.boottime import boottime
from turnout.nats.pull import Puller
from turnout.store.topology import ConsumerOptions

_RESUMED_S = 0.02
"""So long after the end of a pause its consumer hands over again, surely."""
_FAR_S = 30 * 86_400.0

_FEW = 16
"""While jobs wait in hand for a place of a limit, no more than as many are asked for, or a quarter of the slots."""


class Sharing(Protocol):
    """What a line wants of those who share the slots out."""

    def top_up(self, line: Line) -> None: ...

    def ended(self, line: Line, unused: int) -> None: ...

    def share_soon(self) -> None: ...

    @property
    def closed(self) -> bool: ...

    @property
    def overfull(self) -> bool: ...

    def stood(self, count: int) -> None: ...


class Line:
    """A lane of an activity at this node, or a route of it: what runs, what waits for a slot, what is asked for. The
    demand of its puller. The lines of an activity share its limit."""

    def __init__(
        self,
        intake: Sharing,
        name: str,
        limit: int,
        group: list[Line],
        label: str = "",
        lane: int = DEFAULT_PRIORITY,
    ) -> None:
        self.name = name
        self.label = label or name
        self.limit = limit
        self.group = group
        group.append(self)
        self.lane = lane
        self.priority = priority_of(lane)
        self.past: Line | None = None
        """The express lane of its priority, for those that are let past what lies here."""
        self.running = 0
        self.in_hand = 0
        """How many wait for a place of a limit, without a slot."""
        self.held: deque[tuple[Delivery, asyncio.TimerHandle]] = deque()
        self.ack_wait_s = 0.0
        self.max_deliver = -1
        self.backlog = False
        """Whether jobs wait at the server, as far as is known."""
        self.waiting = 0
        """How many do, likewise; told only where lanes are ranked."""
        self.backlog_at = 0.0
        self.standing = False
        """Whether what is asked for is asked for in case a job comes, without a slot that is kept for it."""
        self.unknown_until = 0.0
        """Until when nobody knows whether jobs wait, and there will be word of it soon."""
        self.peeked = 0
        """Since which beginning of its puller that was asked for."""
        self.puller: Puller
        self._resume: asyncio.TimerHandle | None = None
        self._intake = intake

    def resume_at(self, left_s: float | None) -> None:
        """Ask anew when the pause of the activity is over, in so many seconds; None: it is not paused."""
        if self._resume is not None:
            self._resume.cancel()
        self._resume = None
        if left_s is not None and left_s < _FAR_S:
            self._resume = asyncio.get_running_loop().call_later(left_s + _RESUMED_S, self.puller.renew)

    def not_known(self, most_s: float) -> None:
        """Nobody knows whether jobs wait here. There will be word of it soon; after so long none is waited for."""
        self.unknown_until = boottime() + most_s
        asyncio.get_running_loop().call_later(most_s, self._intake.share_soon)

    @property
    def room(self) -> int:
        """How many more of this activity may be asked for, by its own limit.

        While jobs wait in hand, a few: what nobody asks for waits at the server, which costs nothing.
        """
        if len(self.group) == 1:
            room = self.limit - self.running - len(self.held) - self.puller.asked
        else:
            others = sum(line.granted for line in self.group if line is not self)
            held = sum(len(line.held) for line in self.group)
            room = self.limit - self.busy - held - self.puller.asked - others
        if self.in_hand:
            return min(room, max(_FEW, self.limit // 4) - self.in_hand - self.puller.asked)
        return room

    @property
    def busy(self) -> int:
        """How many of this activity run."""
        return self.running if len(self.group) == 1 else sum(line.running for line in self.group)

    @property
    def closed(self) -> bool:
        return self._intake.closed

    def stand(self) -> bool:
        """A job that was begun here waits for a place of a limit, and leaves its slot to others. False: it may not.

        However many do: one that joins the line at once would have its turn before those that wait here, and came
        earlier. What is asked for meanwhile keeps them few.
        """
        if self.closed:
            return False
        self.running -= 1
        self.in_hand += 1
        self._intake.stood(1)
        return True

    def sit(self) -> bool:
        """It waits no longer, and counts as running again. Whether there is a slot for it: if not, it must not run."""
        self.running += 1
        self.in_hand -= 1
        self._intake.stood(-1)
        return not self.closed and not self._intake.overfull and self.busy <= self.limit

    @property
    def granted(self) -> int:
        """How many slots are kept for what is asked for."""
        return 0 if self.standing else self.puller.asked

    @property
    def reserved(self) -> bool:
        """Whether a slot is free for what is asked for, or was when it was asked for."""
        return self.standing and self.puller.asked > 0

    def top_up(self, puller: Puller) -> None:
        self._intake.top_up(self)

    def ended(self, puller: Puller, unused: int) -> None:
        if puller.asked == 0:
            self.standing = False
        self.unknown_until = 0.0
        self._intake.ended(self, unused)

    def available(self, puller: Puller) -> None:
        self.backlog, self.backlog_at, self.waiting, self.unknown_until = True, boottime(), 1, 0.0
        self._intake.share_soon()


def rank(line: Line) -> int:
    return line.priority


def startable(waiting: Sequence[Line]) -> int:
    """How many of those that wait the activities have room for."""
    rooms = {line.name: line.room for line in waiting}
    known = {name: sum(max(1, line.waiting) for line in waiting if line.name == name) for name in rooms}
    return sum(min(room, known[name]) for name, room in rooms.items())


def consumer_options(activity: Activity[..., Any]) -> ConsumerOptions:
    """What the consumer of an activity is made with."""
    settings = activity.settings
    return ConsumerOptions(
        lease=settings.lease,
        max_attempts=settings.retry.max_attempts,
        max_lost=settings.max_lost,
        fairness="" if activity.fairness is None else activity.fairness.dumps(),
    )
