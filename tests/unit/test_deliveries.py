"""What anybody may have published: it is read without an error, and what comes of it can be stored."""

from __future__ import annotations

import pytest

from turnout import wire
from turnout.core.lifecycle import record_of
from turnout.core.values import MessageRef
from turnout.jetstream.names import Names

MESSAGE = MessageRef(7, 1_800_000_000_000_000_000)


@pytest.mark.parametrize(
    "headers",
    [
        {"Turnout-Replaced": "\u00b2"},
        {"Turnout-Replaced": "9" * 5000},
        {"Turnout-Generation": "9" * 30},
        {"Turnout-Generation": "\u0663"},
        {"Turnout-Options": '{"timeout": 1e999}'},
        {"Turnout-Options": '{"timeout": NaN}'},
        {"Turnout-Options": '{"expires_in": -1}'},
        {"Turnout-Options": '{"expires_in": 1e300}'},
        {"Turnout-Options": '{"labels": {"a": "' + "x" * 300_000 + '"}}'},
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
