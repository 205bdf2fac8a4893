"""Starts `turnout` without the half second that Python takes to import it; see zygote.py."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import attrs

from tests.support.zygote import NUMBER


@attrs.frozen(kw_only=True)
class Start:
    """What is to be started: `turnout ARGUMENTS`, in this folder and this environment."""

    arguments: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    brief: bool = False
    """See `be_brief()`: for commands, which end by themselves."""


class Fork:
    """A running process. It is no child of ours, and yet it is told of as `subprocess.Popen` tells of one."""

    def __init__(self, fate: socket.socket) -> None:
        self.returncode: int | None = None
        self._fate = fate
        self.pid = self._number()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._fate.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("turnout", timeout or 0.0) from None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, if it has not ended."""
        self.kill()
        self.wait()
        self._fate.close()

    def _number(self) -> int:
        told = self._fate.recv(NUMBER.size)
        assert told, "the zygote has ended"
        (number,) = NUMBER.unpack(told)
        return int(number)


class Piped(Fork):
    """One whose stdout and stderr are read here."""

    def __init__(self, fate: socket.socket, stdout: TextIO, stderr: TextIO) -> None:
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(fate)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left to read of stdout and stderr, when it has ended."""
        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # else they would read on
                raise
            out, err = (each.result() for each in told)
        return out, err


class Zygote:
    """The process that forks."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = Path(__file__).with_name("zygote.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", program, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C is for who runs the tests; all of them end when nobody asks any more
            )

    def start(self, start: Start, streams: Sequence[int]) -> socket.socket:
        """Start it with this stdin, stdout and stderr; on the socket its fate is told."""
        fate, theirs = socket.socketpair()
        with theirs:
            request = json.dumps(attrs.asdict(start) | {"cwd": str(start.cwd)})
            socket.send_fds(self._line, [request.encode()], [*streams, theirs.fileno()])
        return fate

    def run(self, start: Start, stdin: str) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run()` does, with text for its output."""
        with tempfile.TemporaryFile("w+") as text:
            text.write(stdin)
            text.seek(0)
            with self.piped(start, text) as process:
                told = process.communicate()
        return subprocess.CompletedProcess(["turnout", *start.arguments], process.wait(), *told)

    @contextmanager
    def piped(self, start: Start, stdin: TextIO | None = None) -> Iterator[Piped]:
        """One that runs beside the test; it is killed in the end."""
        with contextlib.ExitStack() as stack:
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            told = [stack.enter_context(os.fdopen(end)) for end in (out, err)]
            given = stdin or stack.enter_context(Path(os.devnull).open())
            fate = self.start(start, [given.fileno(), out_end, err_end])
            for end in (out_end, err_end):
                os.close(end)
            yield stack.enter_context(contextlib.closing(Piped(fate, *told)))

    @contextmanager
    def on_a_terminal(self, start: Start) -> Iterator[tuple[Fork, int]]:
        """One that has a terminal, and the other side of that; it is killed in the end."""
        ours, theirs = pty.openpty()
        fate = self.start(start, [theirs] * 3)
        os.close(theirs)
        with contextlib.closing(Fork(fate)) as process:
            yield process, ours
        os.close(ours)

    def close(self) -> None:
        self._line.close()
        self._process.wait()


@functools.cache
def zygote() -> Zygote:
    found = Zygote()
    atexit.register(found.close)
    return found
