"""Whether a caller may use a route, by GitHub's rules for Apps, installations and users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bounty.github.standin.rest.routing import Call, Refusal, Route

if TYPE_CHECKING:
    from bounty.github.standin.records import Repository

LEVELS = ("none", "read", "write", "admin")
NOT_ACCESSIBLE = "Resource not accessible by integration"


def check(route: Route, call: Call) -> None:
    """Raise Refusal unless the caller may use the route on the repository that it names."""
    if "nobody" in route.needs:
        return
    if "app" in route.needs:
        if not call.caller.is_app:
            raise Refusal(401, "A JSON web token could not be decoded")
        return
    if call.caller.is_app:
        raise Refusal(403, "You must use an installation access token or user access token for this endpoint")
    if "user" in route.needs:
        _check_user(call)
        return
    if "installation" in route.needs:
        if call.caller.installation is None:
            raise Refusal(403, "You must authenticate with an installation access token")
        return
    _check_repository(route, call)


def _check_user(call: Call) -> None:
    if call.caller.installation is not None:
        raise Refusal(403, NOT_ACCESSIBLE)
    if call.caller.user is None:
        raise Refusal(401, "Requires authentication")


def _check_repository(route: Route, call: Call) -> None:
    repository = call.repository
    is_write = route.method != "GET"
    installation, user = call.caller.installation, call.caller.user
    if installation is None:
        if repository.is_private and (user is None or repository.role_of(user) == "none"):
            raise Refusal(404, "Not Found")
        if is_write:
            raise Refusal(
                401 if user is None else 403, "Requires authentication" if user is None else NOT_ACCESSIBLE
            )
        return
    if repository not in installation.repositories:
        if repository.is_private:
            raise Refusal(404, "Not Found")
        if is_write:
            raise Refusal(403, NOT_ACCESSIBLE)
        return
    _check_permissions(route, call)


def _check_permissions(route: Route, call: Call) -> None:
    token = call.caller.token
    granted = token.permissions if token else {}
    for need in route.needs:
        name, _, level = need.partition(":")
        if LEVELS.index(granted.get(name, "none")) >= LEVELS.index(level):
            return
    accepted = "; ".join(need.replace(":", "=") for need in route.needs)
    raise Refusal(403, NOT_ACCESSIBLE, headers={"X-Accepted-GitHub-Permissions": accepted})


def named_repository(call: Call) -> Repository | None:
    """The repository that the address names by name or number. A former name raises Moved."""
    state, parts = call.hub.state, call.parameters
    if "repository_id" in parts:
        return state.repositories.get(call.integer("repository_id"))
    if "repo" not in parts:
        return None
    name = f"{parts['owner']}/{parts['repo']}"
    found = state.repository(name)
    if found is None and (moved := state.moved(name)) is not None:
        raise Moved(moved.github_id)
    return found


class Moved(Exception):
    """The repository has another name now."""

    def __init__(self, github_id: int) -> None:
        super().__init__(str(github_id))
        self.github_id = github_id
