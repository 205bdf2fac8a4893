"""What is recorded of an exception of the user's code: the same text, wherever the code ran.

Code on the event loop, in a thread and in a child process all go through `describe()`, so an error has the same type,
message and traceback everywhere. It never raises, whatever the exception does when it is asked for its text.
"""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import traceback
from asyncio import runners
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import attrs

from turnout.core.failure import ErrorInfo, Failure, FaultReason
from turnout.core.retry import mro_names
from turnout.errors import CompleteLater, Fatal, InvalidValue, RetryLater, Snooze

Redact = Callable[[str], str]
"""Takes an error's message or traceback and gives what may be kept of it."""

_INPUT = re.compile(r", input_value=.*, input_type=\S+\]")
"""Where pydantic's text of a ValidationError shows the value that did not fit, which may be a secret."""

_WORKER = str(Path(__file__).parent)
_PIECE_CHARS = 2_000
"""How much of one line of a traceback is kept: a message of megabytes must not push the frames out of the record."""


class CodeExit(Exception):
    """The code tried to end the process: it called `sys.exit()` or raised KeyboardInterrupt."""


class InvalidResult(InvalidValue):
    """The code returned what JSON can't carry, or not what its annotation says."""


class CodeFailed(Exception):
    """The user's code has failed, as `failure` says. Raised instead of what the code raised.

    asyncio refuses to carry a StopIteration, and ends the event loop for a KeyboardInterrupt or SystemExit.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


def describe(error: BaseException, fault: FaultReason | None = None) -> Failure:
    """What is recorded of `error`; `fault` where it can't be retried though its class does not say so."""
    match error:
        case asyncio.CancelledError():
            message = "the code was cancelled, and nobody had asked for it"
            return Failure(ErrorInfo("CancelledError", message), CANCELLED_MRO)
        case SystemExit():
            error = _exit(f"the code called sys.exit({_text(error.code)})", error)
        case KeyboardInterrupt():
            error = _exit("the code raised KeyboardInterrupt", error)
        case RuntimeError(__cause__=StopIteration() as cause) if str(error) == "coroutine raised StopIteration":
            error = cause  # Python does not let one out of a coroutine; the code raised it all the same
        case _:
            pass
    if isinstance(error, CompleteLater):
        info = ErrorInfo("CompleteLater", str(error))
        return Failure(info, mro_names(error), retry_after=error.timeout_s, deferred=True)
    if fault is None and isinstance(error, Fatal):
        fault = FaultReason.fatal
    delay_s = error.delay_s if isinstance(error, RetryLater | Snooze) else None
    snoozed = fault is None and isinstance(error, Snooze)
    return Failure(error_info(error), mro_names(error), fault, delay_s, snoozed=snoozed)


def _exit(message: str, error: BaseException) -> CodeExit:
    return CodeExit(message).with_traceback(error.__traceback__)


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as the record keeps it."""
    return ErrorInfo(type(error).__qualname__, _message(error), _traceback(error))


def redacted(failure: Failure, redact: Redact | None) -> Failure:
    """The failure with what `redact` leaves of its texts."""
    return failure if redact is None else attrs.evolve(failure, error=redacted_error(failure.error, redact))


def redacted_error(error: ErrorInfo, redact: Redact) -> ErrorInfo:
    """The error with what `redact` leaves of its texts; nothing of them when that fails itself."""
    try:
        message, trace = redact(error.message), redact(error.traceback)
        if not isinstance(message, str) or not isinstance(trace, str):
            raise TypeError("it must return text")
    except Exception as problem:  # user code; a text that could not be redacted must not be kept
        message, trace = f"(the text is withheld: redacting it raised {type(problem).__qualname__})", ""
    return ErrorInfo(error.type, message, trace)


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this is a KeyboardInterrupt of a Ctrl-C, which is meant for the program, and none that the code raised.

    Python raises one in whatever the main thread runs: by the default handler of SIGINT, or by the one that
    `asyncio.run` puts in its place, when it is pressed for the second time.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    inner = error.__traceback__
    while inner is not None and inner.tb_next is not None:
        inner = inner.tb_next
    return inner is not None and inner.tb_frame.f_code.co_filename == runners.__file__


def _message(error: BaseException) -> str:
    try:
        return _INPUT.sub("]", str(error))
    except BaseException as broken:  # the exception is user code, and so is its text
        return f"(its text can't be told: {type(broken).__qualname__})"


def _text(value: object) -> str:
    try:
        return repr(value)
    except BaseException as broken:  # as above
        return f"({type(broken).__qualname__})"


def _traceback(error: BaseException) -> str:
    try:
        pieces = traceback.format_exception(type(error), error, _from_the_users_code(error.__traceback__))
    except BaseException as broken:  # a class whose attributes can't be read, a chain that is too deep: user code again
        pieces = [f"(its traceback can't be told: {type(broken).__qualname__})"]
    short = (piece if len(piece) <= _PIECE_CHARS else piece[:_PIECE_CHARS] + "...\n" for piece in pieces)
    return "".join(_INPUT.sub("]", piece) for piece in short)


def _from_the_users_code(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the worker's own frames, which are above the code that it called."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_WORKER):
        inner = inner.tb_next
    return inner or trace


# A cancellation that nobody asked for counts as an ordinary failure, though CancelledError is no Exception.
CANCELLED_MRO = (*mro_names(asyncio.CancelledError()), "builtins.Exception")
