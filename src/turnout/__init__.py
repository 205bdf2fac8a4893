"""turnout: durable, long-running jobs for Python with NATS JetStream as the only moving part.

    from turnout import Client, Worker, activity, current_job

The names are imported when they are first used, so that `import turnout` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnout.client.client import Client as Client
    from turnout.client.handle import JobHandle as JobHandle
    from turnout.client.info import AttemptInfo as AttemptInfo
    from turnout.client.info import FaultInfo as FaultInfo
    from turnout.client.info import JobInfo as JobInfo
    from turnout.client.info import LogLine as LogLine
    from turnout.core.catalog import ActivityInfo as ActivityInfo
    from turnout.core.catalog import NodeInfo as NodeInfo
    from turnout.core.retry import RetryPolicy as RetryPolicy
    from turnout.core.values import ErrorInfo as ErrorInfo
    from turnout.core.values import JobState as JobState
    from turnout.core.values import Outcome as Outcome
    from turnout.core.values import Progress as Progress
    from turnout.definition.activity import Activity as Activity
    from turnout.definition.activity import ActivityRef as ActivityRef
    from turnout.definition.activity import activity as activity
    from turnout.definition.activity import activity_ref as activity_ref
    from turnout.definition.hooks import Hooks as Hooks
    from turnout.errors import AmbiguousJob as AmbiguousJob
    from turnout.errors import DefinitionError as DefinitionError
    from turnout.errors import Fatal as Fatal
    from turnout.errors import InvalidArguments as InvalidArguments
    from turnout.errors import InvalidState as InvalidState
    from turnout.errors import InvalidValue as InvalidValue
    from turnout.errors import JobCancelled as JobCancelled
    from turnout.errors import JobExists as JobExists
    from turnout.errors import JobFaulted as JobFaulted
    from turnout.errors import JobNotFound as JobNotFound
    from turnout.errors import NotInJob as NotInJob
    from turnout.errors import OutcomeUnknown as OutcomeUnknown
    from turnout.errors import PayloadTooLarge as PayloadTooLarge
    from turnout.errors import PermissionDenied as PermissionDenied
    from turnout.errors import RetryLater as RetryLater
    from turnout.errors import ServerUnavailable as ServerUnavailable
    from turnout.errors import ServerUnsuitable as ServerUnsuitable
    from turnout.errors import StorageRefused as StorageRefused
    from turnout.errors import TurnoutError as TurnoutError
    from turnout.errors import UnreadableRecord as UnreadableRecord
    from turnout.jetstream.registry import Retention as Retention
    from turnout.node import Worker as Worker
    from turnout.worker.context import JobContext as JobContext
    from turnout.worker.context import JobContextFilter as JobContextFilter
    from turnout.worker.context import current_job as current_job
    from turnout.worker.runner import WorkerDied as WorkerDied

_HOMES = {
    "turnout.client.client": ("Client",),
    "turnout.client.handle": ("JobHandle",),
    "turnout.client.info": ("AttemptInfo", "FaultInfo", "JobInfo", "LogLine"),
    "turnout.core.catalog": ("ActivityInfo", "NodeInfo"),
    "turnout.core.retry": ("RetryPolicy",),
    "turnout.core.values": ("ErrorInfo", "JobState", "Outcome", "Progress"),
    "turnout.definition.activity": ("Activity", "ActivityRef", "activity", "activity_ref"),
    "turnout.definition.hooks": ("Hooks",),
    "turnout.errors": (
        "AmbiguousJob",
        "DefinitionError",
        "Fatal",
        "InvalidArguments",
        "InvalidState",
        "InvalidValue",
        "JobCancelled",
        "JobExists",
        "JobFaulted",
        "JobNotFound",
        "NotInJob",
        "OutcomeUnknown",
        "PayloadTooLarge",
        "PermissionDenied",
        "RetryLater",
        "ServerUnavailable",
        "ServerUnsuitable",
        "StorageRefused",
        "TurnoutError",
        "UnreadableRecord",
    ),
    "turnout.jetstream.registry": ("Retention",),
    "turnout.node": ("Worker",),
    "turnout.worker.context": ("JobContext", "JobContextFilter", "current_job"),
    "turnout.worker.runner": ("WorkerDied",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from turnout.version import version

        return version()
    if name not in _HOME:
        raise AttributeError(f"module 'turnout' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
