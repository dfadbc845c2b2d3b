"""What is kept of GitHub: installations, repositories, deliveries, pull requests, commands, and what was reported."""

from bounty.models.github.deliveries import Delivery
from bounty.models.github.installations import GitHubApp, GitHubRepository, Installation, InstallationState
from bounty.models.github.pull_requests import (
    Command,
    CommandState,
    Head,
    HeadState,
    PullRequest,
    PullRequestState,
)
from bounty.models.github.reports import Report, ReportKind

__all__ = [
    "Command",
    "CommandState",
    "Delivery",
    "GitHubApp",
    "GitHubRepository",
    "Head",
    "HeadState",
    "Installation",
    "InstallationState",
    "PullRequest",
    "PullRequestState",
    "Report",
    "ReportKind",
]
