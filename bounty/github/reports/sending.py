"""Sends one report. What was sent before a worker died is found again on GitHub, so that there is never a second one."""

from benchmarks.faults import fault_point
from bounty.github.app.client import Client, client_for
from bounty.github.app.facts import CheckRunFields
from bounty.github.reports.comments import marker
from bounty.models import Installation, PullRequest, Report


def external_id(row: Report) -> str:
    """Finds a check run again on GitHub."""
    return f"gainshare:{row.head_id}:{row.subject}"


def send(
    installation: Installation, pull_request: PullRequest, row: Report, content: str | CheckRunFields
) -> int:
    """Create or change the comment or check run on GitHub; its number there. Raises GitHubError and its kinds."""
    client = client_for(installation)
    if isinstance(content, str):
        return _comment(client, pull_request, row, content)
    return _check(client, pull_request, row, content)


def _comment(client: Client, pull_request: PullRequest, row: Report, text: str) -> int:
    name, number = pull_request.repository.full_name, pull_request.number
    found = row.github_id or client.find_comment(name, number, marker=marker(pull_request))
    if found is None:
        found = client.create_comment(name, number, text)
        fault_point("report.comment_created")
        return found
    client.edit_comment(name, found, text)
    fault_point("report.comment_edited")
    return found


def _check(client: Client, pull_request: PullRequest, row: Report, fields: CheckRunFields) -> int:
    assert row.head is not None, "a check run has a head"
    name, sha, own_id = pull_request.repository.full_name, row.head.sha, external_id(row)
    found = row.github_id or client.find_check(name, sha, external_id=own_id)
    if found is None:
        found = client.create_check(name, sha, external_id=own_id, fields=fields)
        fault_point("report.check_created")
        return found
    client.update_check(name, found, fields)
    fault_point("report.check_updated")
    return found
