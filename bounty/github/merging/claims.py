"""Which submission a tree on the branch belongs to, as long as something of it may still be paid or merged."""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    Dispute,
    DisputeState,
    Head,
    HeadState,
    Lineage,
    NextStep,
    RepositoryBinding,
    Submission,
    SubmissionState,
)
from bounty.services.awards.lifecycle import acceptances
from bounty.services.awards.unmeasured import unaccepted_paths

S = SubmissionState
ENDED = (S.RECEIVED, S.REJECTED, S.WITHDRAWN, S.DECLINED, S.REVERSED, S.VESTED)
UNCERTAIN = (VerdictKind.SUSPICIOUS.value, VerdictKind.INFRASTRUCTURE_ERROR.value)
MAX_CHAIN = 10
JUDGED_WITHIN = timedelta(days=1)  # a merged head that was not judged by then holds nothing up


@dataclass(frozen=True, slots=True)
class Claim:
    """A submission whose code the branch has, and those below it that are not merged, the lowest first."""

    chain: tuple[Submission, ...]

    @property
    def submission(self) -> Submission:
        return self.chain[-1]


def undecided(lineage: Lineage) -> QuerySet[Submission]:
    """Submissions of the lineage that are not merged and may still be paid, the earliest sealed first."""
    disputed = Exists(Dispute.objects.filter(submission=OuterRef("pk"), state=DisputeState.OPEN))
    is_final = Q(state=S.JUDGED, next_step=NextStep.NONE) & ~Q(verdict_kind__in=UNCERTAIN) & ~Q(disputed)
    rows = Submission.objects.filter(bounty__lineage=lineage, merged_at=None).annotate(disputed=disputed)
    rows = rows.exclude(state__in=ENDED).exclude(is_final)
    return rows.select_related("bounty__lineage").order_by("sealed_at", "pk")


def claim_of(lineage: Lineage, tree_hash: str) -> Claim | None:
    """Whose measured tree this is: it becomes the tip by that submission's merge, and not by a push.

    One that was paid without a merge counts only while it can still be merged: no one could decide about it otherwise.
    """
    found = undecided(lineage).filter(candidate_tree=tree_hash).first()
    if found is None:
        paid = Submission.objects.filter(
            bounty__lineage=lineage,
            candidate_tree=tree_hash,
            base_tree=lineage.tip_id,
            merged_at=None,
            state=S.VESTED,
        )
        found = paid.select_related("bounty__lineage").order_by("sealed_at").first()
    return None if found is None else Claim(_chain(lineage, found))


def _chain(lineage: Lineage, top: Submission) -> tuple[Submission, ...]:
    """Submissions from the tip up to this one, each measured on the one before."""
    chain = [top]
    while chain[0].base_tree_id != lineage.tip_id and len(chain) < MAX_CHAIN:
        seen = [each.pk for each in chain]
        below = undecided(lineage).filter(candidate_tree=chain[0].base_tree_id).exclude(pk__in=seen).first()
        if below is None:
            break
        chain.insert(0, below)
    return tuple(chain)


def unjudged_head(binding: RepositoryBinding, tree_hash: str) -> Head | None:
    """A head of a pull request that has this tree and is about to be judged; None where there is none."""
    if binding.github_id is None:
        return None
    heads = Head.objects.filter(
        tree=tree_hash,
        state=HeadState.WAITING,
        seen_at__gt=timezone.now() - JUDGED_WITHIN,
        pull_request__repository=binding.github_id,
        pull_request__branch=binding.branch,
    )
    return heads.select_related("pull_request").first()


def wait_of(submission: Submission, commit: str) -> str:
    """What a submission waits for whose measured tree is on the branch, in words for its page and its pull request."""
    here = f"The branch has the measured tree of submission {submission.pk} since {commit[:12]}."
    if submission.state in (S.CHECKED, S.QUEUED, S.JUDGING, S.CONFIRMING):
        return f"{here} It is being judged: its merge counts when it is confirmed and maintainers have accepted it."
    if submission.state == S.CONFIRMED:
        given, needed = acceptances(submission)
        return (
            f"{here} It is not accepted yet ({given} of {needed} acceptances by maintainers). Its award vests as soon as it "
            "is; a merge is not an acceptance. If a maintainer declines it, the tree becomes the tip as an unmeasured push."
        )
    if submission.state == S.JUDGED:
        if submission.verdict_kind == VerdictKind.SUSPICIOUS.value:
            return f"{here} Its verdict is suspicious: a maintainer declines it or has it judged again."
        if submission.verdict_kind == VerdictKind.INFRASTRUCTURE_ERROR.value:
            return f"{here} The platform could not measure it: a maintainer has it judged again."
        if submission.next_step == NextStep.AWAIT_ESCROW:
            return f"{here} It waits for credits in its bounty's escrow: fund the bounty or close it."
        return f"{here} Its verdict is not final yet."
    if unaccepted_paths(submission):
        return f"{here} It is accepted, but no acceptance has named the files that nobody measured."
    return f"{here} It is accepted."
