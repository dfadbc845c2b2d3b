"""The OpenAPI document: valid, complete, and true of the code. That answers are as it says, `tests.rest_contract` checks."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from openapi_spec_validator import OpenAPIV30SpecValidator

from gainshare.accounts.schema import DocumentGenerator, openapi_document
from tests.rest_contract import document, resolved

OPERATIONS = {
    f"{method} {path}": operation
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
}
PLATFORM = [name for name in OPERATIONS if " /api/v1/" in name]


def test_it_is_valid() -> None:
    problems = [
        error.message for error in OpenAPIV30SpecValidator(json.loads(json.dumps(document()))).iter_errors()
    ]
    assert problems == []


def test_it_is_made_without_a_warning() -> None:
    GENERATOR_STATS.reset()
    SchemaGenerator().get_schema(request=None, public=True)
    assert not GENERATOR_STATS


def test_it_is_served_to_everyone(db: None) -> None:
    served = Client().get("/api/schema/", headers={"accept": "application/json"})
    assert served.status_code == 200
    assert set(served.json()["paths"]) == set(document()["paths"])


def test_summaries_are_short_and_tell_operations_apart() -> None:
    summaries = Counter(operation.get("summary", "") for operation in OPERATIONS.values())
    assert summaries.most_common(1)[0][1] == 1
    assert all(
        10 <= len(summary) <= 80 or summary in ("Sign up", "Your own account", "One run")
        for summary in summaries
    )


def test_every_operation_has_one_tag_that_is_described() -> None:
    described = {tag["name"] for tag in document()["tags"] if tag["description"]}
    used = [operation["tags"] for operation in OPERATIONS.values()]
    assert {tag for tags in used for tag in tags} == described
    assert all(len(tags) == 1 for tags in used)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_what_it_takes_and_gives(name: str) -> None:
    operation = OPERATIONS[name]
    good = {status: resolved(answer) for status, answer in operation["responses"].items() if status < "300"}
    assert len(good) == 1
    (status, answer), *_ = good.items()
    assert bool(answer.get("content")) == (status != "204")
    for part in (answer, operation.get("requestBody", {})):
        for body in part.get("content", {}).values():
            assert body["schema"].keys() & {"$ref", "type", "allOf", "oneOf"}
    errors = {
        status: resolved(answer) for status, answer in operation["responses"].items() if status >= "400"
    }
    assert "401" in errors
    for error in errors.values():
        shape = error["content"]["application/json"]["schema"]["$ref"]
        assert shape.endswith("/Error" if name in PLATFORM else "/ModelError")
        assert error["description"]


def test_every_address_of_the_api_is_in_it() -> None:
    there = set(document()["paths"])
    missing = [route for route in routes() if route not in there]
    assert missing == []


def routes(patterns: Any = None, at: str = "/") -> list[str]:
    """Every address below /api/v1/ in the URLs, with its places as the document writes them."""
    found = []
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        here = at + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            found += routes(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and here.startswith("/api/v1/"):
            found.append(_as_documented(here))
    return found


def _as_documented(route: str) -> str:
    parts = [
        part.removesuffix(">").partition(":")[2] if part.startswith("<") else part
        for part in route.split("/")
    ]
    names = {"pk": "id"}
    return "/".join(
        f"{{{names.get(part, part)}}}" if original.startswith("<") else part
        for original, part in zip(route.split("/"), parts, strict=True)
    )


def test_many_may_ask_for_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """drf-spectacular fails where two threads generate; each of them gets the one document."""
    at_work: list[int] = []

    def made(self: SchemaGenerator, **_: Any) -> dict[str, Any]:
        at_work.append(1)
        sleep(0.05)
        assert len(at_work) == 1
        return {"openapi": "3.0.3"}

    monkeypatch.setattr(SchemaGenerator, "get_schema", made)
    monkeypatch.setattr(DocumentGenerator, "_made", {})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: openapi_document(), range(8)))
    assert found == [{"openapi": "3.0.3"}] * 8
