"""Leases: the right to run, and the book that says when each of them has to be extended.

Nothing here talks to the server: keeper.py does, in a thread of its own.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from turnout.core.record import MessageRef, Token
from turnout.nats.boottime import boottime
from turnout.store.records import Versioned

EXTENSIONS_PER_LEASE = 3
_RELEASED_KEPT = 1000


class LeaseOwner(Protocol):
    """Whose lease it is: the attempt that runs. Everything is called on the worker's loop."""

    def changed(self, job: Versioned) -> None:
        """The record as somebody else has written it."""

    def lost(self) -> None:
        """The job is somebody else's."""

    def unconfirmed(self, silent_s: float) -> None:
        """Nobody has confirmed the lease for so long that somebody else may have been handed the job."""

    def cut_off(self) -> None:
        """The node has given no sign of life for so long that its places of limits may be handed on."""


class Lease:
    """One delivery that this node works on. Registered before the start record is written, released after the last."""

    def __init__(self, nonce: str, subject: str, message: MessageRef, ack_wait_s: float) -> None:
        self.nonce = nonce
        self.subject = subject
        self.message = message
        self.ack_wait_s = ack_wait_s
        self.revision = 0
        self.exhausted = False
        """Whether the message's deliveries have run out: what is given back must be requeued (P7)."""
        self.token: Token | None = None
        self.confirmed_at = boottime()
        self.suspect = False
        """Whether its owner has heard that it is unconfirmed."""
        self.limited = False
        """Whether its job holds places of limits, which others get when this node is taken for dead."""
        self.cut_off_known = False
        self.settled = False
        self.extended = False
        self.handed_over = False
        """Whether its attempt is over, and its job's message waits for the record of a workflow (W4)."""
        self.turn = -1
        self._owner: LeaseOwner | None = None
        self._missed: Versioned | None = None

    @property
    def activity(self) -> str:
        """The activity of its job, which the record's subject names."""
        return self.subject.split(".")[-2]

    # --- for the worker's loop ----------------------------------------------------------------------------------------

    def started(self, token: Token, revision: int) -> None:
        """The start record is stored: changes to it from now on are somebody else's, or our own."""
        self.revision = revision
        self.token = token

    def attach(self, owner: LeaseOwner) -> None:
        """Let `owner` hear of what happens to the lease, and of what has happened already."""
        self._owner = owner
        if self._missed is not None:
            owner.changed(self._missed)

    def detach(self) -> None:
        self._owner = None

    def changed(self, job: Versioned) -> None:
        """The record was written by somebody else."""
        if self._owner is not None:
            self._owner.changed(job)
        else:
            self._missed = job

    def lost(self) -> None:
        if self._owner is not None:
            self._owner.lost()

    def unconfirmed(self, silent_s: float) -> None:
        if self._owner is not None:
            self._owner.unconfirmed(silent_s)

    def cut_off(self) -> None:
        if self._owner is not None:
            self._owner.cut_off()


class Leases:
    """All leases of a node, and when each is due. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, Lease] = {}
        self._due: list[tuple[float, int, Lease]] = []
        self._newcomers: deque[Lease] = deque()
        """Registered since the thread's last turn. Most jobs are done before the next, and never need a place in the
        heap."""
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._kept)

    def register(self, lease: Lease) -> None:
        """Keep it from now on."""
        self._kept[lease.nonce] = lease
        self._newcomers.append(lease)

    def of(self, nonce: str) -> Lease | None:
        return self._kept.get(nonce)

    def settle(self, lease: Lease) -> bool:
        """Extend it no more. Whether it ever was: then only the connection that did may settle it (P10)."""
        with self._lock:
            lease.settled = True
            return lease.extended

    def release(self, lease: Lease) -> None:
        """Forget it: nobody is told that it is kept from now on."""
        with self._lock:
            self._forget(lease)
            if len(self._due) > 2 * len(self._kept) + _RELEASED_KEPT:
                # With a lease of an hour the released would wait there for twenty minutes, however many they are.
                self._due = [entry for entry in self._due if not entry[2].settled]
                heapq.heapify(self._due)
        lease.detach()  # it waits for its turn in the heap: the attempt need not

    def abandon(self) -> list[Lease]:
        """Forget all of them at once; which they were."""
        with self._lock:
            leases = [lease for lease in self._kept.values() if not lease.settled]
            for lease in leases:
                self._forget(lease)
            return leases

    def _forget(self, lease: Lease) -> None:
        lease.settled = True
        self._kept.pop(lease.nonce, None)

    # --- when they are due --------------------------------------------------------------------------------------------

    def take_due(self, now: float) -> list[Lease]:
        """Those that have to be extended by now. Each comes again when it is put back, or was extended."""
        due = []
        with self._lock:
            self._admit()
            while self._due and self._due[0][0] <= now:
                _, turn, lease = heapq.heappop(self._due)
                if not lease.settled and turn == lease.turn:
                    due.append(lease)
        return due

    def put_back(self, leases: list[Lease], at: float) -> None:
        """Let these come again at this instant."""
        with self._lock:
            for lease in leases:
                self._push(lease, at)

    def limited(self) -> list[Lease]:
        """Those of jobs that hold places of limits, and have not been told that they are cut off."""
        with self._lock:
            return [lease for lease in self._kept.values() if lease.limited and not lease.cut_off_known]

    def all_due(self, now: float) -> None:
        """Let every lease come at once."""
        with self._lock:
            self._admit()
            self._due = [(now, order, lease) for _, order, lease in self._due]
            heapq.heapify(self._due)

    def shorten(self, activity: str, ack_wait_s: float) -> None:
        """The server waits only this long for the jobs of this activity: they are due now, and more often."""
        with self._lock:
            self._admit()
            for lease in list(self._kept.values()):
                if lease.activity == activity and ack_wait_s < lease.ack_wait_s:
                    lease.ack_wait_s = ack_wait_s
                    self._push(lease, boottime())

    def extend(self, lease: Lease, send: Callable[[], None]) -> bool:
        """Have `send` extend it, unless it is settled: under the lock, so that its settlement comes after (P10)."""
        with self._lock:
            if lease.settled:
                return False
            lease.extended = True
            self._push(lease, boottime() + lease.ack_wait_s / EXTENSIONS_PER_LEASE)
            send()
            return True

    def _admit(self) -> None:
        while self._newcomers:
            lease = self._newcomers.popleft()
            if not lease.settled:
                self._push(lease, lease.confirmed_at + lease.ack_wait_s / EXTENSIONS_PER_LEASE)

    def _push(self, lease: Lease, at: float) -> None:
        lease.turn = next(self._order)  # an earlier one that is still in the heap does not count any more
        heapq.heappush(self._due, (at, lease.turn, lease))
