"""Which jobs of each key wait in a lane, and whose turn it is: what the turns are dealt by. Pure, and small."""

from __future__ import annotations

import heapq
import math
from array import array
from bisect import bisect_right
from collections import OrderedDict
from itertools import islice

_COMPACT = 1024

_SOON = 2
"""Turns are dealt if the job whose turn it is does not lie among the first so many times as many as there are keys."""


class _Places:
    """Sequences in a stream, rising, of which the first ones go."""

    __slots__ = ("_first", "_seqs")

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._first = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._first

    @property
    def first(self) -> int:
        return self._seqs[self._first]

    def some(self, count: int) -> array[int]:
        return self._seqs[self._first : self._first + count]

    def add(self, seq: int) -> None:
        self._seqs.append(seq)

    def drop(self, up_to: int) -> int:
        """Without those up to this one; how many that were."""
        first = bisect_right(self._seqs, up_to, self._first)
        dropped, self._first = first - self._first, first
        if first > max(_COMPACT, len(self._seqs) // 2):
            del self._seqs[:first]
            self._first = 0
        return dropped


class Backlog:
    """The jobs that wait in a lane, by key. They come in rising order from each of `subjects` subjects.

    >>> backlog = Backlog(1)
    >>> for seq, key in enumerate("aaaaaab", 1):
    ...     backlog.add(0, seq, key)
    >>> backlog.fair(8), [backlog.next() for _ in range(4)], backlog.fair(8)
    (False, [1, 7, 2, 3], True)
    """

    def __init__(self, subjects: int) -> None:
        self._turns: OrderedDict[str, list[_Places]] = OrderedDict()
        self._all = [_Places() for _ in range(subjects)]
        self._gone: set[int] = set()
        self._many = _COMPACT
        self._handed = 0

    def __len__(self) -> int:
        """How many are remembered."""
        return sum(map(len, self._all))

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._turns)

    def add(self, subject: int, seq: int, key: str) -> None:
        """One that waits; a key that had none has its turn after all others."""
        if key not in self._turns:
            self._turns[key] = [_Places() for _ in self._all]
        self._turns[key][subject].add(seq)
        self._all[subject].add(seq)

    def handed(self, up_to: int) -> None:
        """All up to this sequence have been handed to somebody."""
        self._handed = max(self._handed, up_to)
        for places in self._all:
            places.drop(self._handed)
            while places and places.first in self._gone:
                self._gone.discard(places.first)
                places.drop(places.first)
        if len(self._gone) > self._many:
            self._gone = {seq for seq in self._gone if seq > self._handed}
            self._many = max(_COMPACT, 2 * len(self._gone))

    def forget_handed(self) -> None:
        """Remember no key any more of which no job waits."""
        for key in list(self._turns):
            self._first(key)

    def fair(self, most: int) -> bool:
        """Whether those that have the next turns, at most so many keys, would start soon in the order of all, too."""
        firsts: list[int] = []
        for key in list(self._turns):
            if (seq := self._first(key)) is not None:
                firsts.append(seq)
            if len(firsts) == most:
                break
        return len(firsts) < 2 or max(firsts) <= self._place(_SOON * self.keys)

    def next(self) -> int | None:
        """Whose turn it is: the first job of the first key, which has its next turn after all others. None: no job."""
        while self._turns:
            key = next(iter(self._turns))
            if (seq := self._first(key)) is None or key != next(iter(self._turns)):
                continue
            for places in self._turns[key]:
                if places and places.first == seq:
                    places.drop(seq)
            self._gone.add(seq)
            self._turns.move_to_end(key)
            return seq
        return None

    def _first(self, key: str) -> int | None:
        """The first job of this key; one without any is forgotten. Who was handed some meanwhile has had its turn."""
        lines = self._turns[key]
        if sum(each.drop(self._handed) for each in lines):
            self._turns.move_to_end(key)
        if not any(lines):
            del self._turns[key]
            return None
        return min(each.first for each in lines if each)

    def _place(self, count: int) -> float:
        """Where the job lies that is so many-th of all."""
        heads = (each.some(count + len(self._gone)) for each in self._all)
        there = (seq for seq in heapq.merge(*heads) if seq not in self._gone)
        return next(islice(there, count - 1, None), math.inf)
