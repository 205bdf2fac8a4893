"""Limits, and who holds their places, as bytes and back."""

from __future__ import annotations

from turnout import fastjson
from turnout.core.evolve import evolve
from turnout.core.limits import Holder, LimitKey, LimitRecord, Places, Rule
from turnout.wire.converter import VERSION, converter, dump, load, register

register(Rule, LimitKey, LimitRecord, Holder, Places)


def dump_limit(limit: LimitRecord) -> bytes:
    return dump(limit)


def load_limit(data: bytes) -> LimitRecord:
    """The limit that `dump_limit` wrote. UnreadableRecord."""
    return load(data, LimitRecord)


def dump_places(places: Places) -> bytes:
    """There may be a thousand holders, and all of them are written whenever one comes or goes: as they are."""
    raw = {"v": VERSION, **converter.unstructure(evolve(places, holders=()))}
    return fastjson.dumps({**raw, "holders": [vars(holder) for holder in places.holders]})


def load_places(data: bytes) -> Places:
    """The places that `dump_places` wrote. UnreadableRecord."""
    return load(data, Places)


def dump_key(key: LimitKey) -> bytes:
    return dump(key)


def load_key(data: bytes) -> LimitKey:
    """The key that `dump_key` wrote. UnreadableRecord."""
    return load(data, LimitKey)
