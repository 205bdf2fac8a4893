"""The JSON Schema that an activity's contract gives of a type, which marks where the type takes more than that says."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

TAKES_MORE = "x-turnout-takes-more"
"""A schema that says so describes its type for people; what does not fit may still be taken by the code.

In the metadata of a core schema, False says of a function that it takes no more than what it is around.
"""


class ContractSchema(GenerateJsonSchema):
    """A type that JSON Schema has no words for may be anything: the contract says less, and the activity works."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Says nothing: what the contract leaves out is no trouble."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """What has no words may be anything."""
        return {}

    def generate(self, schema: Any, mode: Any = "validation") -> JsonSchemaValue:
        """The whole of it: a marked one has its fields where those of others are."""
        made = super().generate(schema, mode)
        if not made.get(TAKES_MORE) or "$ref" not in made:
            return made
        return {**made["$defs"][made.pop("$ref").rpartition("/")[2]], **made}

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        """The JSON Schema of a part, marked where the type takes more."""
        made = super().generate_inner(schema)
        return {**made, TAKES_MORE: True} if made and self._takes_more(schema) else made

    def _takes_more(self, schema: Mapping[str, Any]) -> bool:
        match schema["type"]:
            case "function-before" | "function-plain" | "function-wrap":
                return (schema.get("metadata") or {}).get(TAKES_MORE) is not False
            case "call" | "named-tuple" | "decimal" | "complex" | "fraction":  # its parts in an array, too
                return True
            case "enum":
                return "_missing_" in vars(schema["cls"]) or not issubclass(schema["cls"], enum.Enum)
            case "str":
                return bool(schema.get("coerce_numbers_to_str", self._config.coerce_numbers_to_str))
            case "model-fields" | "typed-dict":
                return _goes_by_other_names(schema["fields"].values())
            case "dataclass-args":
                return _goes_by_other_names(schema["fields"])
            case _:
                return False


def _goes_by_other_names(fields: Iterable[Mapping[str, Any]]) -> bool:
    """One with an alias may go by its name as well, or by several."""
    return any(field.get("validation_alias") for field in fields)
