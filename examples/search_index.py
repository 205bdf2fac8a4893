"""An index that is built once after many changes, and an import of which the newest is the only one.

turnout dev examples.search_index                 # a server and a worker
python -m examples.search_index                   # in another terminal: a hundred changes, two runs; the newest import
turnout job ls --activity reindex
turnout job submit reindex '{"customer": "7", "changed": 1}' --debounce 5s --debounce-key 7
"""

from __future__ import annotations

import asyncio
import os

from turnout import Client, activity, current_job


@activity
async def reindex(customer: str, changed: int) -> str:
    """Build a customer's index; the changes before the last one need no run of their own."""
    current_job().log.info("customer %s: up to change %d", customer, changed)
    return f"customer {customer}: up to change {changed}"


@activity
async def import_catalog(version: int) -> int:
    """Import a catalog, for as long as it takes: a newer one ends this one."""
    await asyncio.sleep(60 if version < 3 else 0)
    return version


async def main() -> None:
    """One run for each customer, however many changes; and the newest import, whatever was under way."""
    async with Client.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        runs = {}
        for changed in range(1, 51):
            for customer in ("7", "8"):
                quiet = reindex.options(debounce=1.0, debounce_key=customer)
                handle = await client.submit(quiet, customer, changed)
                runs[handle.id] = handle
        for handle in runs.values():
            print(await handle.result(timeout=60))

        newest = import_catalog.options(id="catalog", if_exists="replace")
        imports = [await client.submit(newest, version) for version in (1, 2, 3)]
        print("imported version", await imports[-1].result(timeout=60))


if __name__ == "__main__":
    asyncio.run(main())
