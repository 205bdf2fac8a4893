"""What a user defines: activities, their options, and how their payloads become JSON."""

from turnout.definition.activity import Activity, ActivityRef, NamedActivity, activity, activity_ref
from turnout.definition.codec import (
    Codec,
    InvalidArgument,
    PayloadProblem,
    decode_as,
    decode_json,
    encode_checkpoint,
    encode_json,
)
from turnout.definition.options import ActivityOptions, Submission

__all__ = [
    "Activity",
    "ActivityOptions",
    "ActivityRef",
    "Codec",
    "InvalidArgument",
    "NamedActivity",
    "PayloadProblem",
    "Submission",
    "activity",
    "activity_ref",
    "decode_as",
    "decode_json",
    "encode_checkpoint",
    "encode_json",
]
