"""The bounty app's tables, one file per subject. Rows hold state and one-row rules; services do the rest."""

from bounty.models.automatic_deploys import AutomaticDeploy
from bounty.models.awards import COUNTING, Award, AwardRole, AwardState
from bounty.models.base_stops import BaseStop
from bounty.models.bounties import Bounty, BountyState, Severity
from bounty.models.calibration import NoiseSample, RunnerFailure
from bounty.models.changes import StateChange
from bounty.models.disputes import Dispute, DisputeState
from bounty.models.evidence import Evidence, RunVerdict
from bounty.models.github import (
    Approval,
    ApprovalState,
    Command,
    CommandState,
    Delivery,
    GitHubApp,
    GitHubRepository,
    Head,
    HeadState,
    Installation,
    InstallationState,
    Landing,
    LandingState,
    PullRequest,
    PullRequestState,
    PushSender,
    Report,
    ReportKind,
    Reversal,
    ReversalKind,
    ReversalState,
)
from bounty.models.likeness import ChangedLines, Likeness
from bounty.models.looks import Look
from bounty.models.order import OutOfOrder
from bounty.models.pairs import MeasuredPair
from bounty.models.repositories import Push, RepositoryBinding, RepositoryStop
from bounty.models.repricings import OPEN_REPRICING_STATES, Repricing, RepricingState
from bounty.models.reproductions import Reproduction, ReproductionState
from bounty.models.royalties import EndedBy, RoyaltyDay, RoyaltyPayment, RoyaltyTerm, SharingLaw
from bounty.models.runners import QuarantineCause, Runner, RunnerState
from bounty.models.runs import OPEN_RUN_STATES, PRICING_KINDS, LogChunk, Run, RunKind, RunState
from bounty.models.slow_bases import SlowBase, SlowBaseState
from bounty.models.submissions import NextStep, Review, ReviewDecision, Submission, SubmissionState
from bounty.models.switches import StopSwitch, Switch, WaitingMerge
from bounty.models.tip_checks import TipCheck, TipCheckOutcome
from bounty.models.trees import Lineage, StoredTree

__all__ = [
    "COUNTING",
    "OPEN_REPRICING_STATES",
    "OPEN_RUN_STATES",
    "PRICING_KINDS",
    "Approval",
    "ApprovalState",
    "AutomaticDeploy",
    "Award",
    "AwardRole",
    "AwardState",
    "BaseStop",
    "Bounty",
    "BountyState",
    "ChangedLines",
    "Command",
    "CommandState",
    "Delivery",
    "Dispute",
    "DisputeState",
    "EndedBy",
    "Evidence",
    "GitHubApp",
    "GitHubRepository",
    "Head",
    "HeadState",
    "Installation",
    "InstallationState",
    "Landing",
    "LandingState",
    "Likeness",
    "Lineage",
    "LogChunk",
    "Look",
    "MeasuredPair",
    "NextStep",
    "NoiseSample",
    "OutOfOrder",
    "PullRequest",
    "PullRequestState",
    "Push",
    "PushSender",
    "QuarantineCause",
    "Report",
    "ReportKind",
    "RepositoryBinding",
    "RepositoryStop",
    "Repricing",
    "RepricingState",
    "Reproduction",
    "ReproductionState",
    "Reversal",
    "ReversalKind",
    "ReversalState",
    "Review",
    "ReviewDecision",
    "RoyaltyDay",
    "RoyaltyPayment",
    "RoyaltyTerm",
    "Run",
    "RunKind",
    "RunState",
    "RunVerdict",
    "Runner",
    "RunnerFailure",
    "RunnerState",
    "Severity",
    "SharingLaw",
    "SlowBase",
    "SlowBaseState",
    "StateChange",
    "StopSwitch",
    "StoredTree",
    "Submission",
    "SubmissionState",
    "Switch",
    "TipCheck",
    "TipCheckOutcome",
    "WaitingMerge",
]
