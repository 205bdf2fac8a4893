"""What a user defines: activities, their options, and how their payloads become JSON."""

from turnout.definition.activity import Activity, ActivityRef, NamedActivity, activity, activity_ref
from turnout.definition.codec import (
    Codec,
    InvalidArgument,
    decode_as,
    encode_checkpoint,
    encode_json,
)
from turnout.definition.options import ActivityOptions, Submission
from turnout.definition.plain_json import PayloadProblem, decode_json

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
