"""A client process: `python -m tests.crash.client URL NAMESPACE VERB JOB [EVENT]`. It says so when it is done."""

from __future__ import annotations

import asyncio
import logging
import sys

import attrs

from tests.crash.activities import count_ends, play
from turnout import Client
from turnout.core.events import Declined
from turnout.store.perform import Performer


async def main(url: str, namespace: str, verb: str, job_id: str, at: str = "") -> None:
    async with Client.connect(url, namespace=namespace) as client:
        match verb:
            case "submit":
                await client.submit(play.options(id=job_id))
            case "submit-expiring":
                await client.submit(play.options(id=job_id, expires_in=60))
            case "submit-delayed":
                await client.submit(play.options(id=job_id, delay=1))
            case "replace":
                await client.submit(play.options(id=job_id, if_exists="replace"))
            case "debounce":
                await client.submit(play.options(debounce=2, debounce_key=job_id))
            case "cancel":
                await client.job(job_id).cancel("by the client")
            case "prioritize" | "prioritize-delayed":
                delay = 10 if verb == "prioritize-delayed" else None
                await (await client.submit(play.options(id=job_id, delay=delay))).set_priority(1)
            case "set-priority":
                await client.job(job_id).set_priority(1)
            case "run-now":
                await (await client.submit(play.options(id=job_id, delay=3600))).run_now()
            case "fork":
                await client.workflow("origin").fork(int(at), job_id)
            case "submit-group":
                await client.submit_group(play, [{}] * 5, id=job_id, then=count_ends)
            case "cancel-group":
                await client.group(job_id).cancel("by the client")
            case "retry":
                await client.job(job_id).retry()
            case "decline":
                found = await client.store.queue.find("play", job_id)
                assert found is not None
                worn_out = attrs.evolve(found, number=26, exhausted=True)
                await Performer(client.store).apply("play", found.id, Declined(delivery=worn_out))
            case _:
                raise SystemExit(f"no such verb: {verb}")
    print("done", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
