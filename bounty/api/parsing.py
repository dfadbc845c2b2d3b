"""Reading request bodies: JSON up to a bound, and fields that take text as it is."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.utils import OpenApiParameter, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from bounty.errors import BadRequest
from gainshare.accounts.models import User
from gainshare.accounts.once import once
from gainshare.accounts.parsing import BoundedJSONParser

LARGE_BYTES = 96 * 1024 * 1024


class LargeJSONParser(BoundedJSONParser):
    """For evidence, whose raw samples are the largest body."""

    max_bytes = LARGE_BYTES


@extend_schema_field({"type": "string"})
class RawTextField(serializers.Field[str, str, str, Any]):
    """A string exactly as sent: nothing is trimmed, and odd characters are somebody else's to judge."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return data

    def to_representation(self, value: Any) -> str:
        return str(value)


class StatedReason(serializers.Serializer[Any]):
    """The body of an action whose reason goes into somebody's history."""

    reason = serializers.CharField(max_length=1000)


def validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The request's body as the serializer's values; raises ValidationError."""
    parsed = serializer(data=request.data)
    parsed.is_valid(raise_exception=True)
    return dict(parsed.validated_data)


def caller(request: Request) -> User:
    """The signed-in user. Views that call this have a permission class that lets no one else in."""
    assert isinstance(request.user, User)
    return request.user


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "format": "uuid"},
    OpenApiParameter.HEADER,
    description="A UUID that you make: repeating the request with it makes nothing new and answers the same thing.",
)


def once_for(request: Request, what: str, terms: Mapping[str, object], make: Callable[[], str]) -> str:
    """Call ``make`` once for the request's Idempotency-Key; returns what the thing is found by.

    Raises BadRequest for a key that is no UUID, and IdConflict for one that was used for something else.
    """
    key = request.headers.get("Idempotency-Key")
    try:
        call_id = UUID(key) if key is not None else None
    except ValueError:
        raise BadRequest("The header Idempotency-Key is a UUID, such as uuidgen prints.") from None
    return once(call_id=call_id, user=caller(request), what=f"REST {what}", terms=terms, make=make)


def asked_by(request: Request) -> User | AnonymousUser:
    """Who asks, signed in or not."""
    return request.user if isinstance(request.user, User) else AnonymousUser()


def asking(serializer: serializers.BaseSerializer[Any]) -> User | AnonymousUser:
    """Who will read what the serializer renders; a visitor where its context does not say."""
    request = serializer.context.get("request")
    return AnonymousUser() if request is None else asked_by(request)
