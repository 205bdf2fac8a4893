"""A worker process of the crash suite that traces as its environment says; the arguments are those of the former."""

from __future__ import annotations

import asyncio
import logging
import sys

from tests.crash.worker import main
from turnout.telemetry.setup import set_up

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    end = set_up("turnout-worker")
    asyncio.run(main(*sys.argv[1:]))
    end()
