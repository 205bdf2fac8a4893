"""Commands that are printed to be pasted: they go to the server and the namespace that this run was about."""

from __future__ import annotations

import shlex

import click

from turnout.cli import contexts, options

_USUAL_SERVERS = (contexts.DEFAULT_SERVER, "nats://localhost:4222")
_KEPT = ("context", "creds", "user", "nkey", "tlsca", "tlscert", "tlskey", "inbox_prefix")
"""What is repeated as it was given. Passwords and tokens are not: the reader knows them, and the log need not."""


def command(rest: str) -> str:
    """`turnout`, then `rest`, then the options that say where, as this run was given them."""
    return " ".join(["turnout", rest, *_server(), *_namespace()])


def nats(rest: str) -> str:
    """The same for a command of the nats CLI, whose subjects name the namespace."""
    return " ".join(["nats", *_server(), rest])


def _server() -> list[str]:
    given = _given()
    flags = []
    if (server := given.get("server")) and server not in _USUAL_SERVERS:
        flags += ["--server", shlex.quote(server)]
    for name in _KEPT:
        if value := given.get(name):
            flags += [f"--{name.replace('_', '-')}", shlex.quote(value)]
    if given.get("tlsfirst"):
        flags.append("--tlsfirst")
    return flags


def _namespace() -> list[str]:
    """Named wherever another shell might mean another one."""
    given = _given()
    name = contexts.namespace(given)
    return ["-n", shlex.quote(name)] if "namespace" in given or name != "turnout" else []


def _given() -> dict[str, str]:
    return options.given() if click.get_current_context(silent=True) is not None else {}
