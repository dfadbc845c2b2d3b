"""Repositories and their collaborators as JSON."""

from __future__ import annotations

from typing import Any

from bounty.github.standin.records import Account, Repository
from bounty.github.standin.shapes.accounts import simple_user
from bounty.github.standin.shapes.links import Site, node_id, stamp

SUFFIXES = {
    "archive": "/{archive_format}{/ref}", "assignees": "/assignees{/user}", "blobs": "/git/blobs{/sha}",
    "branches": "/branches{/branch}", "collaborators": "/collaborators{/collaborator}",
    "comments": "/comments{/number}", "commits": "/commits{/sha}", "compare": "/compare/{base}...{head}",
    "contents": "/contents/{+path}", "contributors": "/contributors", "deployments": "/deployments",
    "downloads": "/downloads", "events": "/events", "forks": "/forks", "git_commits": "/git/commits{/sha}",
    "git_refs": "/git/refs{/sha}", "git_tags": "/git/tags{/sha}", "hooks": "/hooks",
    "issue_comment": "/issues/comments{/number}", "issue_events": "/issues/events{/number}",
    "issues": "/issues{/number}", "keys": "/keys{/key_id}", "labels": "/labels{/name}",
    "languages": "/languages", "merges": "/merges", "milestones": "/milestones{/number}",
    "notifications": "/notifications{?since,all,participating}", "pulls": "/pulls{/number}",
    "releases": "/releases{/id}", "stargazers": "/stargazers", "statuses": "/statuses/{sha}",
    "subscribers": "/subscribers", "subscription": "/subscription", "tags": "/tags", "teams": "/teams",
    "trees": "/git/trees{/sha}",
}  # fmt: skip


def repository(site: Site, record: Repository) -> dict[str, Any]:
    """A repository as it is shown inside of other things and in lists."""
    url = site.repository(record)
    page = f"{site.web}/{record.full_name}"
    opened = sum(pull.state == "open" for pull in record.pulls.values())
    made = stamp(record.created_at)
    return {
        "id": record.github_id,
        "node_id": node_id("Repository", record.github_id),
        "name": record.name,
        "full_name": record.full_name,
        "private": record.is_private,
        "owner": simple_user(site, record.owner),
        "html_url": page,
        "description": None,
        "fork": record.parent is not None,
        "url": url,
        **{f"{name}_url": f"{url}{suffix}" for name, suffix in SUFFIXES.items()},
        "git_url": page.replace("http", "git", 1) + ".git",
        "ssh_url": f"git@127.0.0.1:{record.full_name}.git",
        "clone_url": f"{page}.git",
        "svn_url": page,
        "mirror_url": None,
        "homepage": None,
        "language": None,
        "license": None,
        "size": 0,
        "stargazers_count": 0,
        "watchers_count": 0,
        "watchers": 0,
        "forks_count": 0,
        "forks": 0,
        "open_issues_count": opened,
        "open_issues": opened,
        "default_branch": record.default_branch,
        "has_issues": True,
        "has_projects": True,
        "has_downloads": True,
        "has_wiki": True,
        "has_pages": False,
        "has_discussions": False,
        "archived": False,
        "disabled": False,
        "allow_forking": True,
        "is_template": False,
        "web_commit_signoff_required": False,
        "topics": [],
        "visibility": "private" if record.is_private else "public",
        "created_at": made,
        "updated_at": made,
        "pushed_at": made,
    }


def full_repository(site: Site, record: Repository) -> dict[str, Any]:
    """A repository as it is shown by itself."""
    return repository(site, record) | {"network_count": 0, "subscribers_count": 0}


def permission(site: Site, record: Repository, account: Account) -> dict[str, Any]:
    """What a collaborator may do: the old name of four levels, and the role."""
    role = record.role_of(account)
    level = {"maintain": "write", "triage": "read"}.get(role, role)
    order = ("none", "read", "triage", "write", "maintain", "admin")
    may = order.index(role)
    allowed = {
        "admin": may >= 5, "maintain": may >= 4, "push": may >= 3, "triage": may >= 2, "pull": may >= 1,
    }  # fmt: skip
    user = simple_user(site, account) | {"permissions": allowed, "role_name": role}
    return {"permission": level, "role_name": role, "user": user}
