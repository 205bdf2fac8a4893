"""Jobs that only some nodes can run: data that must stay in its region, and a card that few machines have.

turnout worker examples.regions --name berlin --property region=eu --property gpu=a100
turnout worker examples.regions --name ohio --property region=us       # each in a terminal of its own
python -m examples.regions                                             # in another one
turnout job submit embed '{"text": "hello"}' --require region=us       # no node of the us has a card: it waits
turnout job ls
"""

from __future__ import annotations

import asyncio
import os

from turnout import Client, activity, current_job


@activity
async def export(customer: str) -> str:
    """Where the customer's data are."""
    return f"{customer} was exported by {current_job().node}"


@activity(requires={"gpu": "a100"})
async def embed(text: str) -> str:
    """Wherever there is such a card, unless a submission says more."""
    return f"{len(text)} characters, by {current_job().node}"


async def main() -> None:
    """Each job ends on a node that has what it requires, whoever is handed it first."""
    async with Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        jobs = [
            await client.submit(export.options(requires={"region": "eu"}), "Zoe"),
            await client.submit(export.options(requires={"region": "us"}), "Bob"),
            await client.submit(embed.options(requires={"region": "eu"}), "What is a turnout?"),
        ]
        for job in jobs:
            print(await job.result())


if __name__ == "__main__":
    asyncio.run(main())
