"""Read OpenAI's `response_format` as a JSON schema. Pure.

Building the constraint checks that the schema itself can be followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.serving.api.errors import bad_value
from model.serving.api.fields import Body, section

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def read_schema(body: Body) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must follow; None for plain text. Raises ApiError (400)."""
    given = section(body, "response_format")
    kind = given.get("type", "text" if not given else None)
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind == "json_schema":
        return _schema(given)
    raise bad_value("response_format.type", "response_format.type must be text, json_object or json_schema")


def _schema(given: Body) -> Mapping[str, Any]:
    where = "response_format.json_schema"
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise bad_value(where, f"{where} must be an object whose field schema is a JSON schema")
    return schema
