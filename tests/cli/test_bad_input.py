"""What bad input gets: one sentence that says which and what to do, an exit code, and nothing stored."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from turnout.testing.server import NatsServer

BAD_PAYLOADS = {
    "not JSON": ("{a: 1}", "is not JSON"),
    "cut off": ('{"a": 1', "is not JSON"),
    "two documents": ("{} {}", "is not JSON"),
    "no number": ('{"a": NaN}', "NaN is no number in JSON"),
    "too large a number": ('{"a": 1e999}', "payload"),
    "half a character": (r'{"a": "\ud800"}', "payload"),
    "too deep": ("[" * 100_000, "nested too deeply"),
    "empty": (" ", "is not JSON"),
}


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_a_bad_payload_is_2(cli: Cli, name: str) -> None:
    """A payload that JSON can't carry is refused before anything is stored."""
    text, told = BAD_PAYLOADS[name]
    assert told in cli.error("job", "submit", "add", "-", stdin=text, code=2, env={"NATS_URL": "nats://127.0.0.1:1"})


def test_a_bad_file_is_2(cli: Cli, tmp_path: Path) -> None:
    """A payload's file that isn't there or isn't UTF-8 is told."""
    assert "No such file" in cli.error("job", "submit", "add", f"@{tmp_path}/none.json", code=2)
    (tmp_path / "latin.json").write_bytes('{"a": "ë"}'.encode("latin-1"))
    assert "not UTF-8" in cli.error("job", "submit", "add", f"@{tmp_path}/latin.json", code=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a b"], "activity"),
        (["add", "--id", "a.b"], "id"),
        (["add", "--id", "x" * 65], "id"),
        (["add", "--delay", "soon"], "no duration"),
        (["add", "--delay", "-5"], "no duration"),
        (["add", "--at", "2026-01-31T12:00:00"], "add Z for UTC"),
        (["add", "--at", "tomorrow"], "no instant"),
        (["add", "--delay", "1m", "--at", "2100-01-01T00:00:00Z"], "exclude each other"),
        (["add", "--expires-in", "0"], "expires_in"),
        (["add", "--label", "customer"], "no label"),
        (["add", "--priority", "6"], "1<=x<=5"),
        (["add", "--if-exists", "again"], "if-exists"),
        (["add", "--timeout", "5"], "--wait or --follow"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_bad_option_is_2(cli: Cli, arguments: list[str], told: str) -> None:
    """An option with a bad value is named, and nothing is connected or stored."""
    assert told in cli.error("job", "submit", *arguments, code=2, env={"NATS_URL": "nats://127.0.0.1:1"})


def test_a_bad_id_to_look_for_is_2(busy: Cli) -> None:
    """An id that no job can have is bad input, not an unknown job."""
    assert "id must match" in busy.error("job", "show", "a.b", code=2)
    assert "namespace must match" in busy.error("job", "ls", "-n", "a.b", code=2)


def test_no_server_is_1() -> None:
    """Where no server runs it is said where, and to start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        cli = Cli(f"nats://127.0.0.1:{probe.getsockname()[1]}", "none")
        told = cli.error("job", "ls", code=1)
        assert len(told.splitlines()) == 1
        assert cli.url in told
        assert "start it or check the address" in told
        cli.error("worker", "shop", "--wait", "0", code=1)
    assert "no address" in cli.error("job", "ls", "--server", "http://x", code=2)


def test_no_jetstream_is_1() -> None:
    """A server without JetStream is told apart, with what to do about it."""
    with NatsServer(jetstream=False) as server:
        told = Cli(server.url, "none").error("job", "submit", "add", code=1)
    assert "JetStream is off" in told
    assert "-js" in told


def test_no_permission_is_1() -> None:
    """Wrong credentials, and credentials that may not do what is needed, are told."""
    config = """
    authorization { users = [
        { user: all, password: secret }
        { user: few, password: secret, permissions: { publish: "x.>", subscribe: "_INBOX.>" } }
    ] }
    """
    with NatsServer(config=config) as server:
        cli = Cli(server.url, "none")
        assert cli.json("job", "ls", "--user", "all", "--password", "secret") == []
        assert cli.json("job", "ls", "--user", "all", env={"NATS_PASSWORD": "secret"}) == []
        for arguments in ([], ["--user", "all", "--password", "wrong"], ["--token", "wrong"]):
            told = cli.error("job", "ls", *arguments, code=1)
            assert "uthori" in told or "credentials" in told
        told = cli.error("job", "submit", "add", "--user", "few", "--password", "secret", code=1)
        assert "may not publish" in told
        assert "secret" not in told


def test_a_bad_payload_by_name_is_refused(busy: Cli) -> None:
    """A payload that lacks what the published contract asks for is refused by name, before anything is stored."""
    told = busy.error("job", "submit", "add", '{"b": 1}', "--id", "unfit", "--wait", code=2)
    assert "a" in told
    busy.error("job", "show", "unfit", code=4)
