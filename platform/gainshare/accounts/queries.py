"""Query parameters of REST lists: each list declares its own, and any other is refused.

A view names its parameters with a :class:`ListQuery`; :class:`StatedFilters` checks them and filters, and
`gainshare.accounts.schema` describes them.
"""

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.filters import BaseFilterBackend
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.views import APIView

from gainshare.accounts.models import User


class OneOf(serializers.ChoiceField):
    """A choice; the error names the allowed values."""

    def __init__(self, choices: Any, *, help_text: str) -> None:
        super().__init__(choices, help_text=help_text, required=False)
        self.error_messages["invalid_choice"] = f'"{{input}}" is not one of: {", ".join(self.choices)}.'


class Person(serializers.CharField):
    """A user name, or "me" for the caller. An unknown name finds nothing."""

    def __init__(self, *, help_text: str) -> None:
        super().__init__(max_length=150, help_text=help_text, required=False)

    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        if name != "me":
            return name
        user = self.context["request"].user
        if not isinstance(user, User):
            raise NotAuthenticated(
                f"{self.field_name}=me needs a logged-in caller. Send an API key, or a user's name instead of me."
            )
        return user.username


class ListQuery(serializers.Serializer[Any]):
    """Parameters of every list. Subclasses add filters; ``lookups`` names a filter's field if it differs."""

    lookups: Mapping[str, str] = {}

    limit = serializers.IntegerField(
        min_value=1,
        required=False,
        help_text="Maximum number of rows in the answer: 50 by default, at most 500.",
    )
    offset = serializers.IntegerField(min_value=0, required=False, help_text="Number of rows to skip.")


def checked(query_class: type[ListQuery], request: Request) -> dict[str, Any]:
    """The query's values; an empty one counts as left out. Raises ValidationError by parameter."""
    given = {name: value for name, value in request.query_params.items() if value}
    query = query_class(data=given, context={"request": request})
    names = ", ".join(sorted(query.fields))
    if unknown := sorted(set(request.query_params) - set(query.fields)):
        raise serializers.ValidationError(
            {name: [f"This list has no such parameter. Its parameters are: {names}."] for name in unknown}
        )
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


class StatedFilters(BaseFilterBackend):
    """Refuse unknown parameters and filter by the others. Limit and offset are the pagination's."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        if not isinstance(view, ListModelMixin):
            return queryset
        query_class: type[ListQuery] = getattr(view, "query_class", ListQuery)
        values = checked(query_class, request)
        paging = ListQuery().fields
        return queryset.filter(
            **{
                query_class.lookups.get(name, name): value
                for name, value in values.items()
                if name not in paging
            }
        )
