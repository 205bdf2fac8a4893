"""What `@struct` has of attrs' frozen classes: values that are compared and hashed by their fields."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import attrs
import pytest

from tests.support.values import delivery_of, job_record
from turnout.core.evolve import evolve
from turnout.core.record import AttemptRecord, JobState, MessageRef, Token


def test_equal_fields_are_an_equal_value() -> None:
    """In comparisons, sets and dictionaries, and when it comes back from elsewhere."""
    token = Token("a", 1, 2, "b")
    assert token == Token("a", 1, 2, "b") != Token("a", 1, 2, "c")
    assert {token: "found"}[Token("a", 1, 2, "b")] == "found"
    assert token == pickle.loads(pickle.dumps(token)) == copy.deepcopy(token) == attrs.evolve(token)
    assert token != cast(object, MessageRef(1, 2))


@pytest.mark.parametrize("value", [Token("a", 1, 2, "b"), MessageRef(1, 2)], ids=lambda value: type(value).__name__)
def test_there_are_no_other_fields(value: object) -> None:
    """A misspelt one is an error at run time, too."""
    misspelt = "attemt"
    with pytest.raises(AttributeError):
        setattr(value, misspelt, 3)


def test_records_are_values_as_well() -> None:
    """Two records that say the same are the same."""
    attempts = (AttemptRecord(1, 1, "a", 10.0),)
    assert job_record("a", "add", JobState.running, attempts=attempts) == job_record(
        "a", "add", JobState.running, attempts=tuple(attrs.evolve(each) for each in attempts)
    )


def test_a_job_is_called_the_same_in_its_record_and_in_its_message() -> None:
    """Both hold what was submitted."""
    record, message = job_record("a", "add", JobState.queued), delivery_of("a", "add", MessageRef(1, 2))
    assert (record.id, record.activity) == (message.id, message.activity) == ("a", "add")


def test_a_copy_has_no_field_that_the_class_has_not() -> None:
    """`evolve` refuses what the type checker would, where none has looked."""
    changes: dict[str, Any] = {"attemt": 3}
    with pytest.raises(TypeError, match="JobRecord has no field attemt"):
        evolve(job_record("a", "add", JobState.running), **changes)
