"""Where the server is and who we are: options, contexts of the nats CLI, the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, first_document
from turnout.cli.contexts import connect_options, namespace
from turnout.cli.exits import BadInput
from turnout.testing.server import NatsServer


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with two contexts, of which `prod` is selected."""
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    prod = {"description": "", "url": "nats://prod:4222,nats://prod2:4222", "user": "u", "password": "p", "creds": ""}
    (folder / "prod.json").write_text(json.dumps(prod))
    (folder / "other.json").write_text(json.dumps({"url": "nats://other:4222", "token": "t", "inbox_prefix": "_IN"}))
    (folder / "nsc.json").write_text(json.dumps({"url": "nats://x", "nsc": "nsc://a/b/c"}))
    (folder / "broken.json").write_text("{")
    (tmp_path / "nats" / "context.txt").write_text("prod\n")
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_without_anything_it_is_this_machine(home: dict[str, str]) -> None:
    """A selected context that nobody mentions is left alone: it may be production."""
    found = connect_options({}, home)
    assert found.servers == ("nats://127.0.0.1:4222",)
    assert found.user is None
    assert namespace({}, {}) == "turnout"
    assert namespace({}, {"TURNOUT_NAMESPACE": "a"}) == "a"
    assert namespace({"namespace": "b"}, {"TURNOUT_NAMESPACE": "a"}) == "b"


def test_a_context_gives_server_and_login(home: dict[str, str]) -> None:
    """A context is used by name, as the selected one, or from NATS_CONTEXT."""
    for options, environment in (
        ({"context": "prod"}, {}),
        ({"context": "selected"}, {}),
        ({}, {"NATS_CONTEXT": "prod"}),
    ):
        found = connect_options(options, home | environment)
        assert found.servers == ("nats://prod:4222", "nats://prod2:4222")
        assert (found.user, found.password, found.creds) == ("u", "p", None)
    assert connect_options({"context": "other"}, home).inbox_prefix == "_IN"


def test_what_is_nearer_wins(home: dict[str, str]) -> None:
    """--server beats --context beats NATS_URL beats NATS_CONTEXT; logins are taken as a whole, never mixed."""
    url = {"NATS_URL": "nats://env:4222"}
    assert connect_options({"server": "nats://a", "context": "prod"}, home | url).servers == ("nats://a",)
    assert connect_options({"context": "other"}, home | url).servers == ("nats://other:4222",)
    assert connect_options({}, home | url | {"NATS_CONTEXT": "prod"}).servers == ("nats://env:4222",)
    mixed = connect_options({"context": "prod", "token": "mine"}, home | {"NATS_CREDS": "x"})
    assert (mixed.token, mixed.user, mixed.password, mixed.creds) == ("mine", None, None, None)
    assert connect_options({"user": "u"}, {"NATS_PASSWORD": "from env"}).password == "from env"


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"context": "none"}, BadInput, "it has broken, nsc, other, prod"),
        ({"context": "nsc"}, BadInput, "nsc, which turnout does not support"),
        ({"context": "broken"}, BadInput, "cannot read"),
        ({"context": "../prod"}, BadInput, "no name of a context"),
        ({"nkey": "/no/such/file"}, BadInput, "nkey: there is no file"),
        ({"tlsca": "/no/such/file"}, BadInput, "tlsca: there is no file"),
        ({"tlscert": "/no/such/file"}, BadInput, "needs both"),
    ],
)
def test_what_cannot_be_used_is_told(home: dict[str, str], options: dict[str, str], error: Any, told: str) -> None:
    """A context or a file that can't be used is an error, not silence."""
    with pytest.raises(error, match=told):
        connect_options(options, home)


def test_a_context_connects(tmp_path: Path, home: dict[str, str]) -> None:
    """A context with user and password gets in where nobody gets in without."""
    with NatsServer(config="authorization { user: me, password: secret }") as server:
        file = tmp_path / "nats" / "context" / "real.json"
        file.write_text(json.dumps({"url": server.url, "user": "me", "password": "secret"}))
        cli = Cli(server.url, "ctx")
        assert cli.json("job", "ls", "--context", "real", env=home) == []
        assert cli.json("--context", "real", "job", "ls", env=home) == []
        cli.error("job", "ls", env=home, code=1)
        assert "there is no context nope" in cli.error("job", "ls", "--context", "nope", env=home, code=2)


def test_a_context_may_have_an_inbox_of_its_own(tmp_path: Path, home: dict[str, str]) -> None:
    """Credentials that may listen below their own inbox prefix do for a worker and for clients: none uses another."""
    config = """authorization { users: [{user: me, password: p, permissions: {subscribe: {deny: ["_INBOX.>"]}}}] }"""
    with NatsServer(config=config) as server:
        file = tmp_path / "nats" / "context" / "mine.json"
        mine = {"url": server.url, "user": "me", "password": "p", "inbox_prefix": "_MINE"}
        file.write_text(json.dumps(mine))
        cli = Cli(server.url, "mine")
        with cli.process("worker", "shop:add", "--context", "mine", "-o", "json", env=home) as worker:
            first_document(worker)
            assert cli("job", "submit", "add", '{"a": 1}', "--wait", "--context", "mine", env=home).stdout == "3\n"
        login = ("--user", "me", "--password", "p")
        assert "_INBOX" in cli.error("job", "ls", *login, code=1)
        assert cli("job", "ls", *login, "--inbox-prefix", "_MINE").stdout.startswith("ID")


def test_a_context_may_say_that_tls_comes_first(tmp_path: Path, home: dict[str, str]) -> None:
    """`tls_first` of a context is heeded, and so is the option."""
    (tmp_path / "nats" / "context" / "first.json").write_text(json.dumps({"url": "tls://a:4222", "tls_first": True}))
    assert connect_options({"context": "first"}, home).tls_first
    assert connect_options({"tlsfirst": "True"}, home).tls_first
    assert not connect_options({}, home).tls_first
