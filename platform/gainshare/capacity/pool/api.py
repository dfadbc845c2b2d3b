"""REST of the pool: classes, and one resource for all that is in the pool. Changes are for maintainers."""

from __future__ import annotations

from typing import Any

from django.urls import path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.models import User
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.schema import refused
from gainshare.capacity.models import DeviceClass
from gainshare.capacity.pool.classes import change_class, create_class, find_class
from gainshare.capacity.pool.overview import overview
from gainshare.capacity.pool.serializers import ClassDetailOut, ClassFields, ClassIn, ClassOut, PoolOut


def caller(request: Request) -> User:
    """The logged-in user, whom the permission classes require."""
    assert isinstance(request.user, User)
    return request.user


def validated(form: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The request's body as the form's values; raises ValidationError."""
    parsed = form(data=request.data)
    parsed.is_valid(raise_exception=True)
    return dict(parsed.validated_data)


class _ReadOrMaintain(APIView):
    """Everybody signed in may look, maintainers may change."""

    def get_permissions(self) -> list[BasePermission]:
        is_look = self.request.method in ("GET", "HEAD", "OPTIONS")
        return [HasScope("read")() if is_look else IsMaintainer()]


class ClassList(_ReadOrMaintain, generics.ListAPIView[DeviceClass]):
    """Classes of devices."""

    queryset = DeviceClass.objects.all()
    serializer_class = ClassOut

    @extend_schema(operation_id="capacity_classes_list", summary="Classes of devices with their prices")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="capacity_classes_create",
        summary="Create a class of devices (maintainers)",
        request=ClassIn,
        responses={201: ClassDetailOut, **refused(403)},
    )
    def post(self, request: Request) -> Response:
        made = create_class(actor=caller(request), **validated(ClassIn, request))
        return Response(ClassDetailOut(made).data, status=201)


class ClassDetail(_ReadOrMaintain):
    """One class of devices."""

    @extend_schema(
        operation_id="capacity_classes_get",
        summary="One class with every price that it had",
        responses=ClassDetailOut,
    )
    def get(self, request: Request, name: str) -> Response:
        return Response(ClassDetailOut(find_class(name)).data)

    @extend_schema(
        operation_id="capacity_classes_change",
        summary="Change a class of devices (maintainers)",
        request=ClassFields,
        responses={200: ClassDetailOut, **refused(403)},
    )
    def patch(self, request: Request, name: str) -> Response:
        changed = change_class(actor=caller(request), name=name, **validated(ClassFields, request))
        return Response(ClassDetailOut(changed).data)


class Pool(APIView):
    """The pool at this moment."""

    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="capacity_pool",
        summary="Classes, hosts, nodes and runners of the pool, now",
        responses=PoolOut,
    )
    def get(self, request: Request) -> Response:
        view = overview(timezone.now(), for_maintainers=IsMaintainer().has_permission(request, self))
        return Response(PoolOut(view).data)


urlpatterns = [
    path("capacity/classes/", ClassList.as_view()),
    path("capacity/classes/<str:name>/", ClassDetail.as_view()),
    path("capacity/pool/", Pool.as_view()),
]
