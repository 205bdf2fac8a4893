"""What anybody may have published: it is read without an error, and what comes of it can be stored."""

from __future__ import annotations

import json

import pytest

from tests.support.values import job_record
from turnout import wire
from turnout.core.lifecycle import record_of
from turnout.core.record import JobState, MessageRef
from turnout.core.spec import SubmitOptions
from turnout.store.names import Names

MESSAGE = MessageRef(7, 1_800_000_000_000_000_000)


@pytest.mark.parametrize(
    "headers",
    [
        {"Turnout-Replaced": "\u00b2"},
        {"Turnout-Replaced": "9" * 5000},
        {"Turnout-Generation": "9" * 30},
        {"Turnout-Generation": "\u0663"},
        {"Turnout-Options": "[]"},
        {"Turnout-Options": '"timeout=5"'},
        {"Turnout-Options": '{"retry": "none"}'},
        {"Turnout-Options": '{"retry": {"retry_on": "builtins.OSError"}}'},
        {"Turnout-Options": '{"timeout": 1e999}'},
        {"Turnout-Options": '{"timeout": NaN}'},
        {"Turnout-Options": '{"expires_in": -1}'},
        {"Turnout-Options": '{"expires_in": 1e300}'},
        {"Turnout-Options": '{"labels": {"a": "' + "x" * 300_000 + '"}}'},
        {"Turnout-Options": '{"labels": {"a": "\\ud800"}}'},
        {"Turnout-Options": '{"labels": {"\\udc00": "a"}}'},
        {"Turnout-Options": '{"labels": {"a": "\\u0000"}}'},
        {"Turnout-Options": json.dumps({"labels": {f"k{n}": "v" for n in range(2500)}})},
        {"Turnout-Options": '{"retry": {"retry_on": ["\\ud800.X"]}}'},
        {"Turnout-Options": '{"retry": {"retry_on": ["builtins.' + "X" * 1000 + '"]}}'},
        {"Turnout-Options": '{"retry": {"max_attempts": 1180591620717411303424}}'},
        {"Turnout-Options": '{"retry": {"max_attempts": 1001}}'},
        {"Turnout-Options": json.dumps({"retry": {"delays": [0.1] * 11_000, "max_attempts": 3}})},
        {"Turnout-Options": '{"timeout": 40000000}'},
        {"Turnout-Options": '{"parent": {"id": "w", "name": "w", "life": "\\ud800", "run": 1, "command": "1"}}'},
        {"Turnout-Options": '{"parent": {"id": "w", "name": "w", "life": "l", "run": 1180591620717411303424}}'},
        {"Turnout-Payload": "a2-payload-00ff 5"},
        {"Turnout-Payload": "a1-result-00ff 5"},
        {"Turnout-Payload": "a1-payload-b-payload-00ff 5"},
        {"Turnout-Payload": "workflow.w.l-payload-00ff 5"},
        {"Turnout-Payload": "a1-payload-00ff " + "9" * 5000},
    ],
    ids=lambda headers: " ".join(f"{k}={v[:24]}" for k, v in headers.items()),
)
def test_headers_that_make_no_sense_are_the_jobs_problem(headers: dict[str, str]) -> None:
    """Whatever the headers say, the message is read, its job says what is wrong, and its record can be stored."""
    delivery = wire.parse_delivery("audit", "a1", MESSAGE, b"{}", headers)
    assert delivery.problem is not None
    assert next(iter(headers)) in delivery.problem.message
    record = record_of(delivery)
    assert wire.load_record(wire.dump_record(record)) == record


def test_what_json_cannot_carry_does_not_keep_a_record_from_being_written() -> None:
    """Half of a surrogate pair is written out, and an integer of more than 64 bits is as large as it can be."""
    record = job_record("a1", "audit", JobState.cancelled, reason="\ud800", attempt=2**70)
    read = wire.load_record(wire.dump_record(record))
    assert (read.reason, read.attempt) == ("\\ud800", 2**63 - 1)


@pytest.mark.parametrize("labels", [{}, {"customer": "42"}], ids=["nothing else", "labels"])
@pytest.mark.parametrize("lane", [1, 3, 5, 9])
def test_a_priority_is_told_by_the_lane_alone(lane: int, labels: dict[str, str]) -> None:
    """A message that asks for nothing else is the plainest one; on a route, where no lane tells, its header does."""
    spec = job_record("a1", "audit", JobState.queued, options=SubmitOptions(labels=labels).prioritized(lane)).spec
    headers = wire.message_headers(spec, "nonce")
    assert "priority" not in headers.get("Turnout-Options", "")
    assert ("Turnout-Options" in headers) == bool(labels)
    message = MessageRef(7, MESSAGE.time_ns, priority=lane)
    assert wire.parse_delivery("audit", "a1", message, b"{}", headers).spec.options == spec.options
    routed, message = wire.message_headers(spec, "nonce", routed=True), MessageRef(7, MESSAGE.time_ns, bare=True)
    assert wire.parse_delivery("audit", "a1", message, b"{}", routed).spec.options == spec.options


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        ("turnout.jobs.audit", ("audit", None)),
        ("turnout.jobs.audit.a1", ("audit", "a1")),
        ("turnout.jobs.audit.*", ("audit", None)),
        ("turnout.jobs.audit.>", ("audit", None)),
        ("turnout.jobs.audit.\u00fc", ("audit", None)),
        ("turnout.jobs.audit." + "x" * 3000, ("audit", None)),
        ("turnout.jobs.*.a1", None),
    ],
)
def test_what_is_no_id_names_no_job(subject: str, named: tuple[str, str | None] | None) -> None:
    """A token that may not be an id, a wildcard above all, never becomes one: its message is named like a bare one."""
    assert Names("turnout").job_of(subject) == named
