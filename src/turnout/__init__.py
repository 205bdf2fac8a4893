"""turnout: durable, long-running jobs for Python with NATS JetStream as the only moving part.

    from turnout import Client, Worker, activity, current_job

The names are imported when they are first used, so that `import turnout` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnout.client.client import Client as Client
    from turnout.client.groups.handle import GroupHandle as GroupHandle
    from turnout.client.groups.info import GroupInfo as GroupInfo
    from turnout.client.handle import JobHandle as JobHandle
    from turnout.client.info import AttemptInfo as AttemptInfo
    from turnout.client.info import FaultInfo as FaultInfo
    from turnout.client.info import JobInfo as JobInfo
    from turnout.client.info import LogLine as LogLine
    from turnout.client.info import Waiting as Waiting
    from turnout.client.limits import LimitInfo as LimitInfo
    from turnout.client.schedules.handle import ScheduleHandle as ScheduleHandle
    from turnout.client.schedules.info import ScheduleInfo as ScheduleInfo
    from turnout.client.schedules.info import ScheduleRun as ScheduleRun
    from turnout.client.workflows.handle import WorkflowHandle as WorkflowHandle
    from turnout.client.workflows.history import History as History
    from turnout.client.workflows.history import HistoryEvent as HistoryEvent
    from turnout.client.workflows.info import WorkflowInfo as WorkflowInfo
    from turnout.client.workflows.updates import UpdateHandle as UpdateHandle
    from turnout.core.catalog import ActivityInfo as ActivityInfo
    from turnout.core.catalog import NodeInfo as NodeInfo
    from turnout.core.failure import ErrorInfo as ErrorInfo
    from turnout.core.record import JobState as JobState
    from turnout.core.record import Outcome as Outcome
    from turnout.core.record import Progress as Progress
    from turnout.core.retry import RetryPolicy as RetryPolicy
    from turnout.core.schedule import Schedule as Schedule
    from turnout.core.workflows.values import WorkflowState as WorkflowState
    from turnout.definition.activity import Activity as Activity
    from turnout.definition.activity import ActivityRef as ActivityRef
    from turnout.definition.activity import activity as activity
    from turnout.definition.activity import activity_ref as activity_ref
    from turnout.definition.bounds import Bounds as Bounds
    from turnout.definition.handlers import update_ref as update_ref
    from turnout.definition.hooks import Hooks as Hooks
    from turnout.definition.limits import Limit as Limit
    from turnout.definition.retention import Retention as Retention
    from turnout.definition.workflow import Workflow as Workflow
    from turnout.definition.workflow import WorkflowRef as WorkflowRef
    from turnout.definition.workflow import workflow as workflow
    from turnout.definition.workflow import workflow_ref as workflow_ref
    from turnout.errors import ActivityNotFound as ActivityNotFound
    from turnout.errors import AmbiguousJob as AmbiguousJob
    from turnout.errors import CompleteLater as CompleteLater
    from turnout.errors import DefinitionError as DefinitionError
    from turnout.errors import Fatal as Fatal
    from turnout.errors import GroupExists as GroupExists
    from turnout.errors import GroupNotFound as GroupNotFound
    from turnout.errors import InvalidArguments as InvalidArguments
    from turnout.errors import InvalidState as InvalidState
    from turnout.errors import InvalidValue as InvalidValue
    from turnout.errors import JobCancelled as JobCancelled
    from turnout.errors import JobExists as JobExists
    from turnout.errors import JobFaulted as JobFaulted
    from turnout.errors import JobNotFound as JobNotFound
    from turnout.errors import NonDeterminism as NonDeterminism
    from turnout.errors import NotCompletable as NotCompletable
    from turnout.errors import NotDurable as NotDurable
    from turnout.errors import NotInJob as NotInJob
    from turnout.errors import NotInWorkflow as NotInWorkflow
    from turnout.errors import OutcomeUnknown as OutcomeUnknown
    from turnout.errors import PayloadTooLarge as PayloadTooLarge
    from turnout.errors import PermissionDenied as PermissionDenied
    from turnout.errors import QueryFailed as QueryFailed
    from turnout.errors import RetryLater as RetryLater
    from turnout.errors import ScheduleNotFound as ScheduleNotFound
    from turnout.errors import ServerUnavailable as ServerUnavailable
    from turnout.errors import ServerUnsuitable as ServerUnsuitable
    from turnout.errors import Snooze as Snooze
    from turnout.errors import StorageRefused as StorageRefused
    from turnout.errors import TurnoutError as TurnoutError
    from turnout.errors import UnreadableRecord as UnreadableRecord
    from turnout.errors import UpdateFailed as UpdateFailed
    from turnout.errors import UpdateRejected as UpdateRejected
    from turnout.errors import WorkflowCancelled as WorkflowCancelled
    from turnout.errors import WorkflowEnded as WorkflowEnded
    from turnout.errors import WorkflowExists as WorkflowExists
    from turnout.errors import WorkflowFaulted as WorkflowFaulted
    from turnout.errors import WorkflowNotFound as WorkflowNotFound
    from turnout.errors import WorkflowTerminated as WorkflowTerminated
    from turnout.node import Worker as Worker
    from turnout.worker.context import JobContext as JobContext
    from turnout.worker.context import JobContextFilter as JobContextFilter
    from turnout.worker.context import current_job as current_job
    from turnout.worker.runner import WorkerDied as WorkerDied
    from turnout.worker.workflows.context import WorkflowContext as WorkflowContext
    from turnout.worker.workflows.context import current_workflow as current_workflow

_HOMES = {
    "turnout.client.groups.handle": ("GroupHandle",),
    "turnout.client.groups.info": ("GroupInfo",),
    "turnout.client.schedules.handle": ("ScheduleHandle",),
    "turnout.client.schedules.info": ("ScheduleInfo", "ScheduleRun"),
    "turnout.core.schedule": ("Schedule",),
    "turnout.client.workflows.handle": ("WorkflowHandle",),
    "turnout.client.workflows.history": (
        "History",
        "HistoryEvent",
    ),
    "turnout.client.workflows.info": ("WorkflowInfo",),
    "turnout.client.workflows.updates": ("UpdateHandle",),
    "turnout.core.workflows.values": ("WorkflowState",),
    "turnout.definition.handlers": ("update_ref",),
    "turnout.definition.workflow": (
        "Workflow",
        "WorkflowRef",
        "workflow",
        "workflow_ref",
    ),
    "turnout.worker.workflows.context": (
        "WorkflowContext",
        "current_workflow",
    ),
    "turnout.client.client": ("Client",),
    "turnout.client.handle": ("JobHandle",),
    "turnout.client.info": ("AttemptInfo", "FaultInfo", "JobInfo", "LogLine", "Waiting"),
    "turnout.client.limits": ("LimitInfo",),
    "turnout.core.catalog": ("ActivityInfo", "NodeInfo"),
    "turnout.core.retry": ("RetryPolicy",),
    "turnout.core.failure": ("ErrorInfo",),
    "turnout.core.record": ("JobState", "Outcome", "Progress"),
    "turnout.definition.activity": ("Activity", "ActivityRef", "activity", "activity_ref"),
    "turnout.definition.hooks": ("Hooks",),
    "turnout.definition.limits": ("Limit",),
    "turnout.errors": (
        "ActivityNotFound",
        "AmbiguousJob",
        "CompleteLater",
        "DefinitionError",
        "Fatal",
        "GroupExists",
        "GroupNotFound",
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
        "ScheduleNotFound",
        "ServerUnavailable",
        "ServerUnsuitable",
        "Snooze",
        "StorageRefused",
        "TurnoutError",
        "UnreadableRecord",
        "NonDeterminism",
        "NotCompletable",
        "NotDurable",
        "NotInWorkflow",
        "QueryFailed",
        "UpdateFailed",
        "UpdateRejected",
        "WorkflowCancelled",
        "WorkflowEnded",
        "WorkflowExists",
        "WorkflowFaulted",
        "WorkflowNotFound",
        "WorkflowTerminated",
    ),
    "turnout.definition.bounds": ("Bounds",),
    "turnout.definition.retention": ("Retention",),
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
