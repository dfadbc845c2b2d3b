"""Take a canary's signed document: checked against its order and its host's key, judged again, stored, decided once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from benchmarks.canary.results import CanaryVerdict
from benchmarks.canary.verify import verify_canary
from benchmarks.evidence.canonical import NotCanonical, canonical_bytes
from benchmarks.evidence.signing import key_id
from benchmarks.faults import fault_point
from benchmarks.patch.trees import BlobStore, sha256_hex
from benchmarks.sandbox.readable import readable
from gainshare.capacity.deployments.canaries import MAX_WHY, expected_order, same_try
from gainshare.capacity.deployments.errors import BadEvidence, Decided, NotThisCanary
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.models import Deployment, DeploymentState, Host


def take_document(*, host: Host, deployment_id: UUID, sealed: Any) -> Deployment:
    """Decide a canary by its sealed document: ``{"document", "digest", "signature"}``.

    The document that decided it may be sent again and changes nothing. Raises NotThisCanary, Decided, BadEvidence; then
    nothing was stored, and the canary is still to be done.
    """
    deployment = Deployment.objects.filter(pk=deployment_id, host=host).first()
    if deployment is None:
        raise NotThisCanary("This host was not asked for such a canary, or another host has it now. Drop it.")
    data = _bytes(sealed)
    if deployment.evidence_blob == sha256_hex(data):
        return deployment
    if deployment.state != DeploymentState.CANARY:
        raise Decided("This canary is decided, or its deployment has ended. Drop it.")
    verdict = _verified(sealed, deployment, host)
    blob = BlobStore(settings.BLOB_ROOT).put(data)
    fault_point("deployments.evidence.stored")
    _record(deployment, verdict, blob)
    fault_point("deployments.evidence.recorded")
    advance(deployment.model)
    return Deployment.objects.get(pk=deployment.pk)


def _bytes(sealed: Any) -> bytes:
    try:
        return canonical_bytes(sealed)
    except (NotCanonical, RecursionError) as error:
        raise BadEvidence(f"The document has no canonical form: {error}.") from None


def _verified(sealed: Any, deployment: Deployment, host: Host) -> CanaryVerdict:
    """The verdict as recomputed from a document that answers this order and is signed by this host's key."""
    if not host.public_key:
        raise BadEvidence("This host has registered no key, so its document cannot be checked.")
    order = expected_order(deployment)
    trusted = {key_id(host.public_key): host.public_key}
    report = verify_canary(sealed, trusted_keys=trusted, nonce=order.nonce, order=order)
    wrong = [f"{check.name}: {readable(check.detail)[:200]}" for check in report.checks if not check.holds]
    if wrong or not report.ok:
        raise BadEvidence(f"The document does not hold: {'; '.join(wrong)}.")
    return report.verdict


def _record(deployment: Deployment, verdict: CanaryVerdict, blob: str) -> None:
    """One conditional UPDATE. Raises Decided where the canary was decided or begun again meanwhile."""
    now = timezone.now()
    same = same_try(deployment)
    told = {"evidence_blob": blob, "result": verdict.to_json(), "judged_at": now, "progress": ""}
    if verdict.passed:
        changed = same.update(state=DeploymentState.STARTING, starting_at=now, **told)
    else:
        why = readable(verdict.why)[:MAX_WHY]
        changed = same.update(state=DeploymentState.REFUSED, why=why, ended_at=now, **told)
    if not changed:
        raise Decided("This canary was decided or begun again in this moment. Drop it.")
