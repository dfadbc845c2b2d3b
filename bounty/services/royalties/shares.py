"""The shares of gains in what deployments save, as the platform reads them: `gainshare.gateway.prices.gains`."""

from bounty.models import EndedBy, RoyaltyTerm, Submission
from gainshare.gateway.prices.gains import GainShare


def gain_shares(model: str) -> list[GainShare]:
    """Every share in what the model's deployments save, by their start, then in the order of booking."""
    terms = RoyaltyTerm.objects.filter(model=model).select_related("submission__bounty", "person")
    return [share_of(term) for term in terms]


def share_of(term: RoyaltyTerm) -> GainShare:
    """One term without its tables."""
    return GainShare(
        deployment=term.deployment_id,
        line=term.line,
        gain=name_of(term.submission),
        submission=term.submission_id,
        person=term.person.username,
        saving_ppm=term.saving_ppm,
        share_ppm=term.share_ppm,
        starts_at=term.starts_at,
        ends_at=term.ends_at,
        ended_at=term.ended_at,
        is_reversed=term.ended_by == EndedBy.REVERSED,
    )


def name_of(submission: Submission) -> str:
    """The bounty's number and title: what a bill calls the gain."""
    return f"{submission.bounty.short_name}: {submission.bounty.title}"
