"""The smallest example: one activity, one worker, one job. It needs a NATS server: `turnout dev` starts one.

python examples/hello.py
"""

import asyncio
import os

from turnout import Client, Worker, activity


@activity
async def greet(name: str = "world") -> str:
    return f"Hello, {name}!"


async def main() -> None:
    async with (
        Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client,
        Worker(client, activities=[greet]),
    ):
        handle = await client.submit(greet, name="turnout")
        print(await handle.result(timeout=10))


asyncio.run(main())
