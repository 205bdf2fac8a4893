"""What the verbs of `turnout activity` and `fault` do."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from turnout.cli import bulk, exits, jobs, jobview, output, pasting
from turnout.cli.session import Session
from turnout.client.handle import AnyHandle
from turnout.client.info import FaultInfo
from turnout.client.pausing import undeclared
from turnout.client.replay import no_dead_letter
from turnout.core.catalog import ActivityInfo
from turnout.core.spec import valid_name


async def activities(s: Session) -> int:
    found = await s.client.activities()
    rows = [
        (each.name, str(each.nodes), _paused(each), output.one_line(each.doc.partition("\n")[0], 80)) for each in found
    ]
    s.show(found, lambda: output.table(["activity", "nodes", "paused", "what it does"], rows))
    return 0


async def pause(s: Session, name: str, note: str, duration_s: float | None) -> int:
    await s.client.pause(name, note, duration_s)
    length = "until it is resumed" if duration_s is None else f"for {output.duration(duration_s)}"
    s.show({"name": name, "paused": True, "note": note}, lambda: [f"{name} is paused {length}"])
    return 0


async def resume(s: Session, name: str) -> int:
    await s.client.resume(name)
    s.show({"name": name, "paused": False, "note": ""}, lambda: [f"{name} is handed out again"])
    return 0


def _paused(activity: ActivityInfo) -> str:
    """Whether it is paused, and why."""
    return (output.one_line(activity.note, 40) or "yes") if activity.paused else ""


async def schema(s: Session, name: str) -> int:
    """Show an activity's contract. ActivityNotFound names the ones there are."""
    valid_name(name, "activity")
    every = await s.client.activities()
    found = next((each for each in every if each.name == name), None)
    if found is None:
        raise undeclared(name, every)
    s.show(found, lambda: _contract(found, s.client.namespace))
    return 0


def _contract(activity: ActivityInfo, namespace: str) -> list[str]:
    options = {name: value for name, value in activity.options.items() if value not in (None, {}, [])}
    sample = json.dumps(example(activity.payload_schema), ensure_ascii=False)
    return [
        *output.fields(
            [
                ("activity", activity.name),
                ("nodes", str(activity.nodes)),
                ("paused", _paused(activity)),
                ("options", " ".join(f"{name}={output.one_line(value)}" for name, value in options.items())),
            ]
        ),
        *(["", output.clean(activity.doc.strip())] if activity.doc else []),
        "",
        "payload",
        json.dumps(activity.payload_schema, indent=2, ensure_ascii=False),
        "",
        "result",
        json.dumps(activity.result_schema, indent=2, ensure_ascii=False),
        "",
        *submit_lines(namespace, activity.name, sample),
    ]


def submit_lines(namespace: str, activity: str, payload: str) -> list[str]:
    """How to submit a job of this activity, by us and by the nats CLI."""
    quoted = shlex.quote(payload)
    return [
        pasting.command(f"job submit {activity} {quoted} --follow"),
        pasting.nats(f"pub {namespace}.jobs.{activity} {quoted}"),
    ]


def example(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """A value that looks like what a JSON Schema asks for: the required properties, with something of their type."""
    known: Mapping[str, Any] = schema.get("$defs", {}) if definitions is None else definitions
    reference = schema.get("$ref")
    if isinstance(reference, str) and depth < 4:
        return example(known.get(reference.rpartition("/")[2], {}), known, depth + 1)
    for ready in ("default", "const"):
        if ready in schema:
            return schema[ready]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return example(schema[several][0], known, depth + 1)
    properties = schema.get("properties", {})
    if schema.get("type") == "object":
        return {
            name: example(properties.get(name, {}), known, depth + 1)
            for name in schema.get("required", [])
            if depth < 4
        }
    by_type: dict[Any, Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}
    kind = schema.get("type")
    return by_type.get(kind if isinstance(kind, str) else None, "...")


async def faults(s: Session, activity: str | None, since: dt.datetime | float | None, *, mended: bool) -> int:
    found = [dead_letter async for dead_letter in s.client.faults(activity=activity, since=since, mended=mended)]
    rows = [
        (
            dead_letter.id,
            dead_letter.activity,
            str(dead_letter.generation),
            output.ago(dead_letter.faulted_at, s.now),
            dead_letter.reason,
            output.one_line(str(dead_letter.error), 100) if dead_letter.error else "",
        )
        for dead_letter in found
    ]
    s.show(found, lambda: output.table(["id", "activity", "generation", "faulted", "reason", "error"], rows))
    return 0


async def fault(s: Session, job_id: str, activity: str | None) -> int:
    """Show the newest dead letter of a job. JobNotFound when it has none."""
    found = [dead_letter async for dead_letter in s.client.faults(activity=activity, job_id=job_id)]
    if not found:
        raise no_dead_letter(job_id, s.client.namespace)
    newest = found[-1]
    s.show(newest, lambda: _dead_letter(newest, s.now))
    return 0


async def replay(s: Session, filters: Mapping[str, Any], *, yes: bool) -> int:
    """Replay all that the filters find. On a terminal the number is told and asked about first, unless `yes`."""
    if not yes and bulk.is_asked() and not bulk.confirmed("replay", await s.client.count_faults(**filters)):
        return exits.FAILED
    count = await s.client.replay_faults(**filters)
    s.show({"replayed": count}, lambda: [f"{output.several(count, 'job')} replayed"])
    return 0


async def drop(s: Session, ids: Sequence[str], activity: str | None) -> int:
    async def one(handle: AnyHandle) -> dict[str, Any]:
        return {"id": handle.id, "dropped": await s.client.drop_fault(handle.id, activity)}

    return await jobs.each_job(s, ids, activity, one, lambda done: f"{done['id']}  dropped")


def _dead_letter(dead_letter: FaultInfo, now: float) -> list[str]:
    headers = [f"{name}: {output.one_line(value)}" for name, value in sorted(dead_letter.headers.items())]
    lines = output.fields(
        [
            ("job", dead_letter.id),
            ("activity", dead_letter.activity),
            ("generation", str(dead_letter.generation)),
            ("faulted", output.at(dead_letter.faulted_at, now)),
            ("reason", output.one_line(dead_letter.reason)),
            ("labels", output.labels(dead_letter.labels)),
            ("trace", dead_letter.trace_id),
            ("payload", output.one_line(dead_letter.payload, 2000)),
            ("headers", "; ".join(headers)),
        ]
    )
    if dead_letter.error is not None:
        lines += ["", *jobview.error(dead_letter.error)]
    if dead_letter.attempts:
        lines += ["", *jobview.attempts(dead_letter.attempts, now)]
    return lines
