"""Check runs: made and changed by the App for commits that the repository has."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bounty.github.standin import git
from bounty.github.standin.actions.checks import tell
from bounty.github.standin.records import CheckRun
from bounty.github.standin.rest.pages import page_of
from bounty.github.standin.rest.routing import Answer, Call, Refusal, route
from bounty.github.standin.shapes.checks import check_run as shape

STATUSES = ("queued", "in_progress", "completed")
CONCLUSIONS = (
    "action_required", "cancelled", "failure", "neutral", "success", "skipped", "stale", "timed_out",
)  # fmt: skip
LONGEST = {"title": 255, "summary": 65_535, "text": 65_535}
SHA_LENGTH = 40


@route("POST", "/repos/{owner}/{repo}/check-runs", "checks:write")
@route("POST", "/repositories/{repository_id}/check-runs", "checks:write")
def create_check_run(call: Call) -> Answer:
    given = call.fields()
    for name in ("name", "head_sha"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise _invalid(f'"{name}" wasn\'t supplied.')
    _validate(given)
    sha = given["head_sha"]
    if len(sha) != SHA_LENGTH or not git.has_commit(call.repository.folder, sha):
        raise Refusal(422, f"No commit found for SHA: {sha}")
    state = call.hub.state
    run = CheckRun(
        state.number("check"), given["name"], sha, given.get("external_id") or "", "queued", state.now()
    )
    _change(run, given, state.now())
    call.repository.checks.append(run)
    tell(call.hub, call.repository, run, "created")
    return Answer(201, _shape(call, run))


@route("PATCH", "/repos/{owner}/{repo}/check-runs/{check_run_id}", "checks:write")
@route("PATCH", "/repositories/{repository_id}/check-runs/{check_run_id}", "checks:write")
def update_check_run(call: Call) -> Answer:
    run = _run(call)
    given = call.fields()
    _validate(given)
    was_completed = run.status == "completed"
    run.name = given.get("name") or run.name
    run.external_id = given.get("external_id") or run.external_id
    _change(run, given, call.hub.state.now())
    run.changes += 1
    if run.status == "completed" and not was_completed:
        tell(call.hub, call.repository, run, "completed")
    return Answer(200, _shape(call, run))


@route("GET", "/repos/{owner}/{repo}/check-runs/{check_run_id}", "checks:read")
@route("GET", "/repositories/{repository_id}/check-runs/{check_run_id}", "checks:read")
def get_check_run(call: Call) -> Answer:
    return Answer(200, _shape(call, _run(call)))


@route("GET", "/repos/{owner}/{repo}/commits/{ref}/check-runs", "checks:read")
@route("GET", "/repositories/{repository_id}/commits/{ref}/check-runs", "checks:read")
def list_check_runs(call: Call) -> Answer:
    repository, ref = call.repository, call.parameters["ref"]
    sha = git.ref(repository.folder, f"refs/heads/{ref}") or ref
    if not git.has_commit(repository.folder, sha):
        raise Refusal(422, f"No commit found for SHA: {ref}")
    found = [run for run in repository.checks if run.head_sha == sha]
    for name, key in (("check_name", "name"), ("status", "status")):
        if wanted := call.query.get(name):
            found = [run for run in found if getattr(run, key) == wanted]
    if (app_id := call.query.get("app_id")) and app_id != str(call.hub.app.github_id):
        found = []
    if call.query.get("filter", "latest") == "latest":
        found = list({run.name: run for run in found}.values())
    found.sort(key=lambda run: run.github_id, reverse=True)
    shown, headers = page_of(call, found)
    return Answer(
        200, {"total_count": len(found), "check_runs": [_shape(call, run) for run in shown]}, headers
    )


def _shape(call: Call, run: CheckRun) -> dict[str, Any]:
    return shape(call.hub.site, call.hub.app, call.repository, run)


def _run(call: Call) -> CheckRun:
    number = call.integer("check_run_id")
    for run in call.repository.checks:
        if run.github_id == number:
            return run
    raise Refusal(404, "Not Found")


def _validate(given: dict[str, Any]) -> None:
    status, conclusion = given.get("status"), given.get("conclusion")
    if status is not None and status not in STATUSES:
        raise _invalid(
            f"{status} is not a possible value. Must be one of the following: {', '.join(STATUSES)}."
        )
    if conclusion is not None and conclusion not in CONCLUSIONS:
        raise _invalid(
            f"{conclusion} is not a possible value. Must be one of the following: {', '.join(CONCLUSIONS)}."
        )
    if status == "completed" and conclusion is None:
        raise _invalid('"conclusion" wasn\'t supplied.')
    output = given.get("output")
    if output is None:
        return
    for name in ("title", "summary"):
        if not isinstance(output.get(name), str):
            raise _invalid(f"For 'properties/output', \"{name}\" wasn't supplied.")
    for name, most in LONGEST.items():
        if len(output.get(name) or "") > most:
            raise _invalid(f"For 'properties/{name}', only {most} characters are allowed.")


def _change(run: CheckRun, given: dict[str, Any], now: datetime) -> None:
    conclusion = given.get("conclusion")
    run.status = "completed" if conclusion else given.get("status") or run.status
    if run.status == "completed":
        run.conclusion = conclusion or run.conclusion
        run.completed_at = run.completed_at or now
    else:
        run.conclusion, run.completed_at = None, None
    run.details_url = given.get("details_url") or run.details_url
    run.output = {**run.output, **(given.get("output") or {})}


def _invalid(text: str) -> Refusal:
    return Refusal(422, f"Invalid request.\n\n{text}")
