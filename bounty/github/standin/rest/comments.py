"""Comments of a pull request's conversation, and reactions to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bounty.github.standin.actions import comments as actions
from bounty.github.standin.records import Account, Comment, PullRequest
from bounty.github.standin.rest.pages import page_of
from bounty.github.standin.rest.pulls import pull_of
from bounty.github.standin.rest.routing import Answer, Call, Refusal, route, unprocessable
from bounty.github.standin.shapes import pulls as shapes
from bounty.github.standin.shapes.accounts import simple_user
from bounty.github.standin.shapes.links import node_id, stamp

LONGEST = 65_536
READ = ("issues:read", "pull_requests:read")
WRITE = ("issues:write", "pull_requests:write")
ONE = "/issues/comments/{comment_id}"
OF_ISSUE = "/issues/{issue_number}/comments"


@route("GET", "/repos/{owner}/{repo}" + OF_ISSUE, *READ)
@route("GET", "/repositories/{repository_id}" + OF_ISSUE, *READ)
def list_comments(call: Call) -> Answer:
    pull = pull_of(call, "issue_number")
    found = pull.comments
    if since := call.query.get("since"):
        found = [row for row in found if row.updated_at >= _time(since)]
    shown, headers = page_of(call, found)
    return Answer(200, [_shape(call, pull, row) for row in shown], headers)


@route("POST", "/repos/{owner}/{repo}" + OF_ISSUE, *WRITE)
@route("POST", "/repositories/{repository_id}" + OF_ISSUE, *WRITE)
def create_comment(call: Call) -> Answer:
    pull = pull_of(call, "issue_number")
    made = actions.add_comment(call.hub, pull, call.hub.app.bot, _body(call), is_by_app=True)
    shown = _shape(call, pull, made)
    return Answer(201, shown, {"Location": shown["url"]})


@route("GET", "/repos/{owner}/{repo}" + ONE, *READ)
@route("GET", "/repositories/{repository_id}" + ONE, *READ)
def get_comment(call: Call) -> Answer:
    return Answer(200, _shape(call, *_comment(call)))


@route("PATCH", "/repos/{owner}/{repo}" + ONE, *WRITE)
@route("PATCH", "/repositories/{repository_id}" + ONE, *WRITE)
def edit_comment(call: Call) -> Answer:
    pull, comment = _comment(call)
    if comment.author is not call.hub.app.bot:
        raise Refusal(403, "Resource not accessible by integration")
    actions.edit_comment(call.hub, pull, comment, _body(call), by=call.hub.app.bot)
    return Answer(200, _shape(call, pull, comment))


@route("POST", "/repos/{owner}/{repo}" + ONE + "/reactions", *WRITE)
@route("POST", "/repositories/{repository_id}" + ONE + "/reactions", *WRITE)
def react(call: Call) -> Answer:
    _, comment = _comment(call)
    content = call.fields().get("content")
    if content not in shapes.CONTENTS:
        raise unprocessable("Reaction", "content", "invalid")
    bot = call.hub.app.bot
    key = (bot.github_id, content)
    status = 200 if key in comment.reactions else 201
    number = comment.reactions.setdefault(key, call.hub.state.number("reaction"))
    return Answer(status, _reaction(call, number, bot, content))


@route("GET", "/repos/{owner}/{repo}" + ONE + "/reactions", *READ)
@route("GET", "/repositories/{repository_id}" + ONE + "/reactions", *READ)
def list_reactions(call: Call) -> Answer:
    _, comment = _comment(call)
    accounts = call.hub.state.accounts
    shown, headers = page_of(call, list(comment.reactions.items()))
    rows = [_reaction(call, number, accounts[who], content) for (who, content), number in shown]
    return Answer(200, rows, headers)


def _reaction(call: Call, number: int, account: Account, content: str) -> dict[str, Any]:
    return {
        "id": number,
        "node_id": node_id("Reaction", number),
        "user": simple_user(call.hub.site, account),
        "content": content,
        "created_at": stamp(call.hub.state.now()),
    }


def _shape(call: Call, pull: PullRequest, comment: Comment) -> dict[str, Any]:
    return shapes.comment(call.hub.site, call.hub.app, pull, comment)


def _comment(call: Call) -> tuple[PullRequest, Comment]:
    found = call.hub.state.comment(call.repository, call.integer("comment_id"))
    if found is None:
        raise Refusal(404, "Not Found")
    return found


def _body(call: Call) -> str:
    body = call.fields().get("body")
    if not isinstance(body, str):
        raise Refusal(422, 'Invalid request.\n\n"body" wasn\'t supplied.')
    if not body.strip():
        raise unprocessable("IssueComment", "body", "unprocessable", "Body cannot be blank")
    if len(body) > LONGEST:
        raise unprocessable(
            "IssueComment", "body", "unprocessable", f"body is too long (maximum is {LONGEST} characters)"
        )
    return body


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise unprocessable("IssueComment", "since", "invalid") from None
