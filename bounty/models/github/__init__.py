"""What is kept of GitHub: installations, repositories, deliveries, pull requests, commands, and what was reported."""

from bounty.models.github.approvals import Approval, ApprovalState
from bounty.models.github.deliveries import Delivery
from bounty.models.github.installations import GitHubApp, GitHubRepository, Installation, InstallationState
from bounty.models.github.landings import Landing, LandingState, PushSender
from bounty.models.github.pull_requests import (
    Command,
    CommandState,
    Head,
    HeadState,
    PullRequest,
    PullRequestState,
)
from bounty.models.github.reports import Report, ReportKind
from bounty.models.github.reversals import Reversal, ReversalKind, ReversalState

__all__ = [
    "Approval",
    "ApprovalState",
    "Command",
    "CommandState",
    "Delivery",
    "GitHubApp",
    "GitHubRepository",
    "Head",
    "HeadState",
    "Installation",
    "InstallationState",
    "Landing",
    "LandingState",
    "PullRequest",
    "PullRequestState",
    "PushSender",
    "Report",
    "ReportKind",
    "Reversal",
    "ReversalKind",
    "ReversalState",
]
