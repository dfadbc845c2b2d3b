"""Holds the REST API to its own OpenAPI document: every answer that any test gets is compared with it.

`check` is called for each answer of Django's test clients (see `tests/conftest.py`). An answer below /api/v1/ must have
a status that its operation names, and a body of the shape that it names for that status.
"""

import functools
import gzip
import json
import re
from typing import Any

from django.http import HttpResponse
from openapi_schema_validator import OAS30Validator

PREFIX = "/api/v1/"


def document() -> dict[str, Any]:
    """The OpenAPI document, as the site serves it to everybody."""
    from gainshare.accounts.schema import (
        openapi_document,
    )  # needs Django's apps, which not every test session loads

    return openapi_document()


@functools.cache
def _templates() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    found = [
        (re.compile(re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(path))), methods)
        for path, methods in sorted(document()["paths"].items(), key=lambda entry: entry[0].count("{"))
    ]
    assert any(pattern.fullmatch(f"{PREFIX}keys/abc/") for pattern, _ in found)
    return found


def operation(method: str, path: str) -> dict[str, Any] | None:
    """The operation behind an address, unless there is none."""
    for pattern, methods in _templates():
        if pattern.fullmatch(path):
            found: dict[str, Any] | None = methods.get(method.lower())
            return found
    return None


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` of the document points at, else the part itself."""
    while "$ref" in part:
        target: Any = document()
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part


@functools.cache
def _validator(method: str, path: str, status: str, kind: str) -> OAS30Validator | None:
    stated = operation(method, path)
    assert stated is not None
    media = resolved(stated["responses"][status]).get("content", {})
    if kind not in media:
        return None
    schema = {**media[kind]["schema"], "components": document()["components"]}
    return OAS30Validator(schema)


def check(method: str, path: str, answer: HttpResponse) -> None:
    """Raise AssertionError where an answer is not what the document says. Failures of the platform are not in it."""
    if not path.startswith(PREFIX) or method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        return
    stated, status = operation(method, path), str(answer.status_code)
    if stated is None:
        assert answer.status_code in (301, 400, 404, 405), (
            f"{method} {path} is not in the OpenAPI document: {status}"
        )
        return
    if answer.status_code >= 500:
        return
    assert status in stated["responses"], (
        f"{method} {path} answers {status}, which its operation does not name: {answer.content[:300]!r}"
    )
    kind = answer.get("Content-Type", "").partition(";")[0]
    if answer.status_code == 204:
        assert not answer.content
        return
    media = resolved(stated["responses"][status]).get("content", {})
    assert kind in media, f"{method} {path} answers {status} as {kind!r}; named are {list(media)}"
    if (
        kind == "application/json"
        and (validator := _validator(method, _template(path), status, kind)) is not None
    ):
        problems = [
            f"{list(error.absolute_path)}: {error.message[:300]}"
            for error in validator.iter_errors(json.loads(_plain(answer)))
        ]
        assert not problems, f"{method} {path} {status}: {problems[:5]}"


def assert_shape(name: str, value: Any) -> None:
    """Raise AssertionError unless `value` has the document's shape of this name."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    problems = [
        f"{list(error.absolute_path)}: {error.message[:300]}"
        for error in OAS30Validator(schema).iter_errors(value)
    ]
    assert not problems, f"{name}: {problems[:5]}"


def _plain(answer: HttpResponse) -> bytes:
    is_compressed = answer.get("Content-Encoding") == "gzip"
    return gzip.decompress(answer.content) if is_compressed else answer.content


def _template(path: str) -> str:
    """One address for all of an operation, so that its validator is made once."""
    for pattern, _ in _templates():
        if pattern.fullmatch(path):
            return re.sub(r"\[\^/\]\+", "x", re.sub(r"\\(.)", r"\1", pattern.pattern))
    return path
