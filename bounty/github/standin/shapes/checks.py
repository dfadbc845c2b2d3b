"""Check runs as JSON."""

from __future__ import annotations

from typing import Any

from bounty.github.standin.records import App, CheckRun, Repository
from bounty.github.standin.shapes.accounts import app as app_shape
from bounty.github.standin.shapes.links import Site, node_id, stamp


def check_run(site: Site, app: App, repository: Repository, run: CheckRun) -> dict[str, Any]:
    """A check run. ``pull_requests`` names only those from the same repository, as at GitHub."""
    url = f"{site.repository(repository)}/check-runs/{run.github_id}"
    return {
        "id": run.github_id,
        "name": run.name,
        "node_id": node_id("CheckRun", run.github_id),
        "head_sha": run.head_sha,
        "external_id": run.external_id,
        "url": url,
        "html_url": f"{site.web}/{repository.full_name}/runs/{run.github_id}",
        "details_url": run.details_url or site.web,
        "status": run.status,
        "conclusion": run.conclusion,
        "started_at": stamp(run.started_at),
        "completed_at": stamp(run.completed_at),
        "output": {
            "title": run.output.get("title"),
            "summary": run.output.get("summary"),
            "text": run.output.get("text"),
            "annotations_count": 0,
            "annotations_url": f"{url}/annotations",
        },
        "check_suite": {"id": _suite(run)},
        "app": app_shape(site, app),
        "pull_requests": [_pull(site, repository, number) for number in _numbers(repository, run)],
    }


def _suite(run: CheckRun) -> int:
    return int(run.head_sha[:12], 16)


def _numbers(repository: Repository, run: CheckRun) -> list[int]:
    return [
        pull.number
        for pull in repository.pulls.values()
        if pull.head_sha == run.head_sha and pull.source is repository and pull.state == "open"
    ]


def _pull(site: Site, repository: Repository, number: int) -> dict[str, Any]:
    pull = repository.pulls[number]
    named = {"id": repository.github_id, "name": repository.name, "url": site.repository(repository)}
    return {
        "id": pull.github_id,
        "number": number,
        "url": site.pull(pull),
        "head": {"ref": pull.branch, "sha": pull.head_sha, "repo": named},
        "base": {"ref": pull.base, "sha": pull.base_sha, "repo": named},
    }
