"""The first process of a child: `python -m turnout.worker.process.guard FD`, started by parent.py alone.

It stays small, runs no code of the user, and guards the second: when the worker asks for it (SIGTERM), when the worker
is gone (its end of the socket closes, or the kernel says so), or when the second has ended by itself, it kills what is
left of the second's session, and ends exactly as the second ended. So code that holds the interpreter lock for hours,
and what it started (ffmpeg ...), can be stopped, and nothing outlives its worker but a daemon that made a session of
its own.

The second process, its ward, is the leader of a session of its own: child.py says what it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time

REAP_S = 1.0
"""How long the guard waits for what it has killed to be gone."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(fd: int) -> None:
    """Become the guard and its ward; neither returns."""
    os.set_inheritable(fd, False)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # set_wakeup_fd tells; a handler must be there for that.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    ward = os.fork()
    if ward:
        _end_like(_guard(ward, fd, woken))
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.close(woken)
    os.close(wake)
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    gc.disable()  # it would look at what is imported again and again
    from turnout.worker.process.child import Conversation  # the guard would load all of pydantic for nothing

    gc.freeze()
    gc.enable()
    Conversation(fd).run()


def _guard(ward: int, fd: int, woken: int) -> int:
    """Wait for a reason to end, leave nothing of the ward's session behind, and tell the ward's wait status."""
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(fd, 0)  # Hangups only: what is said on the socket is for the ward.
    while not _ended(ward):
        events = dict(poll.poll())
        if fd in events or signal.SIGTERM in (os.read(woken, 64) if woken in events else b""):
            poll.unregister(fd)
            _kill_session(ward)
            break
    _kill_session(ward)
    _, status = os.waitpid(ward, 0)
    _reap()
    return status


def _ended(ward: int) -> bool:
    """Whether it has ended, without reaping it: until then its number cannot be given to anybody else."""
    return os.waitid(os.P_PID, ward, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_session(ward: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(ward, signal.SIGKILL)  # By number too: it may not have its session yet.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(ward, signal.SIGKILL)


def _reap() -> None:
    """Collect the ward's orphans, which are ours now, so that they are gone and not zombies of a container's init."""
    end = time.monotonic() + REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)


def _end_like(status: int) -> None:
    """End as the ward did, so that the worker reads the ward's exit code or signal from the guard."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        _no_core_dump()
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def _no_core_dump() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the closed socket has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
