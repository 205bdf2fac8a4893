"""Who wants to be told of something."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Listeners:
    """Callbacks, told one after the other."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Tell `callback` from now on; returns what takes it back."""
        self._callbacks.append(callback)

        def forget() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return forget

    def tell(self) -> None:
        for callback in list(self._callbacks):
            try:
                callback()
            except Exception:  # a listener's bug is its own: whoever tells goes on
                logger.exception("a callback of the connection failed")
