"""What a loop does with errors that nobody can catch: a handler that was set, or a log line."""

from __future__ import annotations

import asyncio
import logging
import traceback
from asyncio.format_helpers import _format_callback_source
from collections.abc import Callable
from typing import Any

from turnout.flow.handles import Handle, Timer
from turnout.flow.refused import NoInputOutput, Refuse

Context = dict[str, Any]
ExceptionHandler = Callable[[asyncio.AbstractEventLoop, Context], object]

logger = logging.getLogger("asyncio")


class Reporting(NoInputOutput):
    """The part of an event loop that reports errors, as asyncio's own loops do."""

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse)
        self.dropped = False
        self._exception_handler: ExceptionHandler | None = None

    def get_exception_handler(self) -> ExceptionHandler | None:
        """The handler that was set, or None."""
        return self._exception_handler

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        """Let `handler` be called as ``handler(loop, context)``; None brings the default back, which logs."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: Context) -> None:
        """Log the error with everything that the context tells of it."""
        lines = [context.get("message") or "Unhandled exception in event loop"]
        for key in sorted(context):
            if key == "source_traceback":
                frames = "".join(traceback.format_list(context[key])).rstrip()
                lines.append(f"{key}: Object created at (most recent call last):\n{frames}")
            elif key not in {"message", "exception"}:
                lines.append(f"{key}: {context[key]!r}")
        error = context.get("exception")
        logger.error("\n".join(lines), exc_info=error and (type(error), error, error.__traceback__))

    def call_exception_handler(self, context: Context) -> None:
        """Report an error to the handler, or to the log when that fails. A loop that was dropped reports nothing."""
        if self.dropped:
            return
        handler = self._exception_handler
        if handler is None:
            self._report_to_log(context)
            return
        thing: Any = context.get("task") or context.get("future") or context.get("handle")
        where = thing.get_context() if hasattr(thing, "get_context") else None
        try:
            if where is None:
                handler(self, context)
            else:
                where.run(handler, self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a handler raises, the loop goes on
            about = {"message": "Unhandled error in exception handler", "exception": error, "context": context}
            self._report_to_log(about)

    def _report_to_log(self, context: Context) -> None:
        try:
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # the repr of anything in the context is somebody else's code
            logger.exception("Exception in default exception handler")

    def report_callback(self, handle: Handle | Timer, error: BaseException) -> None:
        """Report what a callback has raised."""
        callback = _format_callback_source(handle._callback, handle._args)
        self.call_exception_handler(
            {"message": f"Exception in callback {callback}", "exception": error, "handle": handle}
        )
