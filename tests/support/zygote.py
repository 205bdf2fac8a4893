"""Runs `turnout` in forks of a process that has imported it: processes like any other, half a second sooner.

`python zygote.py FD`, started by forks.py alone. On the socket FD comes a JSON object for each process that is wanted,
and with it four descriptors: its stdin, its stdout, its stderr, and a socket on which its number is told, and later how
it has ended. When nobody is left who could ask, the processes are killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import sys
import traceback
from typing import Any

from turnout import cli

NUMBER = struct.Struct("i")
REQUEST_BYTES = 1 << 20


def preload() -> None:
    """Import what a command imports when it is run, and what a worker does."""
    for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}."):
        importlib.import_module(module.name)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    gc.freeze()


def serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; the fork gets it back as a value, and is to become what it says. None: nobody asks."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # set_wakeup_fd tells; a handler must be there for that
    fates: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([line, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            tell(fates)
        if line not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(line, REQUEST_BYTES, 4)
        if not message:
            for pid in fates:
                os.kill(pid, signal.SIGKILL)
            return None
        pid = os.fork()
        if pid:
            fates[pid] = socket.socket(fileno=descriptors.pop())
            fates[pid].sendall(NUMBER.pack(pid))
        else:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, stream in enumerate(descriptors[:3]):
                os.dup2(stream, number)
            for ours in (line, woken, wake, *fates.values()):
                ours.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if not pid:
            request: dict[str, Any] = json.loads(message)
            return request


def tell(fates: dict[int, socket.socket]) -> None:
    """Say of those that have ended how they did."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            pid, status = ended
            with fates.pop(pid) as fate, contextlib.suppress(OSError):  # nobody may listen any more
                fate.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def become(request: dict[str, Any]) -> None:
    """Be `python -m turnout` in the folder, with the environment and the arguments that were asked for."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path.insert(0, request["cwd"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout, sys.stderr = (writer(number) for number in (1, 2))
    sys.argv = ["turnout", *request["arguments"]]
    runpy.run_module("turnout", run_name="__main__", alter_sys=True)


def writer(number: int) -> io.TextIOWrapper:
    """What Python makes of stdout and stderr."""
    if os.environ.get("PYTHONUNBUFFERED"):
        return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), write_through=True)
    return open(number, "w", buffering=1 if number == 2 or os.isatty(number) else -1, closefd=False)


def be_brief(request: dict[str, Any]) -> None:
    """Become it, and end without cleaning up memory that is gone a moment later; after a minute in any case."""
    signal.alarm(60)  # ends a command that hangs, and its test with it
    code = 1
    try:
        become(request)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    preload()
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        (be_brief if wanted["brief"] else become)(wanted)
