"""Parsing of request bodies: JSON up to a size limit, and text fields that are taken verbatim."""

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
    """JSON parser for evidence, which is the largest body because of its raw samples."""

    max_bytes = LARGE_BYTES


@extend_schema_field({"type": "string"})
class RawTextField(serializers.Field[str, str, str, Any]):
    """A string exactly as sent: it is neither trimmed nor checked for odd characters."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return data

    def to_representation(self, value: Any) -> str:
        return str(value)


class StatedReason(serializers.Serializer[Any]):
    """The body of an action whose reason is recorded in a history."""

    reason = serializers.CharField(max_length=1000)


def validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The request's body as the serializer's values; raises ValidationError."""
    parsed = serializer(data=request.data)
    parsed.is_valid(raise_exception=True)
    return dict(parsed.validated_data)


def caller(request: Request) -> User:
    """The logged-in user. Views that call this have a permission class that requires one."""
    assert isinstance(request.user, User)
    return request.user


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "format": "uuid"},
    OpenApiParameter.HEADER,
    description=(
        "A UUID that you make. Repeating the request with the same UUID creates nothing and returns the "
        "first result."
    ),
)


def once_for(request: Request, what: str, terms: Mapping[str, object], make: Callable[[], str]) -> str:
    """Call ``make`` once for the request's Idempotency-Key; return the key of the object that it made.

    Raises BadRequest if the key is not a UUID, and IdConflict if it was used for something else.
    """
    key = request.headers.get("Idempotency-Key")
    try:
        call_id = UUID(key) if key is not None else None
    except ValueError:
        raise BadRequest("The header Idempotency-Key must be a UUID, such as uuidgen prints.") from None
    return once(call_id=call_id, user=caller(request), what=f"REST {what}", terms=terms, make=make)


def asked_by(request: Request) -> User | AnonymousUser:
    """Who asks, signed in or not."""
    return request.user if isinstance(request.user, User) else AnonymousUser()


def asking(serializer: serializers.BaseSerializer[Any]) -> User | AnonymousUser:
    """Who will read what the serializer renders; a visitor where its context does not say."""
    request = serializer.context.get("request")
    return AnonymousUser() if request is None else asked_by(request)
