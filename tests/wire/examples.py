"""The values whose spelling is kept in golden/, a folder for each version of the wire.

    python -m tests.wire.examples       # writes the folder of a new version; refuses to touch one that is there

A field that is added gets a default, and the files of old versions are read as before. What can't be added like that is
a new version: raise `wire.VERSION`, run this, and never change an older folder.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.values import job_record
from turnout import wire
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.failure import ErrorInfo
from turnout.core.group import Ends, FollowUp, GroupRecord, MemberKind, Roster
from turnout.core.record import (
    Answer,
    AttemptRecord,
    JobRecord,
    JobState,
    MessageRef,
    Outcome,
    Outside,
    Policy,
    Progress,
    Token,
    WaitsFor,
)
from turnout.core.retry import RetryPolicy
from turnout.core.schedule import Job, Run, Schedule, ScheduleRecord
from turnout.core.spec import Body, SubmitOptions
from turnout.wire.converter import dump

GOLDEN = Path(__file__).with_name("golden")

POLICY = RetryPolicy(max_attempts=5, delay=2.0, factor=3.0, max_delay=60.0, jitter=0.2, retry_on=("builtins.OSError",))
OPTIONS = SubmitOptions(timeout=90.0, retry=POLICY, expires_in=3600.0, labels={"customer": "42", "größe": "ja"})
ERROR = ErrorInfo("ValueError", "no such file: ä.mp4", 'Traceback ...\n  File "convert.py", line 7\n')
FAILED = AttemptRecord(1, 1, "media-a1b2c3", 1700000001.5, Outcome.faulted, 1700000002.25, ERROR, "00f067aa0ba902b7")
LOST = AttemptRecord(2, 1, "media-d4e5f6", 1700000005.0, Outcome.lost, 1700000017.0)
RUNS = AttemptRecord(3, 1, "media-a1b2c3", 1700000018.0, span_id="b7ad6b7169203331")
TOKEN = Token("media-a1b2c3", 1, 3, "0123456789abcdef")
MESSAGE = MessageRef(42, 1700000000123456789, "$JS.ACK.turnout_work.convert.3.42.57.1700000018000000000.0")
BASE: dict[str, Any] = {
    "id": "a-1",
    "activity": "convert",
    "submitted_at": 1700000000.123,
    "payload": Body(text='{"path": "ä.mp4"}', size=18),
    "headers": {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "X-Tenant": "7"},
    "options": OPTIONS,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
STARTED: dict[str, Any] = {
    **BASE,
    "rules": Policy(retry=POLICY, max_lost=1, lease=12.5),
    "message": MESSAGE,
    "token": TOKEN,
    "attempt": 3,
    "failures": 1,
    "losses": 1,
    "started_at": 1700000001.5,
    "progress": Progress(3, 12.0, "step 3"),
    "checkpoint": Body(text="[1, 2]", size=6),
}


def ended(outcome: Outcome, error: ErrorInfo | None = None) -> tuple[AttemptRecord, ...]:
    return FAILED, LOST, AttemptRecord(3, 1, RUNS.node, RUNS.started_at, outcome, 1700000030.0, error, RUNS.span_id)


RECORDS = {
    "scheduled": job_record(state=JobState.scheduled, token=Token("", 1, 0, "call"), due_at=1700003600.0, **BASE),
    "queued": job_record(state=JobState.queued, **BASE),
    "running": job_record(
        state=JobState.running, attempts=(FAILED, LOST, RUNS), cancel_request="cancelled: enough", **STARTED
    ),
    "retrying": job_record(state=JobState.retrying, attempts=(FAILED,), due_at=1700000040.0, error=ERROR, **STARTED),
    "completed": job_record(
        state=JobState.completed,
        attempts=ended(Outcome.completed),
        finished_at=1700000030.0,
        result=Body(ref="a-1-result-aabbcc", size=123456),
        **STARTED,
    ),
    "faulted": job_record(
        state=JobState.faulted,
        attempts=ended(Outcome.timed_out, ERROR),
        finished_at=1700000030.0,
        error=ERROR,
        reason="timed_out",
        **STARTED,
    ),
    "cancelled": job_record(
        state=JobState.cancelled,
        attempts=ended(Outcome.cancelled),
        finished_at=1700000030.0,
        cancel_request="cancelled: enough",
        reason="cancelled: enough",
        aborts=2,
        **STARTED,
    ),
    "second generation": job_record(
        id="a-1",
        activity="convert",
        state=JobState.queued,
        generation=2,
        after="nonce",
        attempt=3,
        attempts=ended(Outcome.faulted),
    ),
    "snoozed": job_record(
        state=JobState.retrying,
        snoozes=4,
        attempt=1,
        attempts=(FAILED, AttemptRecord(2, 1, RUNS.node, 1700000018.0, Outcome.snoozed, 1700000019.0)),
        due_at=1700000040.0,
        reason="not there yet",
        **{**BASE, "options": SubmitOptions(start_within=60.0)},
    ),
    "parked": job_record(
        state=JobState.queued, message=MESSAGE, waits_for=WaitsFor("tenant:7", "tenant:{tenant}", 1700000003.5), **BASE
    ),
    "outside": job_record(
        state=JobState.running,
        attempts=(FAILED, LOST, RUNS),
        outside=Outside(3600.0),
        due_at=1700003618.0,
        **{**STARTED, "token": Token("", 1, 3, "0123456789abcdef")},
    ),
    "answered": job_record(
        state=JobState.running, attempts=(FAILED, LOST, RUNS), answer=Answer(3, error=ERROR, fatal=True), **STARTED
    ),
    "named": job_record("order-17", "ping", JobState.queued, nonce="00ffaabb7"),
    "least": job_record("b", "ping", JobState.queued),
}
NODE = NodeInfo(
    id="media-a1b2c3",
    name="media",
    host="host-1",
    pid=4711,
    version="0.1.0",
    activities=("convert", "ping"),
    slots=10,
    running=3,
    draining=True,
    started_at=1700000000.0,
    ttl=7.0,
)
ACTIVITY = ActivityInfo(
    name="convert",
    doc="Convert a video.",
    payload_schema={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    result_schema={"type": "string"},
    options={"timeout": 900.0, "max_lost": 3, "retry": wire.dump_retry(POLICY)},
)
SCHEDULE = ScheduleRecord(
    name="nightly",
    schedule=Schedule(
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        end=datetime(2030, 1, 1, tzinfo=UTC),
        overlap="queue",
        catch_up="all",
        jitter=30,
    ),
    job=Job("activity", "convert", '{"path":"a.mp4"}', SubmitOptions(timeout=90.0, labels={"customer": "42"})),
    created_at=1700000000.5,
    cursor=1700013600.0,
    paused=True,
    note="the disk is full",
    previous="nightly-20231115T020000Z",
    backlog=(1700100000.0,),
    recent=(Run(1700013600.0, "nightly-20231115T020000Z"), Run(1700100000.0, "nightly-20231116T020000Z", "missed")),
    headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
)
GROUP = GroupRecord(
    id="album",
    total=3,
    activity="convert",
    roster=Body(ref="group.album-roster-00ff", size=99999),
    created_at=1700000000.5,
    nonce="aabb",
    headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    then=FollowUp("report", "ended", SubmitOptions(timeout=90.0), "completed"),
    published=3,
    cancel="wrong files",
    cancelled=3,
    ends=Ends.none(3).with_ends({0: JobState.completed, 1: JobState.faulted, 2: JobState.cancelled}).text,
    finished_at=1700000010.5,
    then_id="album-then",
)
ROSTER = Roster(
    kinds=(MemberKind("convert"), MemberKind("report", SubmitOptions(labels={"customer": "42"}), at=1700000300.0)),
    payloads=('{"path":"a.mp4"}', "{}"),
    kind_of=(0, 1),
)
MESSAGES = {
    "plain": RECORDS["least"],
    "named": RECORDS["named"],
    "options": RECORDS["queued"],
    "second generation": RECORDS["second generation"],
    "claim check": job_record("c", "convert", JobState.queued, payload=Body(ref="c-payload-aabbcc", size=99999)),
}
"""What a message says of each of these, published by a call whose nonce is `nonce`."""


def headers_of(record: JobRecord) -> dict[str, str]:
    return wire.message_headers(record.spec, "nonce", replaced=2, scheduled=True)


def spelt() -> dict[str, Any]:
    """Every example as the newest version spells it: file name -> JSON."""
    files: dict[str, Any] = {f"record {name}": json.loads(wire.dump_record(each)) for name, each in RECORDS.items()}
    files["node"] = json.loads(wire.dump_node(NODE))
    files["activity"] = json.loads(wire.dump_activity(ACTIVITY))
    files["schedule"] = json.loads(dump(SCHEDULE))
    files["group"] = json.loads(dump(GROUP))
    files["roster"] = json.loads(dump(ROSTER))
    files["token"] = wire.dump_token(TOKEN)
    files |= {f"message {name}": headers_of(record) for name, record in MESSAGES.items()}
    return {name.replace(" ", "_") + ".json": value for name, value in files.items()}


def write() -> None:
    folder = GOLDEN / f"v{wire.VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(
            f"{folder.name} is there already and stays as it is: what it holds has been written by somebody"
        )
    for name, value in spelt().items():
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
