"""What nodes and activities say of themselves, as bytes and back."""

from __future__ import annotations

from typing import Any

from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.retry import RetryPolicy
from turnout.wire.converter import converter, dump, load


def dump_node(node: NodeInfo) -> bytes:
    return dump(node)


def load_node(data: bytes) -> NodeInfo:
    return load(data, NodeInfo)


def dump_activity(activity: ActivityInfo) -> bytes:
    return dump(activity)


def load_activity(data: bytes) -> ActivityInfo:
    return load(data, ActivityInfo)


def dump_retry(policy: RetryPolicy) -> dict[str, Any]:
    """The policy as an activity's entry shows it."""
    raw: dict[str, Any] = converter.unstructure(policy)
    return raw
