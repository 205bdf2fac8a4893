"""`turnout dev`: a NATS server of this directory, and a worker beside it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from turnout.cli import catalog, contexts, logs, options, pasting, serve, session
from turnout.cli.exits import BadInput
from turnout.cli.loading import Definitions, definitions_of
from turnout.client.client import Client
from turnout.errors import ServerUnavailable, TurnoutError
from turnout.node import Worker
from turnout.testing.server import HOST, NatsServer

FOLDER = Path(".turnout")
PORT = 4222


def dev(plan: serve.Plan | None) -> int:
    """Run a server, and a worker as planned (None: the server alone), until Ctrl-C or SIGTERM."""
    given = options.given()
    if "server" in given or "context" in given:
        raise BadInput("turnout dev starts a server of its own; for one that runs use `turnout worker`")
    logs.set_up(given, logging.INFO, each_job=True)  # a person watches, and few jobs come
    definitions = definitions_of(plan.module) if plan is not None else Definitions([], [])
    with _only_here(), _server() as server:
        options.put("server", server.url)
        if plan is None:
            _tell(server, definitions, contexts.namespace(given))
            _wait_for_signal()
            return 0

        def ready(_: Worker, client: Client) -> None:
            _tell(server, definitions, client.namespace)

        return serve.work(plan, definitions, ready, server.close)


@contextmanager
def _only_here() -> Iterator[None]:
    """Two servers over the same files would ruin them: hold a lock in the folder while ours runs."""
    FOLDER.mkdir(exist_ok=True)
    FOLDER.chmod(0o700)  # what jobs are about is nobody else's business on this machine
    (FOLDER / ".gitignore").write_text("*\n")
    with (FOLDER / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TurnoutError(f"turnout dev runs already in {Path.cwd()}: use that one, or stop it") from None
        yield


@contextmanager
def _server() -> Iterator[NatsServer]:
    server = NatsServer(port=PORT if _free(PORT) else None, store_dir=FOLDER / "nats")
    try:
        try:
            server.start()
        except ServerUnavailable:
            if "address already in use" not in server.log(5):
                raise
            server = NatsServer(store_dir=FOLDER / "nats")
            server.start()
        yield server
    finally:
        server.close()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _tell(server: NatsServer, definitions: Definitions, namespace: str) -> None:
    facts = {
        "url": server.url,
        "namespace": namespace,
        "activities": [each.name for each in definitions.activities],
        "workflows": [each.name for each in definitions.workflows],
    }
    session.show(facts, lambda: _words(server, definitions, namespace), as_json=session.as_json())
    sys.stdout.flush()


def _words(server: NatsServer, definitions: Definitions, namespace: str) -> Iterator[str]:
    yield f"NATS server   {server.url}  (its data: {FOLDER}/)"
    if definitions.activities:
        yield f"activities    {', '.join(each.name for each in definitions.activities)}"
    if definitions.workflows:
        yield f"workflows     {', '.join(each.name for each in definitions.workflows)}"
    if not definitions.names:
        yield f"no activities: give a module, or start workers: {pasting.command('worker MODULE')}"
    if server.port != PORT:
        yield f"port {PORT} is taken: elsewhere add --server {server.url}, or export NATS_URL={server.url}"
    for each in definitions.activities:
        payload = json.dumps(catalog.example(each.codec.payload_schema()), ensure_ascii=False)
        yield ""
        for line in catalog.submit_lines(namespace, each.name, payload):
            yield f"  {line}"
    for flow in definitions.workflows:
        payload = json.dumps(catalog.example(flow.codec.payload_schema()), ensure_ascii=False)
        yield ""
        yield f"  {pasting.command(f'workflow start {flow.name} {shlex.quote(payload)} --follow')}"
    yield ""
    yield click.style("Ctrl-C stops.", dim=True)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, *serve.hangup()):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(3600):
        pass
    logging.getLogger("turnout.cli").info("stopping (process %d)", os.getpid())
