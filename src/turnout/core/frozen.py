"""`@frozen`: to the type checker `attrs.frozen`, and quick at run time.

A class of `attrs.frozen` with slots goes around its own guard to set each field, at several times the price of an
assignment, and some twenty values live and die with the shortest job. So these are guarded by the type checker alone:
nobody changes them, and they are hashed and compared by their fields.

A class whose fields have converters or validators stays with attrs: it would check each assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["frozen"]

if TYPE_CHECKING:
    from attrs import frozen
else:
    import functools

    import attrs

    frozen = functools.partial(attrs.define, unsafe_hash=True)
