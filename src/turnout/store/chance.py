"""Where ids and nonces come from: the system's randomness, or for a simulation a source whose seed repeats a run."""

from __future__ import annotations

import random


class Chance:
    """Makes nonces. `source` is the operating system's randomness by default."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source or random.SystemRandom()

    def nonce(self, size: int = 8) -> str:
        """`size` random bytes, as hexadecimal digits."""
        return f"{self._source.getrandbits(8 * size):0{2 * size}x}"

    def fraction(self) -> float:
        """A number from 0 up to 1."""
        return self._source.random()
