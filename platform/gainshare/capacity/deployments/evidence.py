"""Take a canary's signed document: checked against its order and its host's key, judged again, stored, decided once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from benchmarks.canary import verdict as canaries_verdict
from benchmarks.canary.order import CanaryOrder
from benchmarks.canary.verdict import CanaryVerdict
from benchmarks.evidence.canonical import NotCanonical, canonical_bytes
from benchmarks.evidence.document import digest, signed_bytes
from benchmarks.evidence.signing import ALGORITHM, key_id, verify
from benchmarks.faults import fault_point
from benchmarks.patch.trees import BlobStore, sha256_hex
from benchmarks.sandbox.readable import readable
from gainshare.capacity.deployments.canaries import MAX_WHY, expected_order
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
    document = _checked(sealed, host)
    if order_of(document) != expected_order(deployment):
        raise BadEvidence(
            "The document is about another order: its id, model, trees, nonce or plan are not those of this canary."
        )
    verdict = _verdict(document)
    blob = BlobStore(settings.BLOB_ROOT).put(data)
    fault_point("deployments.evidence.stored")
    _record(deployment, verdict, blob)
    fault_point("deployments.evidence.recorded")
    advance(deployment.model)
    return Deployment.objects.get(pk=deployment.pk)


def order_of(document: dict[str, Any]) -> CanaryOrder:
    """The order that a canary's document repeats. Raises BadEvidence."""
    try:
        return CanaryOrder.from_json(document["order"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadEvidence("The document does not repeat its order.") from None


def _bytes(sealed: Any) -> bytes:
    try:
        return canonical_bytes(sealed)
    except (NotCanonical, RecursionError) as error:
        raise BadEvidence(f"The document has no canonical form: {error}.") from None


def _checked(sealed: Any, host: Host) -> dict[str, Any]:
    """The document in its seal, after its digest and its signature by the host's own key."""
    try:
        document, said = sealed["document"], sealed["signature"]
        if not isinstance(document, dict) or set(sealed) != {"document", "digest", "signature"}:
            raise TypeError
        is_named = sealed["digest"] == digest(document)
        signed = signed_bytes(document)
        is_ours = (said["algorithm"], said["public_key"]) == (ALGORITHM, host.public_key)
        is_ours = is_ours and said["key_id"] == key_id(host.public_key)
        is_signed = is_ours and verify(host.public_key, said["value"], signed)
    except (KeyError, TypeError, ValueError):
        raise BadEvidence("This is no sealed document: it needs document, digest and signature.") from None
    if not is_named:
        raise BadEvidence("The digest is not that of the document.")
    if not host.public_key or not is_signed:
        raise BadEvidence(
            "The document is not signed with the key that this host registered.", code="bad_signature"
        )
    return document


def _verdict(document: dict[str, Any]) -> CanaryVerdict:
    """Recompute the verdict. What the document itself says of it does not matter."""
    try:
        return canaries_verdict.decide(document)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise BadEvidence(
            f"The document does not have a canary's form: {readable(str(error))[:200]}"
        ) from None


def _record(deployment: Deployment, verdict: CanaryVerdict, blob: str) -> None:
    """One conditional UPDATE. Raises Decided where the canary was decided or begun again meanwhile."""
    now = timezone.now()
    same = Deployment.objects.filter(
        pk=deployment.pk,
        state=DeploymentState.CANARY,
        host=deployment.host_id,
        tries=deployment.tries,
    )
    told = {"evidence_blob": blob, "result": verdict.to_json(), "judged_at": now, "progress": ""}
    if verdict.passed:
        changed = same.update(state=DeploymentState.STARTING, starting_at=now, **told)
    else:
        why = readable(verdict.why)[:MAX_WHY]
        changed = same.update(state=DeploymentState.REFUSED, why=why, ended_at=now, **told)
    if not changed:
        raise Decided("This canary was decided or begun again in this moment. Drop it.")
