"""Which runs set a price: their pairs are pooled, and the person's earlier confirmations lower their bound."""

from bounty.models import PRICING_KINDS, Repricing, Run, SubmissionState


def sets_price(run: Run) -> bool:
    """Whether its bound may become a price: while its submission is confirming, or after its base proved slow.

    A random re-measurement does not, and a comparison can only lower one.
    """
    if run.submission is None or run.kind not in PRICING_KINDS:
        return False
    is_confirming = run.submission.state == SubmissionState.CONFIRMING
    return is_confirming or Repricing.objects.filter(run=run).exists()
