"""Repositories, what collaborators may do, and users."""

from __future__ import annotations

from bounty.github.standin.rest.routing import Answer, Call, Refusal, route
from bounty.github.standin.shapes import accounts as people
from bounty.github.standin.shapes import repositories as shapes


@route("GET", "/repos/{owner}/{repo}", "metadata:read")
@route("GET", "/repositories/{repository_id}", "metadata:read")
def get_repository(call: Call) -> Answer:
    return Answer(200, shapes.full_repository(call.hub.site, call.repository))


@route("GET", "/repos/{owner}/{repo}/installation", "app")
def get_repository_installation(call: Call) -> Answer:
    found = call.hub.state.installation_of(call.repository)
    if found is None:
        raise Refusal(404, "Not Found")
    return Answer(200, people.installation(call.hub.site, call.hub.app, found))


@route("GET", "/repos/{owner}/{repo}/collaborators/{username}/permission", "metadata:read")
@route("GET", "/repositories/{repository_id}/collaborators/{username}/permission", "metadata:read")
def get_permission(call: Call) -> Answer:
    account = call.hub.state.account(call.parameters["username"])
    if account is None:
        raise Refusal(404, f"{call.parameters['username']} is not a user")
    return Answer(200, shapes.permission(call.hub.site, call.repository, account))


@route("GET", "/users/{username}", "nobody")
def get_user(call: Call) -> Answer:
    account = call.hub.state.account(call.parameters["username"])
    if account is None:
        raise Refusal(404, "Not Found")
    return Answer(200, people.public_user(call.hub.site, account))


@route("GET", "/user", "user")
def get_own_user(call: Call) -> Answer:
    user = call.caller.user
    assert user is not None
    return Answer(200, people.public_user(call.hub.site, user))


@route("GET", "/user/emails", "user")
def list_own_emails(call: Call) -> Answer:
    user, token = call.caller.user, call.caller.token
    assert user is not None
    assert token is not None
    if not {"user", "user:email"} & set(token.scopes.replace(",", " ").split()):
        raise Refusal(404, "Not Found")
    row = {"email": user.email, "primary": True, "verified": True, "visibility": "private"}
    return Answer(200, [row] if user.email else [])


@route("GET", "/user/{account_id}", "nobody")  # after /user/emails, which it would match as well
def get_user_by_number(call: Call) -> Answer:
    account = call.hub.state.accounts.get(call.integer("account_id"))
    if account is None:
        raise Refusal(404, "Not Found")
    return Answer(200, people.public_user(call.hub.site, account))
