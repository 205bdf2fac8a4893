"""A report each night, a clean-up each hour and a monthly workflow, as a program that is run at each deploy.

turnout dev examples.nightly                      # a server and a worker
python -m examples.nightly                        # in another terminal: tells the server what runs when
turnout schedule ls
turnout schedule show app-report
turnout schedule run app-report                   # now, beside its plan
turnout schedule pause app-cleanup --note "the disk is full"
"""

from __future__ import annotations

import asyncio
import os

from turnout import Client, Schedule, activity, current_job, workflow


@activity(timeout=3600)
async def report(of: str) -> str:
    """Sum up the day. A run's id names its tick: `app-report-20260131T020000Z`."""
    current_job().log.info("%s is about %s", current_job().id, of)
    return f"the {of} of the day"


@activity
async def clean_up(older_than_days: int) -> int:
    """Remove what is old."""
    return older_than_days


@workflow
async def close_month() -> list[str]:
    """Several reports, one after the other."""
    return [await report("sales"), await report("returns")]


SCHEDULES = {
    # At 3 in the morning of Berlin: in the night without a 2:30 it would come at 3:00, and never twice.
    "app-report": (Schedule(cron="0 3 * * *", timezone="Europe/Berlin"), report, {"of": "sales"}),
    # Each hour, up to a minute later; hours that were missed are not caught up.
    "app-cleanup": (Schedule(every=3600, jitter=60, catch_up="none"), clean_up, {"older_than_days": 30}),
    # The last day of each month; all that were missed run, one after the other.
    "app-close": (Schedule(cron="0 22 L * *", timezone="Europe/Berlin", catch_up="all"), close_month, {}),
}


async def main() -> None:
    """What is the same already stays as it is; what begins with `app-` and is not listed goes."""
    async with Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        await client.sync_schedules(SCHEDULES, prefix="app-")
        async for info in client.schedules():
            print(f"{info.name}: next {info.next[0]:%Y-%m-%d %H:%M:%S}Z")


if __name__ == "__main__":
    asyncio.run(main())
