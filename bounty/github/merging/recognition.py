"""Recognises merges that were made on GitHub, by the folder's tree alone: whatever the commit and its author.

A walk goes over the trees that the branch's folder was since it was followed last. Where one is the measured tree of an
accepted submission, that is merged, one after the other. Where its submission is not accepted, the branch waits: the tip
stays, so that nothing is measured against unmeasured or unaccepted code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from bounty.errors import BountyError
from bounty.github.merging.claims import Claim, claim_of, unjudged_head, wait_of
from bounty.github.merging.landings import record
from bounty.github.repositories.histories import Step
from bounty.models import (
    GitHubRepository,
    LandingState,
    Lineage,
    PushSender,
    RepositoryBinding,
    Submission,
    SubmissionState,
)
from bounty.services.merges import merge_landed
from bounty.services.wakeups import wake_fetch

MERGEABLE = (SubmissionState.ACCEPTED, SubmissionState.VESTED)


@dataclass(slots=True)
class Walk:
    """What a walk found. ``rest`` are the trees after the tip, which are not followed yet."""

    rest: tuple[Step, ...]
    last: Step | None = None  # the newest step that is the tip
    merged: list[UUID] = field(default_factory=list)
    waits: str = ""  # why the rest is not followed now
    landings: set[int] = field(default_factory=set)
    refusals: dict[UUID, str] = field(default_factory=dict)  # submission -> why its merge was refused


def pushed(*, repository: GitHubRepository, branch: str, commits: Sequence[str], github_id: int) -> None:
    """Write down who pushed these commits, as GitHub's push event said, and have the bound lineages fetched.

    The newest commit is enough. Repeating it changes nothing. Only this says who may not answer for a branch that went back.
    """
    for commit in commits:
        PushSender.objects.get_or_create(
            repository=repository, branch=branch, commit=commit, github_id=github_id
        )
    for name in repository.bindings.filter(branch=branch).values_list("lineage__name", flat=True):
        wake_fetch(lineage=name)


def walk(lineage: Lineage, binding: RepositoryBinding, steps: Sequence[Step]) -> Walk:
    """Merge what may be merged, and write down what waits. Inside a transaction that holds the lineage's lock.

    The lineage's ``tip_id`` is up to date afterwards. The caller writes down how far the binding has followed.
    """
    found = Walk(rest=tuple(steps))
    _leave_behind(found, lineage)
    while _merge_next(found, lineage):
        _leave_behind(found, lineage)
    seen: set[UUID] = set()
    for step in found.rest:
        claim = claim_of(lineage, step.tree)
        if claim is not None:
            _wait(found, claim, step, lineage, seen)
        elif not found.waits and (head := unjudged_head(binding, step.tree)) is not None:
            found.waits = (
                f"The branch has the tree of pull request {head.pull_request}, which is about to be judged. It is followed "
                "when that has its verdict."
            )
    return found


def _leave_behind(found: Walk, lineage: Lineage) -> None:
    """Cut the rest after the newest step that is the tip: what was on the branch before it is not on it now."""
    for index in range(len(found.rest) - 1, -1, -1):
        if found.rest[index].tree == lineage.tip_id:
            found.last, found.rest = found.rest[index], found.rest[index + 1 :]
            return


def _merge_next(found: Walk, lineage: Lineage) -> bool:
    """Merge the first submission of the rest that may be merged on the tip; False if there is none."""
    for step in found.rest:
        claim = claim_of(lineage, step.tree)
        if claim is None or not _is_mergeable(claim.chain[0], lineage):
            continue
        lowest = claim.chain[0]
        try:
            merge_landed(
                lineage=lineage, submission_id=lowest.pk, where=f"the branch has it at {step.commit[:12]}"
            )
        except BountyError as error:
            found.refusals[lowest.pk] = error.message
            continue
        record(
            lineage=lineage,
            submission=lowest,
            commit=step.commit,
            tree_hash=step.tree,
            state=LandingState.WAITING,
            problem=f"merged, since the branch has its measured tree at {step.commit[:12]}",
        )
        found.merged.append(lowest.pk)
        lineage.refresh_from_db()
        return True
    return False


def _is_mergeable(submission: Submission, lineage: Lineage) -> bool:
    return submission.state in MERGEABLE and submission.base_tree_id == lineage.tip_id


def _wait(found: Walk, claim: Claim, step: Step, lineage: Lineage, seen: set[UUID]) -> None:
    """Write down what waits, each with its reason; the branch waits for the first."""
    for submission in claim.chain:
        if submission.pk in seen:
            continue
        seen.add(submission.pk)
        problem = wait_of(submission, step.commit)
        if submission.state in MERGEABLE:
            problem += f" {found.refusals.get(submission.pk) or _obstacle(submission, claim, lineage)}"
        landing = record(
            lineage=lineage,
            submission=submission,
            commit=step.commit,
            tree_hash=step.tree,
            state=LandingState.WAITING,
            problem=problem,
        )
        found.landings.add(landing.pk)
        found.waits = found.waits or problem


def _obstacle(submission: Submission, claim: Claim, lineage: Lineage) -> str:
    """Why an accepted submission was not even tried."""
    if submission.pk != claim.chain[0].pk:
        return "What it was measured on has to be merged first."
    assert submission.base_tree_id != lineage.tip_id, "else its merge was tried"
    return "The tip has moved since, so it is applied to the tip and measured again first."
