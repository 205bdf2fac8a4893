"""A thousand jobs as one, and a report when the last of them has ended.

turnout dev examples.batch                        # a server and a worker
python -m examples.batch                          # in another terminal: submits, and goes
turnout group ls
turnout job ls --activity report                  # it follows, whoever is there to see it
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

from turnout import Client, Fatal, activity, current_job


@activity
async def check(address: str) -> int:
    """Look at one address; some are no good."""
    await asyncio.sleep(random.random() / 10)
    if address.endswith("13"):
        raise Fatal(f"nobody lives at {address}")
    return len(address)


@activity
async def report(ended: list[dict[str, Any]]) -> str:
    """Given how all have ended, in the order in which they were submitted."""
    counts = Counter(each["state"] for each in ended)
    current_job().log.info("the first that faulted: %s", next((each for each in ended if each["error"]), None))
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


async def main() -> None:
    """Once the group is stored nobody need be there: what is missing of it is submitted by whoever lives."""
    async with Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        addresses = [{"address": f"house {number}"} for number in range(1000)]
        group = await client.submit_group(check, addresses, then=report)
        print(f"{group.id}: {(await group.info()).total} jobs")


if __name__ == "__main__":
    asyncio.run(main())
