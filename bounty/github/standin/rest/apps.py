"""The App, its installations, their tokens and repositories, and the App's deliveries."""

from __future__ import annotations

from typing import Any

from bounty.github.standin import registration
from bounty.github.standin.authentication import issue_token
from bounty.github.standin.records import Installation
from bounty.github.standin.rest.access import LEVELS
from bounty.github.standin.rest.pages import page_of
from bounty.github.standin.rest.routing import Answer, Call, Refusal, route
from bounty.github.standin.shapes import accounts as shapes
from bounty.github.standin.shapes.repositories import repository as repository_shape


@route("GET", "/app", "app")
def get_app(call: Call) -> Answer:
    shown = shapes.app(call.hub.site, call.hub.app)
    count = sum(not row.is_removed for row in call.hub.state.installations.values())
    return Answer(200, shown | {"installations_count": count})


@route("POST", "/app-manifests/{code}/conversions", "nobody")
def convert_manifest(call: Call) -> Answer:
    made = registration.convert(call.hub, call.parameters["code"])
    if made is None:
        raise Refusal(404, "Not Found")
    return Answer(201, shapes.app(call.hub.site, call.hub.app) | made)


@route("GET", "/app/installations", "app")
def list_installations(call: Call) -> Answer:
    found = [row for row in call.hub.state.installations.values() if not row.is_removed]
    shown, headers = page_of(call, found)
    hub = call.hub
    return Answer(200, [shapes.installation(hub.site, hub.app, row) for row in shown], headers)


@route("GET", "/app/installations/{installation_id}", "app")
def get_installation(call: Call) -> Answer:
    return Answer(200, shapes.installation(call.hub.site, call.hub.app, _installation(call)))


@route("POST", "/app/installations/{installation_id}/access_tokens", "app")
def create_token(call: Call) -> Answer:
    found = _installation(call)
    if found.suspended_at is not None:
        raise Refusal(403, "This installation has been suspended")
    wanted: dict[str, str] = (call.body or {}).get("permissions") or found.permissions
    for name, level in wanted.items():
        if level not in LEVELS or LEVELS.index(level) > LEVELS.index(found.permissions.get(name, "none")):
            raise Refusal(422, "The permissions requested are not granted to this installation.")
    return Answer(201, shapes.installation_token(issue_token(call.hub.state, found, dict(wanted))))


@route("GET", "/installation/repositories", "installation")
def list_repositories(call: Call) -> Answer:
    held = call.caller.installation
    assert held is not None
    shown, headers = page_of(call, held.repositories)
    rows = [repository_shape(call.hub.site, row) for row in shown]
    data = {"total_count": len(held.repositories), "repository_selection": "selected", "repositories": rows}
    return Answer(200, data, headers)


@route("GET", "/app/hook/deliveries", "app")
def list_deliveries(call: Call) -> Answer:
    shown, headers = page_of(call, call.hub.deliveries.listed())
    return Answer(200, [row.summary() for row in shown], headers)


@route("POST", "/app/hook/deliveries/{delivery_id}/attempts", "app")
def redeliver(call: Call) -> Answer:
    if not call.hub.deliveries.redeliver(call.integer("delivery_id")):
        raise Refusal(404, "Not Found")
    return Answer(202, {})


@route("GET", "/rate_limit", "nobody")
def rate_limit(call: Call) -> Answer:
    now = call.hub.state.now()
    told = call.hub.state.limits.headers(call.caller.key, now)
    core: dict[str, Any] = {
        name: int(told[f"X-RateLimit-{name.capitalize()}"])
        for name in ("limit", "remaining", "reset", "used")
    }
    return Answer(200, {"resources": {"core": core, "search": core}, "rate": core})


def _installation(call: Call) -> Installation:
    found = call.hub.state.installations.get(call.integer("installation_id"))
    if found is None or found.is_removed:
        raise Refusal(404, "Not Found")
    return found
