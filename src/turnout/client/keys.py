"""A set that remembers keys by their hash alone: for hundreds of thousands of jobs, of which each is shown once."""

from __future__ import annotations

from array import array

_FREE = 0
_LEAST = 1024


class Keys:
    """Which keys were added, in at most 32 bytes each, where a `set` takes a hundred and the keys besides.

    Of 64 bits a hash has: that two of a million keys share one happens less than once in ten million times.

    >>> keys = Keys()
    >>> keys.add(b"a"), keys.add(b"a"), b"a" in keys, b"b" in keys, len(keys)
    (True, False, True, False, 1)
    """

    def __init__(self) -> None:
        self._table = array("q", bytes(8 * _LEAST))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        return len(self._table) * self._table.itemsize

    def __contains__(self, key: bytes) -> bool:
        wanted = hash(key) or 1
        return self._table[self._place(wanted)] == wanted

    def add(self, key: bytes) -> bool:
        """Remember the key; whether it is new."""
        wanted = hash(key) or 1
        at = self._place(wanted)
        if self._table[at] == wanted:
            return False
        self._table[at] = wanted
        self._count += 1
        if 2 * self._count > len(self._table):
            self._grow()
        return True

    def _place(self, wanted: int) -> int:
        """Where this hash is, or where it would be: the first free place from the one that its low bits name."""
        table = self._table
        mask = len(table) - 1
        at = wanted & mask
        while (found := table[at]) != _FREE and found != wanted:
            at = (at + 1) & mask
        return at

    def _grow(self) -> None:
        before, self._table = self._table, array("q", bytes(16 * len(self._table)))
        for value in before:
            if value != _FREE:
                self._table[self._place(value)] = value
