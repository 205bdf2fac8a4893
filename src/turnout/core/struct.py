"""`@struct`: a class of values, with the fields that it names and no others; equal and hashed by them.

To the type checker it is `attrs.frozen`, and it alone keeps anybody from changing a field. Nothing does at run time: a
frozen class with slots goes around its own guard to set each field, at several times the price of an assignment, and
some twenty values live and die with the shortest job.

A class whose fields have converters or validators is `attrs.frozen` itself: this one would check each assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["struct"]

if TYPE_CHECKING:
    from attrs import frozen as struct
else:
    import functools

    import attrs

    struct = functools.partial(attrs.define, unsafe_hash=True)
