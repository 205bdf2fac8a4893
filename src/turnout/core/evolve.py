"""`evolve(value, **changes)`: `attrs.evolve` for values that live in a `__dict__`, at a quarter of its time.
`built`: such a value from its fields, for those that are read in great numbers.

A job's record has some thirty fields and changes four times in the shortest life. Nothing is converted or validated
here, so it is for classes whose fields have neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["built", "evolve"]

T = TypeVar("T")

if TYPE_CHECKING:
    from attrs import evolve  # so that the names and types of the changes are checked
else:

    def evolve(value: T, /, **changes: Any) -> T:
        """A copy of `value` with these fields changed. TypeError for a field it does not have.

        >>> from turnout.core.record import AttemptRecord
        >>> evolve(AttemptRecord(1, 1, "a", 0.0), ended_at=2.0).ended_at
        2.0
        """
        known = value.__dict__
        fields = known | changes
        if len(fields) != len(known):
            unknown = ", ".join(sorted(changes.keys() - known.keys()))
            raise TypeError(f"{type(value).__name__} has no field {unknown}")
        copy = object.__new__(type(value))
        copy.__dict__ = fields
        return copy


def built(cls: type[T], fields: dict[str, Any]) -> T:
    """A value of the class with exactly these fields, which have to be all that it has; the dict becomes its own.

    >>> from turnout.core.record import AttemptRecord
    >>> built(AttemptRecord, dict(evolve(AttemptRecord(1, 1, "a", 0.0)).__dict__)).node
    'a'
    """
    value = object.__new__(cls)
    value.__dict__ = fields
    return value
