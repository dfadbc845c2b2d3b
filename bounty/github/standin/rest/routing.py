"""Routes of the REST API: which function answers an address, what it needs, and how it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bounty.github.standin.authentication import Caller
    from bounty.github.standin.hub import Hub
    from bounty.github.standin.records import Repository

DOCUMENTATION = "https://docs.github.com/rest"


class Refusal(Exception):
    """An answer of 400 and above, in GitHub's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        errors: Sequence[Any] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = list(errors)
        self.headers = headers or {}

    @property
    def data(self) -> dict[str, Any]:
        errors = {"errors": self.errors} if self.errors else {}
        return {
            "message": self.message,
            **errors,
            "documentation_url": DOCUMENTATION,
            "status": str(self.status),
        }


@dataclass(frozen=True)
class Answer:
    """An answer: a status, JSON (None for no body) and headers."""

    status: int
    data: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """A request to a route: its parts, who sent it, and the repository that it names."""

    hub: Hub
    method: str
    path: str
    query: dict[str, str]
    body: Any
    caller: Caller
    parameters: dict[str, str]
    found: Repository | None = None

    @property
    def repository(self) -> Repository:
        """The repository of the address. Raises Refusal without one."""
        if self.found is None:
            raise Refusal(404, "Not Found")
        return self.found

    def integer(self, name: str) -> int:
        """A number of the address. Raises Refusal if it is none."""
        value = self.parameters[name]
        if not value.isdigit():
            raise Refusal(404, "Not Found")
        return int(value)

    def fields(self) -> dict[str, Any]:
        """The body as an object. Raises Refusal for anything else."""
        if not isinstance(self.body, dict):
            raise Refusal(400, "Problems parsing JSON")
        return self.body


Handler = Callable[[Call], Answer]


@dataclass(frozen=True)
class Route:
    """A route. ``needs`` is app, installation, user or nobody; or permissions of which one is enough."""

    method: str
    template: str
    pattern: re.Pattern[str]
    handler: Handler
    needs: tuple[str, ...]


ROUTES: list[Route] = []


def route(method: str, template: str, *needs: str) -> Callable[[Handler], Handler]:
    """Register a handler for a template such as ``/repos/{owner}/{repo}/pulls``."""

    def register(handler: Handler) -> Handler:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template) + "$")
        ROUTES.append(Route(method, template, pattern, handler, needs))
        return handler

    return register


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of an address and the address's parts. Raises Refusal."""
    for candidate in ROUTES:
        if candidate.method == method and (match := candidate.pattern.match(path)):
            return candidate, match.groupdict()
    raise Refusal(404, "Not Found")


def unprocessable(resource: str, name: str, code: str, message: str = "") -> Refusal:
    """A 422 that names the field, as GitHub answers it."""
    error = {"resource": resource, "field": name, "code": code} | ({"message": message} if message else {})
    return Refusal(422, "Validation Failed", errors=[error])
