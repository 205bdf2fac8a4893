"""What is to be looked at again, and when: of each thing no more than its place in a stream is kept, in eight bytes.

There may be a million jobs that wait for their time, and a supervisor lives in the process of a worker.
"""

from __future__ import annotations

import contextlib
import heapq
from array import array
from collections.abc import Iterator

_FAR_S = 10 * 366 * 86_400.0
"""What is due later than that was not meant so."""


class Agenda:
    """Places of a stream, by the instant at which to look at each again, which is kept to within `grain_s`.

    >>> agenda = Agenda(grain_s=5.0)
    >>> agenda.add(1003.0, 7, now=1000.0)
    >>> agenda.due(1004.9, 10), agenda.due(1005.0, 10), len(agenda)
    ([], [7], 0)
    """

    def __init__(self, grain_s: float) -> None:
        self._grain_s = grain_s
        self._slots: dict[int, array[int]] = {}
        self._order: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, at: float, seq: int, *, now: float) -> None:
        """Look at this place as soon as `at` has come, and never before."""
        slot = int(min(at, now + _FAR_S) // self._grain_s) + 1
        seqs = self._slots.get(slot)
        if seqs is None:
            seqs = self._slots[slot] = array("Q")
            heapq.heappush(self._order, slot)
        seqs.append(seq)
        self._count += 1

    def due(self, now: float, most: int) -> list[int]:
        """Take at most so many places out whose instant has come, those first that have waited longest."""
        found: list[int] = []
        while self._order and self._order[0] * self._grain_s <= now and len(found) < most:
            seqs = self._slots[self._order[0]]
            part = seqs[: most - len(found)]
            found += part
            del seqs[: len(part)]
            if not seqs:
                del self._slots[heapq.heappop(self._order)]
        self._count -= len(found)
        return found

    @contextlib.contextmanager
    def taking(self, now: float, most: int) -> Iterator[list[int]]:
        """The same for as long as they are looked at: if that fails they are back, and due at once."""
        found = self.due(now, most)
        try:
            yield found
        except BaseException:
            for seq in found:
                self.add(0.0, seq, now=now)
            raise
