"""What people test their jobs with: a real server, and fixtures for pytest (the plugin `turnout`).

>>> from turnout.testing import NatsServer
>>> with NatsServer() as server:  # doctest: +SKIP
...     print(server.url)
nats://127.0.0.1:23117
"""

from __future__ import annotations

from turnout.testing.server import NatsServer

__all__ = ["NatsServer"]
