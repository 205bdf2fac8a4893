"""What a loop without input and output refuses, each with a word on what to use instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

Refuse = Callable[[str], BaseException]
"""Makes the error that is raised, from a sentence that says what was refused and what to use instead."""

CONNECTIONS = "this loop has no network: connections belong into an activity"
FILES = "this loop has no files, pipes or processes: they belong into an activity"
SIGNALS = "this loop sees no signals of the operating system"
THREADS = "this loop has no threads: await the work directly, or let an activity do it"


def _refused(what: str, why: str) -> Any:
    def refuse(self: NoInputOutput, *_: Any, **__: Any) -> Any:
        raise self.refuse(f"{what}() is refused: {why}")

    refuse.__name__ = refuse.__qualname__ = what
    return refuse


class NoInputOutput(asyncio.AbstractEventLoop):
    """The part of an event loop that reaches out of the program: all of it is refused."""

    def __init__(self, refuse: Refuse) -> None:
        self.refuse = refuse

    run_in_executor = _refused("run_in_executor", THREADS)
    set_default_executor = _refused("set_default_executor", THREADS)

    getaddrinfo = _refused("getaddrinfo", CONNECTIONS)
    getnameinfo = _refused("getnameinfo", CONNECTIONS)
    create_connection = _refused("create_connection", CONNECTIONS)
    create_server = _refused("create_server", CONNECTIONS)
    create_unix_connection = _refused("create_unix_connection", CONNECTIONS)
    create_unix_server = _refused("create_unix_server", CONNECTIONS)
    create_datagram_endpoint = _refused("create_datagram_endpoint", CONNECTIONS)
    connect_accepted_socket = _refused("connect_accepted_socket", CONNECTIONS)
    start_tls = _refused("start_tls", CONNECTIONS)
    sendfile = _refused("sendfile", CONNECTIONS)
    sock_recv = _refused("sock_recv", CONNECTIONS)
    sock_recv_into = _refused("sock_recv_into", CONNECTIONS)
    sock_recvfrom = _refused("sock_recvfrom", CONNECTIONS)
    sock_recvfrom_into = _refused("sock_recvfrom_into", CONNECTIONS)
    sock_sendall = _refused("sock_sendall", CONNECTIONS)
    sock_sendto = _refused("sock_sendto", CONNECTIONS)
    sock_connect = _refused("sock_connect", CONNECTIONS)
    sock_accept = _refused("sock_accept", CONNECTIONS)
    sock_sendfile = _refused("sock_sendfile", CONNECTIONS)

    connect_read_pipe = _refused("connect_read_pipe", FILES)
    connect_write_pipe = _refused("connect_write_pipe", FILES)
    subprocess_shell = _refused("subprocess_shell", FILES)
    subprocess_exec = _refused("subprocess_exec", FILES)
    add_reader = _refused("add_reader", FILES)
    remove_reader = _refused("remove_reader", FILES)
    add_writer = _refused("add_writer", FILES)
    remove_writer = _refused("remove_writer", FILES)

    add_signal_handler = _refused("add_signal_handler", SIGNALS)
    remove_signal_handler = _refused("remove_signal_handler", SIGNALS)
