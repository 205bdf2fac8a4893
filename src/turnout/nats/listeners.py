"""Who wants to be told of something."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Listeners:
    """Callbacks, told one after the other."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[], None]] = {}

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Tell `callback` from now on; returns what takes it back."""
        key = object()
        self._callbacks[key] = callback

        def forget() -> None:
            self._callbacks.pop(key, None)

        return forget

    def tell(self) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback()
            except Exception:  # a listener's bug is its own: whoever tells goes on
                logger.exception("a callback of the connection failed")
