"""Fifty mails through a relay that takes ten in a second, two at a time, and sometimes says that it is too much.

turnout dev examples.mailing                      # a server and a worker; start more of them with `turnout worker`
python -m examples.mailing                        # in another terminal: fifty mails, and when they were sent
turnout limit ls                                  # meanwhile: how many are on their way, how many wait
turnout limit set relay --rate 60 --per 1m --for 10m
turnout limit clear relay
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from turnout import Client, Limit, RetryLater, activity, current_job

RELAY = Limit("relay", concurrency=2, rate=10, per=1.0, burst=5)


@activity(limits=[RELAY, Limit("to:{domain}", rate=30, per=60.0)])
async def send(domain: str, number: int) -> str:
    """Send one mail; to no domain more than thirty in a minute."""
    job = current_job()
    if number == 20 and job.attempt == 1:
        await job.slow_down("relay", 3.0)  # what the relay has asked for, in a header say
        raise RetryLater(3.0, "the relay asks for patience")
    await asyncio.sleep(0.05)
    return f"mail {number} to {domain}"


async def main() -> None:
    """Nothing here waits, or counts: whoever submits leaves it to the limits."""
    async with Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        mails = [{"domain": f"{'ab'[n % 2]}.example", "number": n} for n in range(50)]
        handles = await client.submit_many(send, mails)
        await asyncio.gather(*(handle.result() for handle in handles))
        started = [(await handle.info()).started_at for handle in handles]
        for second, number in sorted(Counter(at.replace(microsecond=0) for at in started if at is not None).items()):
            print(f"{second:%H:%M:%S} {'#' * number}")


if __name__ == "__main__":
    asyncio.run(main())
