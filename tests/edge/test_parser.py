"""The bytes of the NATS protocol, however they are cut into reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.nats.parser import Parser


class Notes:
    """Writes down all that it is told."""

    def __init__(self) -> None:
        self.dead = False
        self.told: list[tuple[Any, ...]] = []

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.told.append(("message", sid, subject, reply, data, headers))

    def pinged(self) -> None:
        self.told.append(("ping",))

    def ponged(self) -> None:
        self.told.append(("pong",))

    def refused(self, text: str) -> None:
        self.told.append(("error", text))

    def informed(self, info: dict[str, Any]) -> None:
        self.told.append(("info", info))

    def lose(self, reason: str) -> None:
        self.dead = True
        self.told.append(("lost", reason))


SENT: list[tuple[bytes, tuple[Any, ...]]] = [
    (b"PING\r\n", ("ping",)),
    (b"PONG\r\n", ("pong",)),
    (b'INFO {"connect_urls": ["10.0.0.2:4222"]} \r\n', ("info", {"connect_urls": ["10.0.0.2:4222"]})),
    (b"-ERR 'Permissions Violation'\r\n", ("error", "Permissions Violation")),
    (b"MSG a.b 7 0\r\n\r\n", ("message", 7, b"a.b", b"", b"", None)),
    (b"MSG a.b 7 r.1 5\r\nhe\r\nl\r\n", ("message", 7, b"a.b", b"r.1", b"he\r\nl", None)),
    (
        b"HMSG a 8 18 20\r\nNATS/1.0\r\na: b\r\n\r\nhi\r\n",
        ("message", 8, b"a", b"", b"hi", b"NATS/1.0\r\na: b\r\n\r\n"),
    ),
    (
        b"HMSG a 8 r 18 18\r\nNATS/1.0\r\na: b\r\n\r\n\r\n",
        ("message", 8, b"a", b"r", b"", b"NATS/1.0\r\na: b\r\n\r\n"),
    ),
]


@given(st.lists(st.sampled_from(SENT), min_size=1, max_size=12), st.data())
def test_however_the_bytes_are_cut_the_same_arrives(
    sent: list[tuple[bytes, tuple[Any, ...]]], data: st.DataObject
) -> None:
    """Reads of any size tell the same messages in the same order, and every byte is counted."""
    stream = b"".join(raw for raw, _ in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    notes = Notes()
    parser = Parser(notes)
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        parser.data_received(stream[begin:end])
    assert notes.told == [told for _, told in sent]
    assert parser.arrived == len(stream)


@given(st.binary(min_size=1, max_size=60))
def test_nonsense_ends_the_link_and_raises_nothing(garbage: bytes) -> None:
    """Whatever a server sends, what follows is messages or the end of the link, never an exception."""
    parser = Parser(Notes())
    parser.data_received(garbage)
    parser.data_received(b"\r\nMSG a 1 2\r\nhi\r\n")


def test_a_negative_size_is_no_size() -> None:
    """It would send the reader back to where it was, for ever."""
    notes = Notes()
    Parser(notes).data_received(b"MSG a 1 -12\r\n")
    assert notes.dead


def test_a_line_without_an_end_is_given_up() -> None:
    """A peer that is no NATS server cannot fill the memory."""
    notes = Notes()
    parser = Parser(notes)
    for _ in range(20):
        if not notes.dead:
            parser.data_received(b"x" * 100_000)
    assert notes.dead


def test_nothing_is_handed_on_after_the_link_is_dead() -> None:
    """What follows in the same read as the end is dropped: its owner has been told that the link is gone."""
    notes = Notes()
    notes.dead = True
    Parser(notes).data_received(b"PING\r\nPING\r\n")
    assert notes.told == []


@pytest.mark.parametrize(
    ("read", "quiet"),
    [
        (b"PONG\r\n", True),
        (b"MSG a 1 2\r\nhi\r\n", True),
        (b"PING\r\nMSG a 1 2\r\nhi\r\n", True),
        (b"MSG a 1 2\r\nhi\r\nMSG a 1 2\r\nhi\r\n", False),
        (b"MSG a 1 1000\r\nthe beginning of it", False),
        (b"MSG a 1 2\r\nhi\r\nMSG a 1", False),
    ],
)
def test_a_read_of_one_message_at_most_is_quiet(read: bytes, quiet: bool) -> None:
    """Little goes on when a read brings one message at most, and no piece of another."""
    parser = Parser(Notes())
    assert not parser.quiet
    parser.data_received(read)
    assert parser.quiet is quiet
