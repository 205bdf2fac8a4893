"""Asynchronous generators that are left before their end: when they are closed must not depend on the collector."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator
from typing import Any
from weakref import ReferenceType

from turnout.flow import collecting
from turnout.flow.refused import Refuse
from turnout.flow.reporting import Reporting

Generator = AsyncGenerator[Any, Any]

GENERATORS_SWEPT_MIN = 64


class Generators(Reporting):
    """The part of an event loop that knows which generators were begun on it.

    One that is left by `break` is closed at once, by a task of its own: its last reference goes at a point of the code
    that is the same in each replay. One that is part of a cycle meets its end when the garbage collector comes by,
    which is never the same; it is kept as it is until the loop closes its generators.
    """

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse)
        self._generators: dict[int, Generator | ReferenceType[Generator]] = {}
        """By identity, in the order in which they were begun. Those that a cycle held are kept, others only known."""
        self._generators_max = GENERATORS_SWEPT_MIN
        self._generators_shut = False

    def create_closer(self, generator: Generator) -> None:
        """Create the task that closes a generator."""
        raise NotImplementedError

    async def shutdown_asyncgens(self) -> None:
        """Close the generators that are not at their end, in the order in which they were begun."""
        self._generators_shut = True
        known = list(self._generators.values())
        self._generators.clear()
        closing = [
            one for entry in known if (one := entry() if isinstance(entry, ReferenceType) else entry) is not None
        ]
        results = await asyncio.gather(*(generator.aclose() for generator in closing), return_exceptions=True)
        for result, generator in zip(results, closing, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": f"an error occurred during closing of asynchronous generator {generator!r}",
                        "exception": result,
                        "asyncgen": generator,
                    }
                )

    def _generator_begun(self, generator: Generator) -> None:
        collecting.watch()
        if self._generators_shut:
            warnings.warn(
                f"asynchronous generator {generator!r} was scheduled after loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        self._generators.pop(id(generator), None)  # another's that had this identity
        self._generators[id(generator)] = ReferenceType(generator)
        if len(self._generators) > self._generators_max:
            self._sweep_generators()

    def _generator_abandoned(self, generator: Generator) -> None:
        # Its frame is freed without running anything when this returns and keeps no reference.
        if self.dropped or self.is_closed():
            return
        if asyncio._get_running_loop() is self and not collecting.here():
            self._generators.pop(id(generator), None)
            self.call_soon(self.create_closer, generator)
        else:
            self._generators[id(generator)] = generator

    def _sweep_generators(self) -> None:
        """Forget the generators that have come to their end."""
        for identity, entry in list(self._generators.items()):
            if isinstance(entry, ReferenceType) and entry() is None:
                del self._generators[identity]
        self._generators_max = max(GENERATORS_SWEPT_MIN, 2 * len(self._generators))
