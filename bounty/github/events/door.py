"""The door for GitHub's webhooks: size, signature, and one row for each delivery. The work is done by a control worker."""

import json
from typing import Any, Never
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.errors import BadRequest, BountyError
from bounty.github.events.deliveries import KNOWN, receive
from bounty.github.events.signatures import is_signed
from gainshare.accounts.schema import refused

#: Of the site's other addresses, too. GitHub sends at most 25 MiB; what was in a larger event is found by polling.
MAX_BODY_BYTES = 8 * 1024 * 1024
TAKEN = "taken"
NOT_NEEDED = "not needed"


class NoSecret(BountyError):
    """No webhook secret is configured, so no delivery can be checked."""

    code = "no_webhook_secret"
    status = 403


class NotSigned(BountyError):
    """The delivery's signature is missing or wrong."""

    code = "not_signed"
    status = 401


class TooLarge(BountyError):
    code = "body_too_large"
    status = 413


class DeliveryOut(serializers.Serializer[Any]):
    outcome = serializers.ChoiceField(choices=[TAKEN, NOT_NEEDED])


class Webhook(APIView):
    """Take an event that GitHub delivers. The signature over the body is the only authentication."""

    authentication_classes = []
    permission_classes = [AllowAny]

    @extend_schema(
        request={"application/json": {"type": "object"}},
        responses={202: DeliveryOut, **refused(403)},
        parameters=[
            OpenApiParameter("X-GitHub-Delivery", str, OpenApiParameter.HEADER, description="A UUID."),
            OpenApiParameter("X-GitHub-Event", str, OpenApiParameter.HEADER),
            OpenApiParameter("X-Hub-Signature-256", str, OpenApiParameter.HEADER, description="sha256=HEX"),
        ],
    )
    def post(self, request: Request) -> Response:
        body = _checked_body(request)
        delivery_id, event = _delivery_id(request), request.headers.get("X-GitHub-Event", "")
        if event not in KNOWN:
            return Response({"outcome": NOT_NEEDED}, status=202)
        receive(delivery_id=delivery_id, event=event, payload=_payload(body))
        return Response({"outcome": TAKEN}, status=202)


def _checked_body(request: Request) -> bytes:
    """The raw body, once its size and its signature hold. Raises NoSecret, TooLarge, NotSigned."""
    secrets = settings.GITHUB_WEBHOOK_SECRETS
    if not secrets:
        raise NoSecret(
            "This site has no webhook secret, so it takes no events. Set GAINSHARE_GITHUB_WEBHOOK_SECRET to the secret "
            "of the GitHub App; until then pull requests are found by polling."
        )
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
        raise TooLarge(f"The body is too large: it may have at most {MAX_BODY_BYTES} bytes here.")
    body = request._request.body
    if not is_signed(body, header=request.headers.get("X-Hub-Signature-256", ""), secrets=secrets):
        raise NotSigned(
            "The signature is missing or wrong. Set the same secret in the GitHub App and in "
            "GAINSHARE_GITHUB_WEBHOOK_SECRET."
        )
    return body


def _delivery_id(request: Request) -> UUID:
    try:
        return UUID(request.headers.get("X-GitHub-Delivery", ""))
    except ValueError:
        raise BadRequest("The header X-GitHub-Delivery must be a UUID.") from None


def _payload(body: bytes) -> dict[str, Any]:
    """The body's JSON without characters that the database cannot keep. Raises BadRequest."""
    try:
        payload = json.loads(body.decode(), parse_constant=_refuse)
        payload = _kept(payload)
    except (ValueError, RecursionError):
        raise BadRequest(
            "The body is not JSON. Set the webhook's content type to application/json."
        ) from None
    if not isinstance(payload, dict):
        raise BadRequest("The body is not a JSON object.")
    return payload


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


def _kept(value: Any) -> Any:
    """The value with a replacement character for each NUL and each half of a surrogate pair."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_kept(part) for part in value]
    if isinstance(value, dict):
        return {_kept(name): _kept(part) for name, part in value.items()}
    return value
