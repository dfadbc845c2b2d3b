"""Classes of devices: maintainers create and change them, everybody signed in looks, and every price stays on record."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import IntegrityError, transaction
from django.test import Client
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import NotAllowed, create_api_key
from gainshare.capacity.models import ClassPrice, DeviceClass
from gainshare.capacity.pool.classes import MAX_PRICE, change_class, create_class, find_class
from gainshare.capacity.pool.errors import BadClass, ClassExists, NoSuchClass
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db

PRICE = "price_microcredits_per_device_hour"
CLASSES = "/api/v1/capacity/classes/"


@pytest.fixture
def maintainer() -> User:
    return make_user("maintainer")


def client_of(user: User, *scopes: str) -> APIClient:
    _, raw = create_api_key(user=user, name="test", scopes=list(scopes))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def prices(name: str) -> list[int]:
    """The class's prices, oldest first."""
    rows = ClassPrice.objects.filter(device_class__name=name).order_by("pk")
    return list(rows.values_list(PRICE, flat=True))


def test_every_price_stays_on_record(maintainer: User) -> None:
    create_class(actor=maintainer, name="h100", **{PRICE: 2_500_000})
    change_class(actor=maintainer, name="h100", **{PRICE: 3_000_000})
    change_class(actor=maintainer, name="h100", **{PRICE: 3_000_000})  # the same again
    change_class(actor=maintainer, name="h100", description="eighty gigabytes", max_nodes=4)
    change_class(actor=maintainer, name="h100", **{PRICE: 0})
    assert prices("h100") == [2_500_000, 3_000_000, 0]
    found = find_class("h100")
    assert (found.description, found.max_nodes) == ("eighty gigabytes", 4)
    assert ClassPrice.objects.first().set_by == maintainer  # type: ignore[union-attr]


def test_a_price_on_record_never_changes(maintainer: User) -> None:
    create_class(actor=maintainer, name="h100", **{PRICE: 2_500_000})
    for change in (lambda rows: rows.update(**{PRICE: 1}), lambda rows: rows.all()._raw_delete("default")):
        with pytest.raises(IntegrityError, match="refused"), transaction.atomic():
            change(ClassPrice.objects.all())
    assert prices("h100") == [2_500_000]


@pytest.mark.parametrize(
    "fields",
    [
        {PRICE: -1},
        {PRICE: MAX_PRICE + 1},
        {"max_nodes": -1},
        {"cold_start_s": 10**6},
        {"description": "x" * 201},
        {"hardware": "x" * 41},
        {"name_of_it": "x"},
    ],
)
def test_unusable_fields_are_refused(maintainer: User, fields: dict[str, Any]) -> None:
    create_class(actor=maintainer, name="h100")
    with pytest.raises(BadClass):
        change_class(actor=maintainer, name="h100", **fields)
    with pytest.raises(BadClass):
        create_class(actor=maintainer, name="other", **fields)
    assert DeviceClass.objects.count() == 1


@pytest.mark.parametrize("name", ["", "H100", "-x", "a" * 41, "a b", "a/b"])
def test_unusable_names_are_refused(maintainer: User, name: str) -> None:
    with pytest.raises(BadClass):
        create_class(actor=maintainer, name=name)


def test_a_class_is_created_once_and_changed_where_it_is(maintainer: User) -> None:
    create_class(actor=None, name="cpu-small")
    with pytest.raises(ClassExists):
        create_class(actor=maintainer, name="cpu-small")
    with pytest.raises(NoSuchClass):
        change_class(actor=maintainer, name="h100", max_nodes=1)


def test_only_maintainers_change_classes(maintainer: User) -> None:
    create_class(actor=maintainer, name="h100", **{PRICE: 5})
    other = make_user("contributor")
    with pytest.raises(NotAllowed):
        create_class(actor=other, name="mine")
    with pytest.raises(NotAllowed):
        change_class(actor=other, name="h100", **{PRICE: 0})
    assert prices("h100") == [5]


# -- REST --------------------------------------------------------------------------------------------


def test_classes_by_rest(maintainer: User) -> None:
    api = client_of(maintainer, "read", "maintain")
    made = api.post(CLASSES, {"name": "spot-a10", PRICE: 400_000, "is_preemptible": True}, format="json")
    assert made.status_code == 201 and made.json()["is_preemptible"] is True
    changed = api.patch(f"{CLASSES}spot-a10/", {PRICE: 300_000}, format="json").json()
    assert [row[PRICE] for row in changed["prices"]] == [300_000, 400_000]
    assert {row["set_by"] for row in changed["prices"]} == {maintainer.username}
    assert [row["name"] for row in api.get(CLASSES).json()["results"]] == ["spot-a10"]
    assert api.get(f"{CLASSES}spot-a10/").json()["is_preemptible"] is True
    assert api.get(f"{CLASSES}h100/").status_code == 404
    assert api.post(CLASSES, {"name": "spot-a10"}, format="json").json()["error"]["code"] == "class_exists"
    assert api.patch(f"{CLASSES}spot-a10/", {PRICE: -1}, format="json").status_code == 400


@pytest.mark.parametrize(
    ("scopes", "is_maintainer"), [(("read", "submit"), False), (("read",), True), (("inference",), True)]
)
def test_who_may_not_change_a_class_by_rest(scopes: tuple[str, ...], is_maintainer: bool) -> None:
    create_class(actor=None, name="h100", **{PRICE: 5})
    api = client_of(make_user("maintainer" if is_maintainer else "contributor"), *scopes)
    assert api.post(CLASSES, {"name": "mine"}, format="json").status_code == 403
    assert api.patch(f"{CLASSES}h100/", {PRICE: 0}, format="json").status_code == 403
    assert APIClient().patch(f"{CLASSES}h100/", {PRICE: 0}, format="json").status_code == 401
    assert api.get(CLASSES).status_code == (200 if "read" in scopes else 403)
    assert prices("h100") == [5] and DeviceClass.objects.count() == 1


def test_visitors_do_not_see_the_classes() -> None:
    assert APIClient().get(CLASSES).status_code == 401


# -- admin -------------------------------------------------------------------------------------------


def test_the_admin_keeps_the_history_too(client: Client, maintainer: User) -> None:
    User.objects.filter(pk=maintainer.pk).update(is_staff=True, is_superuser=True)
    client.force_login(maintainer)
    fields = {
        "name": "h100",
        PRICE: "5",
        "max_nodes": "8",
        "cold_start_s": "120",
        "description": "",
        "hardware": "",
    }
    assert client.post("/admin/capacity/deviceclass/add/", fields).status_code == 302
    pk = find_class("h100").pk
    answer = client.post(f"/admin/capacity/deviceclass/{pk}/change/", {**fields, PRICE: "7"})
    assert answer.status_code == 302 and prices("h100") == [5, 7]


def test_the_admin_lets_staff_without_the_role_only_look(client: Client) -> None:
    create_class(actor=None, name="h100", **{PRICE: 5})
    staff = make_user("contributor")
    User.objects.filter(pk=staff.pk).update(is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(content_type__app_label="capacity"))
    client.force_login(User.objects.get(pk=staff.pk))
    address = f"/admin/capacity/deviceclass/{find_class('h100').pk}/change/"
    assert client.get(address).status_code == 200
    fields = {PRICE: "0", "max_nodes": "8", "cold_start_s": "120", "description": "", "hardware": ""}
    assert client.post(address, fields).status_code == 403
    assert client.get("/admin/capacity/deviceclass/add/").status_code == 403
    assert prices("h100") == [5]
