"""Where ids and nonces come from: the system's randomness, or for a simulation a source whose seed repeats a run."""

from __future__ import annotations

import os
import random
import threading

_DRAWN_BYTES = 4096


class _Drawn(threading.local):
    """Randomness of the system that was drawn before it is needed: asking for it lets other threads run first."""

    left = b""

    def take(self, size: int) -> bytes:
        if len(self.left) < size:
            self.left = os.urandom(max(_DRAWN_BYTES, size))
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def forget(self) -> None:
        self.left = b""


_drawn = _Drawn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.forget)  # it would draw the same as its parent


def drawn_bytes(size: int) -> bytes:
    """Random bytes of the system; in a forked process others than its parent gets."""
    return _drawn.take(size)


class Chance:
    """Makes nonces. `source` is the operating system's randomness by default."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source

    def nonce(self, size: int = 8) -> str:
        """`size` random bytes, as hexadecimal digits."""
        if self._source is None:
            return _drawn.take(size).hex()
        return f"{self._source.getrandbits(8 * size):0{2 * size}x}"

    def fraction(self) -> float:
        """A number from 0 up to 1."""
        return random.random() if self._source is None else self._source.random()
