"""Fields of the REST API that name a bounty: by its number, such as B12, or by its id."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bounty.bounty_numbers import read_name, written
from bounty.errors import NotFound
from bounty.services.bounties import NOT_A_NAME, find_bounty


@extend_schema_field({"type": "string"})
class BountyName(serializers.Field[UUID, str, str, Any]):
    """A bounty's number or id; its value is the id. Raises NotFound for a number that no bounty has.

    An id is not looked up: whatever takes it says what is missing.
    """

    def to_internal_value(self, data: Any) -> UUID:
        try:
            key = read_name(data)
        except (ValueError, TypeError, AttributeError):
            raise serializers.ValidationError(NOT_A_NAME) from None
        return key if isinstance(key, UUID) else find_bounty(written(key)).pk

    def to_representation(self, value: UUID) -> str:
        return str(value)


class BountyFilter(BountyName):
    """A list's parameter: a number that no bounty has is an error of that parameter."""

    def __init__(self) -> None:
        super().__init__(required=False, help_text="A bounty's number, such as B12, or its id.")

    def to_internal_value(self, data: Any) -> UUID:
        try:
            return super().to_internal_value(data)
        except NotFound as error:
            raise serializers.ValidationError(error.message) from None


class BountyNumber(serializers.CharField):
    """A bounty's number in an answer: B12. `of` is the bounty's field, where the row is not the bounty itself."""

    def __init__(self, of: str = "") -> None:
        source = ".".join(filter(None, (of, "short_name")))
        super().__init__(source=source, read_only=True, help_text="Its short number, such as B12.")
