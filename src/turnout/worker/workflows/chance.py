"""The random numbers of a run: the same in each replay."""

from __future__ import annotations

import random


class Chance:
    """Random numbers that follow from a seed. Made when they are first asked for: most runs want none, and a generator
    takes 2.5 KB."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._numbers: random.Random | None = None

    @property
    def numbers(self) -> random.Random:
        """The generator, one and the same from its first use on."""
        if self._numbers is None:
            self._numbers = random.Random(self._seed)
        return self._numbers

    def reseed(self, seed: str) -> None:
        """From now on the numbers are those of this seed, also for whoever holds the generator."""
        self._seed = seed
        if self._numbers is not None:
            self._numbers.seed(seed)
