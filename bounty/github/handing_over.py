"""What a dormant author did goes to the user who links the GitHub account, so that no one is two people here.

Submissions that no credits were booked for change hands under their lineages' locks, so that a booking or another
submission comes before or after it. `gainshare.ledger.hand_over` refuses what was booked.
"""

from django.db.models import Q

from bounty.models import Dispute, Lineage, Review, Submission
from bounty.services.transitions import note
from gainshare.accounts.github_accounts import GitHubAccountTaken, register_hand_over
from gainshare.accounts.models import User


def hand_over(dormant: User, user: User) -> None:
    """Make the dormant user's submissions the user's. Raises GitHubAccountTaken if the user decided about one of them."""
    submitted = Q(bounties__submissions__submitter=dormant)
    may_be_submitted = Q(repository__github__pull_requests__author__user=dormant)
    lineages = Lineage.objects.filter(submitted | may_be_submitted).values("pk")
    list(Lineage.objects.select_for_update(no_key=True).filter(pk__in=lineages).order_by("pk"))
    theirs = Submission.objects.filter(submitter=dormant)
    reviewed = Review.objects.filter(reviewer=user, submission__submitter=dormant)
    answered = Dispute.objects.filter(answered_by=user, submission__submitter=dormant)
    if reviewed.exists() or answered.exists():
        raise GitHubAccountTaken(
            "You have decided about a submission of this GitHub account, and no one decides about their own. Another "
            "maintainer has to look at that first."
        )
    for submission in theirs.order_by("pk"):
        Submission.objects.filter(pk=submission.pk).update(submitter=user)
        note(
            submission,
            old=submission.state,
            new=submission.state,
            reason=f"{user.username} linked the GitHub account that it came from ({dormant.username})",
            actor=user,
        )


register_hand_over("submissions", hand_over, position=10)
