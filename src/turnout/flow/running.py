"""Taking the thread and giving it back: many loops take turns on one, and one may run in another's callback."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from typing import Any

from turnout.flow.generators import Generators
from turnout.flow.refused import Refuse

_swap_current_task: Any = getattr(asyncio.tasks, "_swap_current_task", None)
"""From 3.12. In 3.11 each loop has a current task of its own, which is in nobody's way."""


class Running(Generators):
    """The part of an event loop that makes it the running one of its thread, while a `with` block lasts."""

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse)
        self._running = False
        self._outer: asyncio.AbstractEventLoop | None = None
        self._outer_task: asyncio.Task[Any] | None = None
        self._outer_hooks: Any = None

    def is_running(self) -> bool:
        """Whether it runs just now."""
        return self._running

    def check_running(self) -> None:
        """Raise if the loop runs already."""
        if self._running:
            raise RuntimeError("This event loop is already running")

    def __enter__(self) -> None:
        self.check_running()
        self._running = True
        self._outer = outer = events._get_running_loop()
        if outer is not None and _swap_current_task is not None:
            self._outer_task = _swap_current_task(outer, None)
        events._set_running_loop(self)
        self._outer_hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generator_begun, finalizer=self._generator_abandoned)

    def __exit__(self, *_: object) -> None:
        sys.set_asyncgen_hooks(*self._outer_hooks)
        outer, task = self._outer, self._outer_task
        self._outer = self._outer_task = self._outer_hooks = None
        events._set_running_loop(outer)
        if outer is not None and task is not None:
            _swap_current_task(outer, task)
        self._running = False
