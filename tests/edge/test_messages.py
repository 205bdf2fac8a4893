"""The parts of the connection that need no server: bytes, answers and the clock."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout import fastjson
from turnout.errors import InvalidValue, PayloadTooLarge, ServerUnsuitable, StorageRefused
from turnout.nats.clock import ServerClock
from turnout.nats.messages import (
    ApiError,
    StoreRefused,
    WrongLastSequence,
    api_error,
    encode_headers,
    encode_publish,
    header,
    header_in,
    parse_headers,
    pub_ack,
    unix_ns,
)

NAMES = st.text("abcXYZ-_.09", min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_headers_go_there_and_back(headers: dict[str, str]) -> None:
    """Every header that is accepted comes back as it was, but for white space around the value; the rest is refused."""
    try:
        block = encode_headers(headers)
    except InvalidValue:
        assert any("\r" in value or "\n" in value for value in headers.values())
        return
    assert parse_headers(block) == (None, "", {name: value.strip() for name, value in headers.items()})


@given(st.binary(max_size=200))
def test_no_header_block_breaks_the_parser(raw: bytes) -> None:
    """Whatever bytes stand in a header block, parsing them gives something."""
    parse_headers(b"NATS/1.0" + raw)
    header_in(b"NATS/1.0\r\na:" + raw, b"a")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, (None, "", {})),
        (b"", (None, "", {})),
        (b"NATS/1.0 503\r\n\r\n", (503, "", {})),
        (b"NATS/1.0 404 No Messages\r\n\r\n", (404, "No Messages", {})),
        (b"NATS/1.0 409 Server Shutdown\r\nA: b:c\r\n\r\n", (409, "Server Shutdown", {"A": "b:c"})),
        (b"NATS/1.0\r\nA:1\r\nA: 2\r\n\r\n", (None, "", {"A": "2"})),
    ],
)
def test_a_header_block_is_read(raw: bytes | None, expected: object) -> None:
    """Status, description and headers, in all the forms the server uses."""
    assert parse_headers(raw) == expected


def test_a_header_is_found_in_any_case() -> None:
    """The exact name wins, any other case is found, and a missing one is None."""
    assert header({"TraceParent": "a", "traceparent": "b"}, "traceparent") == "b"
    assert header({"TraceParent": "a"}, "traceparent") == "a"
    assert header({}, "traceparent") is None


def test_a_publish_on_the_wire() -> None:
    """PUB and HPUB carry the sizes of their parts in bytes."""
    assert b"".join(encode_publish("a.b", b"hi", None, "", 100)) == b"PUB a.b  2\r\nhi\r\n"
    assert b"".join(encode_publish("a", b"hi", {}, "r", 100)) == b"PUB a r 2\r\nhi\r\n"
    wire = b"HPUB a r 19 21\r\nNATS/1.0\r\nk: \xc3\xbc\r\n\r\nhi\r\n"
    assert b"".join(encode_publish("a", b"hi", {"k": "ü"}, "r", 100)) == wire


@pytest.mark.parametrize(
    ("err_code", "kind"),
    [
        *[(code, WrongLastSequence) for code in (10071, 10164)],
        *[(code, StoreRefused) for code in (10077, 10023, 10047, 10028, 10002)],
        *[(code, StorageRefused) for code in (10077, 10047)],
        *[(code, ServerUnsuitable) for code in (10039, 10076)],
        (10054, PayloadTooLarge),
        (10059, ApiError),
        (0, ApiError),
    ],
)
def test_each_error_code_has_its_type(err_code: int, kind: type[Exception]) -> None:
    """An error of the API becomes the type whose remedy fits, with the server's words in it."""
    error = api_error({"code": 400, "err_code": err_code, "description": "wrong last sequence: 12"}, "a.b")
    assert isinstance(error, kind)
    assert "wrong last sequence: 12" in str(error)
    if isinstance(error, WrongLastSequence):
        assert error.last == 12
    if isinstance(error, ApiError):
        assert (error.code, error.err_code) == (400, err_code)


def test_an_acknowledgement_is_read() -> None:
    """Stream, sequence and whether it was a duplicate."""
    ack = pub_ack(b'{"stream":"S","seq":3,"duplicate":true,"domain":"hub"}', "a")
    assert (ack.stream, ack.seq, ack.duplicate) == ("S", 3, True)


def test_instants_are_exact_to_the_nanosecond() -> None:
    """RFC 3339 with any fraction and any zone, whatever the local zone is."""
    assert unix_ns("1970-01-01T00:00:00Z") == 0
    assert unix_ns("2026-03-01T12:00:00.000000001Z") == 1_772_366_400_000_000_001
    assert unix_ns("2026-03-01T13:00:00.5+01:00") == 1_772_366_400_500_000_000
    assert unix_ns("1969-12-31T23:59:59.9Z") == -100_000_000
    with pytest.raises(InvalidValue):
        unix_ns("yesterday")


@given(st.floats(-1e6, 1e6), st.floats(0.0, 2.0))
def test_the_clock_is_as_exact_as_the_round_trip(offset_s: float, round_trip_s: float) -> None:
    """After one sample the server's time is known to within half the round trip, wherever in it the server looked."""
    for share in (0.0, 0.5, 1.0):
        clock = ServerClock()
        clock.observe(1000.0, 1000.0 + round_trip_s, 1000.0 + round_trip_s * share + offset_s)
        assert abs(clock.offset_s - offset_s) <= round_trip_s / 2 + 1e-6


def test_a_worse_sample_does_not_spoil_a_better_one() -> None:
    """A slow answer changes nothing while the offset is known better; much later, or if it contradicts, it counts."""
    clock = ServerClock()
    assert abs(clock.now() - time.time()) < 1
    clock.observe(1000.0, 1000.01, 1005.005)
    clock.observe(1001.0, 1003.0, 1006.1)
    assert clock.offset_s == pytest.approx(5.0)
    clock.observe(99_000.0, 99_002.0, 99_006.5)
    assert clock.offset_s == pytest.approx(5.5)
    clock.observe(99_010.0, 99_012.0, 99_911.0)
    assert clock.offset_s == pytest.approx(900.0)


def test_json_is_compact_utf8_either_way() -> None:
    """With orjson or without it the bytes are the same and read back the same."""
    value = {"a": [1, 2.5, None, True], "ü": "ß"}
    expected = '{"a":[1,2.5,null,true],"ü":"ß"}'.encode()
    assert fastjson.dumps(value) == fastjson._dumps(value) == expected
    assert fastjson.loads(expected) == value
    for dumps in (fastjson.dumps, fastjson._dumps):
        with pytest.raises(TypeError):
            dumps(object())


@given(st.dictionaries(NAMES, st.text("ab: ü", max_size=5), max_size=6))
def test_one_header_is_what_reading_all_of_them_gives(headers: dict[str, str]) -> None:
    """Of a repeated name the last counts; a name that only ends like another is not that one."""
    block = encode_headers({**headers, "xa": "1"})
    found = parse_headers(block)[2]
    for name in (*headers, "a", "missing"):
        value = header_in(block, name.encode())
        assert (None if value is None else value.decode()) == found.get(name)
    assert header_in(b"NATS/1.0\r\na: 1\r\na:2 \r\n\r\n", b"a") == b"2"
