"""REST for users and their API keys."""

from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.generics import ListAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts import services
from gainshare.accounts.authentication import ApiKeyAuthentication
from gainshare.accounts.entrance_limits import sign_up
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.schema import refused
from gainshare.accounts.serializers import (
    ApiKeySerializer,
    MadeApiKeySerializer,
    NewApiKeySerializer,
    RoleSerializer,
    SignUpSerializer,
    UserSerializer,
)


class SignUpIsOpen(BasePermission):
    """Permission to sign up: sign-up is open, or the caller is a maintainer."""

    message = "Sign-up is closed on this site. Ask a maintainer for an account."

    def has_permission(self, request: Request, view: Any) -> bool:
        return settings.OPEN_SIGNUP or IsMaintainer().has_permission(request, view)


class UsersView(APIView):
    """Sign-up."""

    permission_classes = [SignUpIsOpen]

    @extend_schema(
        operation_id="users_create",
        summary="Sign up",
        request=SignUpSerializer,
        responses={201: UserSerializer, **refused(429)},
    )
    def post(self, request: Request) -> Response:
        form = SignUpSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        if IsMaintainer().has_permission(request, self):
            user = services.create_user(**form.validated_data)
        else:
            user = sign_up(request=request, **form.validated_data)
        return Response(UserSerializer(user).data, status=201)


class MeView(APIView):
    """The caller."""

    permission_classes = [HasScope("read")]

    @extend_schema(operation_id="users_me", summary="Your own account", responses=UserSerializer)
    def get(self, request: Request) -> Response:
        assert isinstance(request.user, User)
        return Response(UserSerializer(request.user).data)


class RoleView(APIView):
    """Another user's role."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="users_set_role",
        summary="Give a user a role (maintainers)",
        request=RoleSerializer,
        responses=UserSerializer,
    )
    def post(self, request: Request, username: str) -> Response:
        form = RoleSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        user = services.set_role(actor=request.user, username=username, role=form.validated_data["role"])
        return Response(UserSerializer(user).data)


class KeysView(ListAPIView[ApiKey]):
    """The caller's keys. User name and password are accepted too, so that a new user can make the first key."""

    authentication_classes = [ApiKeyAuthentication, BasicAuthentication, SessionAuthentication]
    permission_classes = [HasScope("read")]
    serializer_class = ApiKeySerializer

    def get_queryset(self) -> QuerySet[ApiKey]:
        assert isinstance(self.request.user, User)
        return ApiKey.objects.filter(user=self.request.user).select_related("made_with")

    @extend_schema(operation_id="keys_list", summary="List your API keys")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="keys_create",
        summary="Make an API key",
        description=(
            "A key that is made with another key gets at most that key's scopes and expiry, and is revoked with it."
        ),
        request=NewApiKeySerializer,
        responses={201: MadeApiKeySerializer},
    )
    def post(self, request: Request) -> Response:
        form = NewApiKeySerializer(data=request.data)
        form.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        made_with = request.auth if isinstance(request.auth, ApiKey) else None
        key, raw = services.create_api_key(user=request.user, made_with=made_with, **form.validated_data)
        return Response({"key": raw, **ApiKeySerializer(key).data}, status=201)


class KeyView(APIView):
    """One key of the caller."""

    authentication_classes = [ApiKeyAuthentication, BasicAuthentication, SessionAuthentication]
    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="keys_revoke",
        summary="Revoke an API key",
        description="With a key you can revoke that key and keys with no more permissions than it.",
        parameters=[OpenApiParameter("prefix", str, OpenApiParameter.PATH)],
        responses={204: None},
    )
    def delete(self, request: Request, prefix: str) -> Response:
        assert isinstance(request.user, User)
        asked_with = request.auth if isinstance(request.auth, ApiKey) else None
        services.revoke_api_key(user=request.user, prefix=prefix, asked_with=asked_with)
        return Response(status=204)


urlpatterns = [
    path("users/", UsersView.as_view()),
    path("users/me/", MeView.as_view()),
    path("users/<str:username>/role/", RoleView.as_view()),
    path("keys/", KeysView.as_view()),
    path("keys/<str:prefix>/", KeyView.as_view()),
]
