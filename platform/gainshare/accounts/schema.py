"""OpenAPI extensions: authentication, list parameters, and the errors of each operation.

Summaries are the first sentences of docstrings: an operation's own, or its view's. Named by string in the settings.
"""

import inspect
import threading
from collections.abc import Iterator
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema

from gainshare.accounts.queries import ListQuery
from gainshare.accounts.serializers import ErrorSerializer

METHODS_THAT_CHANGE = ("post", "put", "patch", "delete")
RETRY_AFTER = {
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until the next try is due."}
}
CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "How to authenticate."}}
# By status: the name below components/responses, and its description. Domain rules answer 409.
REFUSALS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "400": ("Unusable", "A field, parameter or name is not valid; `details` names it and says why.", {}),
    "401": (
        "Unauthenticated",
        "The key is missing, wrong, revoked or expired.",
        CHALLENGE,
    ),
    "403": ("Denied", "The caller's role, or the key's scopes, do not allow this.", {}),
    "404": ("NotFound", "It does not exist, or belongs to another user.", {}),
    "409": ("Conflict", "A rule of the platform does not allow this now; `code` names the rule.", {}),
    "413": ("TooLarge", "The body is larger than this operation takes.", {}),
    "415": ("NotJson", "The body is not JSON: send `Content-Type: application/json`.", {}),
    "422": ("NotHeld", "The body can be parsed, but its content is not valid; `message` says why.", {}),
    "429": ("TooMany", "A rate limit was reached; `Retry-After` says when to try again.", RETRY_AFTER),
}


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the base registers itself untyped
    target_class = "gainshare.accounts.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key: gs_<prefix>_<secret>"}


class ApiSchema(AutoSchema):
    """Reads summaries from docstrings and a list's parameters from its `ListQuery`."""

    def get_summary(self) -> str | None:
        return self._documented()[0] or None

    def get_description(self) -> str:  # type: ignore[override]  # as drf-spectacular has it
        return self._documented()[1]

    def get_override_parameters(self) -> list[Any]:
        stated = list(super().get_override_parameters())
        if self.method == "GET" and self._is_list_view() and getattr(self.view, "pagination_class", None):
            stated.append(getattr(self.view, "query_class", ListQuery))
        return stated

    def _documented(self) -> tuple[str, str]:
        """The first sentence and the rest of the operation's docstring."""
        handler = getattr(type(self.view), self.method.lower())
        text = inspect.cleandoc(handler.__doc__ or type(self.view).__doc__ or "")
        first, _, rest = " ".join(text.split()).partition(". ")
        return first.removesuffix("."), rest


class DocumentGenerator(SchemaGenerator):
    """Makes the document once in a process, one thread at a time: it depends on the code alone.

    drf-spectacular resolves its extensions while it generates, and two threads that do so at once both fail.
    """

    _lock = threading.Lock()
    _made: dict[str, Any] = {}

    def get_schema(self, request: Any = None, public: bool = True) -> dict[str, Any]:
        with self._lock:
            if not self._made:
                self._made.update(super().get_schema(request=None, public=True))  # type: ignore[no-untyped-call]
        return self._made


def openapi_document() -> dict[str, Any]:
    """The public OpenAPI document of the whole site."""
    return DocumentGenerator().get_schema()  # type: ignore[no-untyped-call]  # its constructor


def refused(*statuses: int) -> dict[int, type[ErrorSerializer]]:
    """For `extend_schema`: errors of an operation that do not follow from its form."""
    return dict.fromkeys(statuses, ErrorSerializer)


def add_refusals(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook that adds to every operation the errors that it can answer with."""
    responses = result["components"].setdefault("responses", {})
    for name, description, headers in REFUSALS.values():
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        responses[name] = {"description": description, "content": content} | (
            {"headers": headers} if headers else {}
        )
    for methods in result["paths"].values():
        for method, operation in methods.items():
            for status in _refusals(method, operation):
                operation["responses"][status] = {"$ref": f"#/components/responses/{REFUSALS[status][0]}"}
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _refusals(method: str, operation: dict[str, Any]) -> Iterator[str]:
    """Errors that follow from an operation's parameters, body and permissions, and those that its view names."""
    parameters = operation.get("parameters", [])
    has_free_text = any(parameter["schema"].get("format") != "uuid" for parameter in parameters)
    if has_free_text or "requestBody" in operation:
        yield "400"
    yield "401"
    if {} not in operation.get("security", [{}]):
        yield "403"
    if any(parameter["in"] == "path" for parameter in parameters):
        yield "404"
    if method in METHODS_THAT_CHANGE:
        yield "409"
    if "requestBody" in operation:
        yield from ("413", "415")
    if any("basicAuth" in way for way in operation.get("security", [])):
        yield "429"
    yield from REFUSALS.keys() & operation["responses"].keys()
