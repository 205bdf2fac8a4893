"""`turnout job submit`: the payload from wherever it is, and what to wait for."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from turnout.cli import jobs, output, pasting, session, waiting
from turnout.cli.exits import BadInput
from turnout.cli.session import Session
from turnout.cli.waiting import Patience
from turnout.client.handle import AnyHandle
from turnout.definition.activity import activity_ref
from turnout.definition.codec import encode_json
from turnout.errors import TurnoutError
from turnout.telemetry.setup import set_up as set_up_telemetry


def submit(activity: str, payload: str | None, options: Mapping[str, Any], patience: Patience) -> int:
    """Submit a job and, if asked, wait for it. What is wrong with the input is said before anything is connected."""
    ref = activity_ref(activity).options(**dict(options))
    body = read_payload(payload)
    encode_json(body, "payload")

    async def work(s: Session) -> int:
        handle = await s.client.submit(ref, body)
        if patience.waits:
            wait.begins("job", handle.id)
        await tell_if_nobody_works(s, activity, "the job waits until one does")
        if patience.waits:
            output.note(f"job {handle.id} submitted")
            return await jobs.wait_and_show(s, handle, patience.timeout_s, wait, follow=patience.follow)
        await _show_submitted(s, handle)
        return 0

    with waiting.interruptible() as wait:
        return run_traced(work)


def run_traced(work: Callable[[Session], Coroutine[Any, Any, int]]) -> int:
    """Run a verb that begins something, so that its trace begins here."""
    end_telemetry = set_up_telemetry("turnout-cli")
    try:
        return session.run(work, create=True)
    finally:
        end_telemetry()


async def _show_submitted(s: Session, handle: AnyHandle) -> None:
    """The id, which is all that a script wants; the whole job as JSON."""
    if s.json:
        s.show(await handle.info(), list)
        return
    click.echo(handle.id)
    if sys.stderr.isatty():
        output.note(f"follow it: {pasting.command(f'job follow {handle.id}')}")


async def tell_if_nobody_works(s: Session, activity: str, waits: str, or_else: str = "") -> None:
    """Remark that no node works on an activity, and what that means: what waits. `or_else`: what to say instead where
    it is the name of a workflow."""
    with contextlib.suppress(TurnoutError):  # a mere remark: whoever may submit need not be allowed to look around
        nodes = await s.client.nodes()
        if any(activity in node.activities for node in nodes):
            return
        known = [each.name for each in await s.client.activities()]
        if activity in known:
            output.note(f"no node works on {activity} now: {waits}")
        elif or_else and any(activity in node.workflows for node in nodes):
            output.note(or_else)
        else:
            others = f" (those known are {', '.join(known)})" if known else ""
            output.note(f"no node has ever worked on {activity}{others}: {waits}")


def read_payload(given: str | None) -> Any:
    """The payload that an argument stands for. BadInput when it is no JSON."""
    if given is None:
        return {}
    if given == "-":
        return _parse(sys.stdin.buffer.read(), "stdin")
    if given.startswith("@"):
        try:
            return _parse(Path(given[1:]).expanduser().read_bytes(), given[1:])
        except OSError as error:
            raise BadInput(f"cannot read the payload from {given[1:]}: {error.strerror}") from error
    return _parse(given.encode("utf-8", "surrogateescape"), "the payload")


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_json)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise BadInput(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}; nothing was submitted") from error


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
