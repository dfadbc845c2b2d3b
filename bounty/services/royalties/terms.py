"""Terms of royalties: begun when a deployment with a merged gain serves, ended with the gain or its deployment."""

from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Min, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.sharing.credits import Gain, line_credits, new_gains, without_effect
from benchmarks.sharing.lines import measures
from benchmarks.sharing.savings import Placed
from bounty.models import EndedBy, Lineage, RoyaltyTerm, Submission, SubmissionState
from bounty.services.royalties.laws import law_of
from bounty.services.series.contents import Contents, booked_gains
from gainshare.accounts.once import claim
from gainshare.capacity.models import Deployment
from gainshare.capacity.models.deployments import HAS_SERVED
from gainshare.gateway.prices.gains import savings_of
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import TransferKind, TransferState
from gainshare.ledger.models import Transfer

NAMESPACE = UUID("a8ef9a27-6c0b-4a6e-8dd0-3b1b0c3d2f90")


def note_deployment(deployment_id: UUID) -> list[RoyaltyTerm]:
    """Begin the terms of the gains that this deployment is the first to serve. Repeating changes nothing.

    Those whose suites measure a line share its saving there: `benchmarks.sharing.credits`. Gains that an earlier
    deployment served which still counts were credited then, also where it saved nothing. A gain's terms all end when
    its first one would.
    """
    deployment = Deployment.objects.filter(pk=deployment_id, state__in=HAS_SERVED).first()
    if deployment is None or deployment.is_first or deployment.is_rollback or not deployment.lineage:
        return []
    lineage = Lineage.objects.filter(name=deployment.lineage).first()
    if lineage is None:
        return []
    with transaction.atomic():
        claim(uuid5(NAMESPACE, deployment.model))  # one deployment of a model at a time
        made = list(RoyaltyTerm.objects.filter(deployment=deployment))
        if made:
            return made
        history = savings_of(deployment.model)
        own = next(each for each in history if each.served.id == str(deployment.pk))
        if not own.savings:
            return []
        terms = _terms(deployment, own, history, Contents(lineage))
        RoyaltyTerm.objects.bulk_create(terms)
        fault_point("royalties.terms_begun")
    settle_terms(deployment.model)
    return terms


def _terms(
    deployment: Deployment, own: Placed, history: list[Placed], contents: Contents
) -> list[RoyaltyTerm]:
    booked = {str(each.submission.pk): each for each in booked_gains(new_gains(own, history, contents.of))}
    gains = [Gain(pk, each.log_ppm, measures(each.submission.bounty.suite)) for pk, each in booked.items()]
    terms: list[RoyaltyTerm] = []
    for line, saving in own.savings.items():
        useless = without_effect(line, own, history, contents.of)
        most = _first_credits(list(booked), deployment.model, line) | dict.fromkeys(useless, 0)
        for pk, saving_ppm in line_credits(saving, gains, most).items():
            each = booked[pk]
            if (
                each.is_paid
                and saving_ppm > 0
                and (term := _term(deployment, each.submission, line, saving_ppm))
            ):
                terms.append(term)
    return terms


def _term(deployment: Deployment, submission: Submission, line: str, saving_ppm: int) -> RoyaltyTerm | None:
    """The term, not stored yet; None if the gain's time is over or its law gives nothing."""
    law, starts_at = law_of(submission), deployment.serving_at
    assert starts_at is not None, "it has served"
    earlier = RoyaltyTerm.objects.filter(submission=submission, model=deployment.model)
    first = earlier.aggregate(at=Min("starts_at"))["at"]
    ends_at = (first or starts_at) + law.lasts
    if ends_at <= starts_at or not law.share_ppm:
        return None
    return RoyaltyTerm(
        submission=submission,
        person=submission.submitter,
        deployment=deployment,
        model=deployment.model,
        line=line,
        saving_ppm=saving_ppm,
        share_ppm=law.share_ppm,
        starts_at=starts_at,
        ends_at=ends_at,
    )


def _first_credits(gains: list[str], model: str, line: str) -> dict[str, int]:
    """The least that each of the gains was credited on this line before; without those that never were."""
    earlier = RoyaltyTerm.objects.filter(submission__in=map(UUID, gains), model=model, line=line)
    least = earlier.order_by().values_list("submission").annotate(least=Min("saving_ppm"))
    return {str(pk): int(ppm) for pk, ppm in least}


def settle_terms(model: str | None = None) -> int:
    """End the terms whose gain was reversed or whose deployment was rolled back; return their number.

    A reversed gain also loses its royalties that have not vested. Repeating changes nothing.
    """
    running = RoyaltyTerm.objects.filter(ended_at=None)
    if model is not None:
        running = running.filter(model=model)
    ended = _end_reversed(running.filter(submission__state=SubmissionState.REVERSED))
    for name in set(running.values_list("model", flat=True)):
        for each in savings_of(name):
            if each.served.lost_at is not None:
                own = running.filter(deployment=UUID(each.served.id))
                ended += own.update(ended_at=each.served.lost_at, ended_by=EndedBy.ROLLED_BACK)
    return ended


def _end_reversed(terms: QuerySet[RoyaltyTerm]) -> int:
    ended = terms.update(ended_at=timezone.now(), ended_by=EndedBy.REVERSED)
    fault_point("royalties.terms_ended")
    void_reversed()
    return ended


def void_reversed() -> int:
    """Return the unvested royalties of reversed gains to revenue; return their number."""
    voided = 0
    for transfer_id, submission_id in unvested():
        with transaction.atomic():
            submission = Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
            if submission.state == SubmissionState.REVERSED:
                ledger.void_royalty(transfer_id=transfer_id)
                voided += 1
    return voided


def unvested() -> list[tuple[UUID, str]]:
    """Every unvested royalty with the id of its submission, the oldest first."""
    rows = Transfer.objects.filter(kind=TransferKind.ROYALTY, state=TransferState.PENDING)
    found = rows.order_by("created_at").values_list("pk", "reference")
    return [(pk, reference.partition(":")[2]) for pk, reference in found]
