"""A job with one message, what may happen to it, and what decide() answers: for the tests of its rules."""

from __future__ import annotations

from typing import Any

import attrs

from tests.support.values import changed, delivery_of
from turnout.core.effects import Effect, Save
from turnout.core.events import Completed, Failed, Lost, Received
from turnout.core.failure import ErrorInfo, Failure, FaultReason
from turnout.core.lifecycle import decide
from turnout.core.record import Delivery, JobRecord, MessageRef, Policy, Token
from turnout.core.retry import RetryPolicy
from turnout.core.spec import Body

NOW = 1000.0
RULES = Policy(retry=RetryPolicy(max_attempts=3, delay=1.0, jitter=0.0), max_lost=2, lease=3.0)
ERROR = ErrorInfo("ValueError", "no")
MRO = ("builtins.ValueError", "builtins.Exception")
MESSAGE = MessageRef(5, 990_000_000_000, "ack.5")
OTHER = Token("other", 1, 1, "other's")


def delivery(**changes: Any) -> Delivery:
    return changed(delivery_of("j", "act", MESSAGE, payload=Body("{}")), **changes)


def second_life() -> Delivery:
    """The message of a retry of the job that `faulted()` is."""
    return delivery(generation=2, after=faulted().life)


def received(**changes: Any) -> Received:
    return attrs.evolve(Received(delivery=delivery(), node="n1", nonce="mine", now=NOW, rules=RULES), **changes)


def running(*, alone: bool = False, **changes: Any) -> JobRecord:
    """A record as the first attempt of node n1 has written it."""
    (save,) = decide(None, received(alone=alone))
    assert isinstance(save, Save)
    return changed(save.record, **changes)


def token_of(record: JobRecord) -> Token:
    assert record.token is not None
    return record.token


def failed(record: JobRecord, **changes: Any) -> Failed:
    failure = attrs.evolve(Failure(ERROR, MRO), **changes)
    return Failed(token=token_of(record), now=NOW, failure=failure)


def completed(record: JobRecord) -> Completed:
    return Completed(token=token_of(record), now=NOW, result=Body("1"))


def saved(effects: tuple[Effect, ...]) -> JobRecord:
    """The record of the first Save."""
    return next(effect.record for effect in effects if isinstance(effect, Save))


def kinds(effects: tuple[Effect, ...]) -> list[type]:
    return [type(effect) for effect in effects]


def faulted() -> JobRecord:
    record = running()
    return saved(decide(record, failed(record, fault=FaultReason.fatal)))


def lost(record: JobRecord) -> JobRecord:
    return saved(decide(record, Lost(token=token_of(record), now=NOW)))
