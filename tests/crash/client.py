"""A client process: `python -m tests.crash.client URL NAMESPACE VERB JOB`. It says so when it is done."""

from __future__ import annotations

import asyncio
import logging
import sys

from tests.crash.activities import play
from turnout import Client


async def main(url: str, namespace: str, verb: str, job_id: str) -> None:
    async with Client.connect(url, namespace=namespace) as client:
        match verb:
            case "submit":
                await client.submit(play.options(id=job_id))
            case "submit-expiring":
                await client.submit(play.options(id=job_id, expires_in=60))
            case "submit-delayed":
                await client.submit(play.options(id=job_id, delay=1))
            case "cancel":
                await client.job(job_id).cancel("by the client")
            case "retry":
                await client.job(job_id).retry()
            case _:
                raise SystemExit(f"no such verb: {verb}")
    print("done", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
