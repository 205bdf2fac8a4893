"""What the verbs of `turnout group` do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnout.cli import exits, output, session, several, waiting
from turnout.cli.exits import WaitedTooLong
from turnout.cli.session import Session
from turnout.client.groups.handle import GroupHandle
from turnout.client.groups.info import GroupInfo
from turnout.core.group import member_id
from turnout.core.plain import plain
from turnout.core.record import JobState
from turnout.errors import JobCancelled, JobFaulted


async def ls(s: Session) -> int:
    infos = [info async for info in s.client.groups()]
    headers = ("group", "jobs", "states", "submitted", "finished")
    s.show(infos, lambda: output.table(headers, [_row(info, s.now) for info in infos]))
    return 0


async def show(s: Session, group_id: str) -> int:
    info = await s.client.group(group_id).info()
    s.show(info, lambda: output.fields(_facts(info, s.now)))
    return 0


async def cancel(s: Session, ids: Sequence[str], reason: str) -> int:
    async def one(handle: GroupHandle[Any]) -> GroupInfo:
        await handle.cancel(reason)
        return await handle.info()

    handles = [s.client.group(group_id) for group_id in ids]
    return await several.each(s, handles, one, lambda info: f"{info.id}  {_states(info)}")


def results(group_id: str, timeout_s: float | None) -> int:
    """Print how each job has ended, in order. The exit code is that of a faulted one, if any, or a cancelled one."""

    async def work(s: Session) -> int:
        try:
            ended = await s.client.group(group_id).results(timeout=timeout_s)
        except TimeoutError as error:
            raise WaitedTooLong(str(error)) from None
        wait.ends()
        return _print_ends(s, group_id, ended)

    with waiting.interruptible() as wait:
        wait.begins("group", group_id)
        return session.run(work)


def _print_ends(s: Session, group_id: str, ended: Sequence[Any]) -> int:
    shown = [_ended(member_id(group_id, number), result) for number, result in enumerate(ended)]
    rows = [(each["id"], each["state"], _outcome(result)) for each, result in zip(shown, ended, strict=True)]
    s.show(shown, lambda: output.table(("job", "state", "result"), rows))
    if any(isinstance(result, JobFaulted) for result in ended):
        return exits.FAILED
    return exits.CANCELLED if any(isinstance(result, JobCancelled) for result in ended) else exits.OK


def _ended(job_id: str, result: Any) -> dict[str, Any]:
    if isinstance(result, JobFaulted | JobCancelled):
        state = JobState.faulted if isinstance(result, JobFaulted) else JobState.cancelled
        error = plain(result.info.error) if result.info is not None else None
        return {"id": job_id, "state": state, "result": None, "error": error}
    return {"id": job_id, "state": JobState.completed, "result": result, "error": None}


def _outcome(result: Any) -> str:
    if isinstance(result, JobFaulted | JobCancelled):
        error = result.info.error if result.info is not None else None
        return output.one_line(str(error)) if error is not None else ""
    return output.one_line(result)


def _row(info: GroupInfo, now: float) -> Sequence[str]:
    finished = output.ago(info.finished_at, now) if info.finished_at is not None else ""
    return info.id, str(info.total), _states(info), output.ago(info.submitted_at, now), finished


def _facts(info: GroupInfo, now: float) -> list[tuple[str, str | None]]:
    return [
        ("group", info.id),
        ("jobs", str(info.total)),
        ("states", _states(info)),
        ("submitted", output.at(info.submitted_at, now)),
        ("finished", output.at(info.finished_at, now)),
        ("then", info.then),
    ]


def _states(info: GroupInfo) -> str:
    return ", ".join(f"{count} {state.value}" for state, count in info.counts.items() if count)
