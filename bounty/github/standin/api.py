"""The REST API: who asks, within which limits, and which operation answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bounty.github.standin.authentication import Caller, caller_of
from bounty.github.standin.hub import Hub
from bounty.github.standin.rest import apps, checks, comments, pulls, repositories
from bounty.github.standin.rest.access import Moved, check, named_repository
from bounty.github.standin.rest.routing import Answer, Call, Refusal, find

OPERATIONS = (apps, checks, comments, pulls, repositories)  # importing them registers their routes
SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."


@dataclass(frozen=True)
class Asked:
    """A request to the REST API. ``path`` begins after /api/v3."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")


def answer_api(hub: Hub, asked: Asked) -> Answer:
    """Answer a request; refusals are answers as well."""
    try:
        if not asked.header("User-Agent"):
            raise Refusal(
                403,
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent header",
            )
        if hub.state.app is None:
            raise Refusal(503, "No App is registered with the stand-in")
        caller = caller_of(hub.state, asked.header("Authorization"))
        _check_limits(hub, caller, asked)
        answer = _routed(hub, caller, asked)
        return _conditional(hub, caller, asked, answer)
    except Refusal as refusal:
        return Answer(refusal.status, refusal.data, refusal.headers)
    except Moved as moved:
        return _redirect(hub, asked, moved.github_id)


def _routed(hub: Hub, caller: Caller, asked: Asked) -> Answer:
    found, parameters = find(asked.method, asked.path)
    call = Call(hub, asked.method, asked.path, asked.query, _json(asked.body), caller, parameters)
    call.found = named_repository(call)
    check(found, call)
    return found.handler(call)


def _conditional(hub: Hub, caller: Caller, asked: Asked, answer: Answer) -> Answer:
    """The answer with its ETag and what is left of the limit; a 304 costs nothing."""
    window = hub.state.limits.window(caller.key, hub.state.now())
    tag = {}
    if asked.method == "GET" and answer.status == 200:
        content = json.dumps(answer.data, separators=(",", ":")).encode()
        tag = {"ETag": f'W/"{hashlib.sha256(content).hexdigest()}"'}
    headers = {**answer.headers, **tag}
    if tag and tag["ETag"] == asked.header("If-None-Match"):
        window.used -= 1
        return Answer(304, None, headers | hub.state.limits.headers(caller.key, hub.state.now()))
    return Answer(answer.status, answer.data, headers | hub.state.limits.headers(caller.key, hub.state.now()))


def _check_limits(hub: Hub, caller: Caller, asked: Asked) -> None:
    now, limits = hub.state.now(), hub.state.limits
    if asked.path == "/rate_limit":
        return
    if limits.is_used_up(caller.key, now):
        whose = caller.key.replace("installation ", "installation ID ")
        raise Refusal(403, f"API rate limit exceeded for {whose}.", headers=limits.headers(caller.key, now))
    wait = limits.wait_s(caller.key, now, is_write=asked.method != "GET" and not caller.is_app)
    if wait is not None:
        raise Refusal(403, SECONDARY, headers={"Retry-After": str(wait), **limits.headers(caller.key, now)})
    limits.window(caller.key, now).used += 1


def _redirect(hub: Hub, asked: Asked, github_id: int) -> Answer:
    rest = "/".join(asked.path.split("/")[4:])
    url = f"{hub.site.api}/repositories/{github_id}{'/' + rest if rest else ''}"
    if asked.query:
        url += f"?{urlencode(asked.query)}"
    data = {"message": "Moved Permanently", "url": url, "documentation_url": "https://docs.github.com/rest"}
    return Answer(301 if asked.method == "GET" else 307, data, {"Location": url})


def _json(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        raise Refusal(400, "Problems parsing JSON") from None
