"""Limits, and who holds their places, as bytes and back."""

from __future__ import annotations

from turnout.core.limits import Holder, LimitKey, LimitRecord, Places, Rule
from turnout.wire.converter import dump, load, register

register(Rule, LimitKey, LimitRecord, Holder, Places)


def dump_limit(limit: LimitRecord) -> bytes:
    return dump(limit)


def load_limit(data: bytes) -> LimitRecord:
    """The limit that `dump_limit` wrote. UnreadableRecord."""
    return load(data, LimitRecord)


def dump_places(places: Places) -> bytes:
    return dump(places)


def load_places(data: bytes) -> Places:
    """The places that `dump_places` wrote. UnreadableRecord."""
    return load(data, Places)


def dump_key(key: LimitKey) -> bytes:
    return dump(key)


def load_key(data: bytes) -> LimitKey:
    """The key that `dump_key` wrote. UnreadableRecord."""
    return load(data, LimitKey)
