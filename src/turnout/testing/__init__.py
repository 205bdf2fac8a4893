"""What people test their jobs with: a real server, and fixtures for pytest (the plugin `turnout`).

>>> from turnout.testing import NatsServer
>>> with NatsServer() as server:  # doctest: +SKIP
...     print(server.url)
nats://127.0.0.1:23117
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnout.testing.server import NatsServer

if TYPE_CHECKING:  # The server alone needs none of what the environment needs.
    from turnout.definition.retention import short_retention as short_retention
    from turnout.testing.environment import ActivityEnvironment as ActivityEnvironment
    from turnout.testing.workflows.environment import NothingCanHappen as NothingCanHappen
    from turnout.testing.workflows.environment import WorkflowEnvironment as WorkflowEnvironment
    from turnout.testing.workflows.replaying import replay as replay

__all__ = ["ActivityEnvironment", "NatsServer", "NothingCanHappen", "WorkflowEnvironment", "replay", "short_retention"]


def __getattr__(name: str) -> Any:
    """The environment is imported when it is first used: the server alone needs none of what it needs."""
    if name == "ActivityEnvironment":
        from turnout.testing.environment import ActivityEnvironment

        return ActivityEnvironment
    if name == "short_retention":
        from turnout.definition.retention import short_retention

        return short_retention
    if name in ("NothingCanHappen", "WorkflowEnvironment"):
        from turnout.testing.workflows import environment

        return getattr(environment, name)
    if name == "replay":
        from turnout.testing.workflows.replaying import replay

        return replay
    raise AttributeError(f"module 'turnout.testing' has no attribute {name!r}")
