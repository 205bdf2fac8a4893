"""Guards for code that must be a function of its inputs: on its thread what reaches out raises, and time is its own.

Used around each run of a workflow's loop, on the thread that runs it. Other threads see no difference.

    guard = Guard(refuse=NotDurable, now=loop.time, random=lambda: chance, uuid4=make_uuid)
    with guarded(guard):
        loop.run_until_idle()

An audit hook of the interpreter sees files, sockets, processes and, from 3.12, threads; functions in `time`, `random`,
`uuid`, `threading` and others are replaced by ones that ask which thread calls. Both are installed once and stay.
Imports, the lines of a traceback, log handlers, time zones and the garbage collector are let through.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from turnout.flow import collecting, ordered

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Guard:
    """What guarded code gets instead of the world."""

    refuse: Callable[[str], BaseException]
    """Makes the error that is raised, from a sentence that says what was refused and what to use instead."""
    now: Callable[[], float]
    """The time in seconds since the epoch; every clock of the module `time` shows it."""
    random: Callable[[], random.Random]
    """Gives what the functions of the module `random` take their chance from."""
    uuid4: Callable[[], uuid.UUID]
    """The next id."""


_active: dict[int, Guard] = {}
"""The guard of each thread that runs guarded code just now."""

ACTIVITY = "do that in an activity"
SLEEP = "await asyncio.sleep(...), which is durable"
THREADS = "start tasks with asyncio, or do that in an activity"
WAITING = "await an asyncio.Event, Queue or Lock instead: this thread is shared by all workflows"
CHANCE = "use the workflow's random and uuid4, or make the secret in an activity"

EVENTS = {
    "open": ACTIVITY,
    "time.sleep": SLEEP,
    "builtins.input": ACTIVITY,
    "sqlite3.connect": ACTIVITY,
    "urllib.Request": ACTIVITY,
    "subprocess.Popen": ACTIVITY,
    "pty.spawn": ACTIVITY,
    "webbrowser.open": ACTIVITY,
    "_thread.start_new_thread": THREADS,
    "_thread.start_joinable_thread": THREADS,
    **dict.fromkeys(
        ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile"), ACTIVITY
    ),
    **dict.fromkeys(("os.kill", "os.killpg", "signal.pthread_kill"), ACTIVITY),
    **dict.fromkeys(
        ("os.listdir", "os.scandir", "os.walk", "os.mkdir", "os.rmdir", "os.remove", "os.rename"), ACTIVITY
    ),
    **dict.fromkeys(("os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.chdir"), ACTIVITY),
}
"""The audit events that are refused, each with what to do instead."""
EVENT_FAMILIES = {
    **dict.fromkeys(
        ("socket", "ssl", "http", "ftplib", "smtplib", "imaplib", "poplib", "nntplib", "telnetlib"), ACTIVITY
    ),
    **dict.fromkeys(("shutil", "tempfile", "glob", "mmap", "dbm"), ACTIVITY),
}
"""The families of audit events that are refused."""
LET_THROUGH = frozenset(
    {
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "zipimport",
        "linecache",
        "logging",
        "logging.handlers",
        "zoneinfo._common",
        "zoneinfo._tzpath",
    }
)
"""The modules on whose behalf files may be opened."""

_installed = False


def install() -> None:
    """Put the audit hook and the replacements into place, once for the process. `guarded` does so too."""
    global _installed  # noqa: PLW0603
    if _installed:
        return
    _installed = True
    collecting.watch()
    sys.addaudithook(_audit)
    for module, name, replacement in _replacements():
        original = getattr(module, name)
        _replaced[original] = replacement(original)
        setattr(module, name, _replaced[original])


class guarded:  # noqa: N801
    """Guard this thread while a `with` block lasts, or, given None, lift its guard. The innermost block counts."""

    __slots__ = ("_guard", "_outer")

    def __init__(self, guard: Guard | None) -> None:
        install()
        self._guard = guard
        self._outer: Guard | None = None

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._outer = _active.get(thread)
        _put(thread, self._guard)

    def __exit__(self, *_: object) -> None:
        _put(threading.get_ident(), self._outer)


def lifted() -> guarded:
    """Lift the guard of this thread while a `with` block lasts, for code of the engine itself."""
    return guarded(None)


def guard_here() -> Guard | None:
    """The guard of this thread, or None."""
    return _active.get(threading.get_ident())


def rebind(module: ModuleType) -> list[str]:
    """Let a module that has imported functions by name, ``from time import time``, have those that know of guards.

    Gives the names that were replaced.
    """
    install()
    ordered.install()
    names = []
    for name, value in list(vars(module).items()):
        replacement = (_replaced.get(value) or ordered.replaced.get(value)) if _is_function(value) else None
        if replacement is not None:
            setattr(module, name, replacement)
            names.append(name)
    return names


_replaced: dict[Function, Function] = {}
"""The functions that were replaced, with those that ask which thread calls."""


def _put(thread: int, guard: Guard | None) -> None:
    if guard is None:
        _active.pop(thread, None)
    else:
        _active[thread] = guard


def _is_function(value: object) -> bool:
    return isinstance(value, (FunctionType, BuiltinFunctionType, MethodType))


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _active:
        return
    guard = _active.get(threading.get_ident())
    if guard is None:
        return
    instead = EVENTS.get(event) or EVENT_FAMILIES.get(event.partition(".")[0])
    if instead is None or collecting.here() or _on_behalf_of_others(sys._getframe(1)):
        return
    if not (event == "open" and _is_time_zone(arguments[0])):
        raise guard.refuse(f"{event} is refused in a workflow: {instead}")


def _on_behalf_of_others(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") in LET_THROUGH:
            return True
        frame = frame.f_back
    return False


def _is_time_zone(path: object) -> bool:
    """Whether a file is one of those that ZoneInfo reads, which it does from C."""
    zoneinfo = sys.modules.get("zoneinfo")
    return zoneinfo is not None and isinstance(path, str) and path.startswith(tuple(zoneinfo.TZPATH))


def _instead(value: Callable[[Guard, Function], Function]) -> Callable[[Function], Function]:
    """Make a function from an original: on a guarded thread it does what `value` gives."""

    def replace(original: Function) -> Function:
        @wraps(original)
        def asking(*args: Any, **options: Any) -> Any:
            if _active:
                guard = _active.get(threading.get_ident())
                # A log record, and what the collector frees, have the real time.
                if (
                    guard is not None
                    and sys._getframe(1).f_globals.get("__name__") != "logging"
                    and not collecting.here()
                ):
                    return value(guard, original)(*args, **options)
            return original(*args, **options)

        return asking

    return replace


def _refusing(what: str, instead: str) -> Callable[[Function], Function]:
    def refuse(guard: Guard, _: Function) -> Function:
        raise guard.refuse(f"{what} is refused in a workflow: {instead}")

    return _instead(refuse)


def _at_now(guard: Guard, original: Function) -> Function:
    """Functions of `time` whose last parameter is a moment, by default the present."""
    return lambda moment=None: original(guard.now() if moment is None else moment)


def _format_at_now(guard: Guard, original: Function) -> Function:
    def strftime(form: str, moment: Any = None) -> Any:
        return original(form, _original(time.localtime)(guard.now()) if moment is None else moment)

    return strftime


def _asctime_at_now(guard: Guard, original: Function) -> Function:
    return lambda moment=None: original(_original(time.localtime)(guard.now()) if moment is None else moment)


def _original(function: Function) -> Function:
    wrapped: Function = getattr(function, "__wrapped__", function)
    return wrapped


def _uuid_of(version: int) -> Callable[[Guard, Function], Function]:
    return lambda guard, _: lambda *_, **__: uuid.UUID(int=guard.uuid4().int, version=version)


def _replacements() -> Iterator[tuple[Any, str, Callable[[Function], Function]]]:
    """What is replaced: where it is, its name, and what makes the replacement."""
    seconds = _instead(lambda guard, _: guard.now)
    nanoseconds = _instead(lambda guard, _: lambda: round(guard.now() * 1_000_000) * 1000)
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        yield time, name, seconds
        yield time, f"{name}_ns", nanoseconds
    if hasattr(time, "clock_gettime"):
        yield time, "clock_gettime", _instead(lambda guard, _: lambda _: guard.now())
        yield time, "clock_gettime_ns", _instead(lambda guard, _: lambda _: round(guard.now() * 1_000_000) * 1000)
    for name in ("localtime", "gmtime", "ctime"):
        yield time, name, _instead(_at_now)
    yield time, "asctime", _instead(_asctime_at_now)
    yield time, "strftime", _instead(_format_at_now)
    yield time, "sleep", _refusing("time.sleep()", SLEEP)
    for name in random.__all__:
        if getattr(getattr(random, name), "__self__", None) is random._inst:
            yield random, name, _instead(lambda guard, original: getattr(guard.random(), original.__name__))
    for version in (1, 4, 6, 7):
        if hasattr(uuid, f"uuid{version}"):
            yield uuid, f"uuid{version}", _instead(_uuid_of(version))
    for name in ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice"):
        yield secrets, name, _refusing(f"secrets.{name}()", CHANCE)
    yield os, "urandom", _refusing("os.urandom()", CHANCE)
    yield select, "select", _refusing("select.select()", WAITING)
    yield threading.Thread, "start", _refusing("a thread", THREADS)
    yield threading.Thread, "join", _refusing("joining a thread", WAITING)
    yield threading.Condition, "wait", _refusing("a blocking wait", WAITING)
    yield ThreadPoolExecutor, "submit", _refusing("an executor", THREADS)
