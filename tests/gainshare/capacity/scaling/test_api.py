"""REST of scaling: who may read and change, what is refused, and what Prometheus and KEDA read."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Decision, ServedModel
from tests.gainshare.capacity.scaling.scaling_world import (
    MODEL,
    live,
    make_class,
    make_host,
    make_ready,
    make_user,
    passes,
    serve,
)

pytestmark = pytest.mark.django_db
MODELS = "/api/v1/capacity/models/"


def client_of(user: User, *scopes: str) -> APIClient:
    client = APIClient()
    _, raw = create_api_key(user=user, name="test", scopes=list(scopes) or sorted(user.allowed_scopes))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def maintainer() -> APIClient:
    return client_of(make_user())


def reader() -> APIClient:
    return client_of(make_user("contributor"), "read")


def error_of(answer: Any) -> dict[str, Any]:
    return dict(answer.json()["error"])


def test_a_maintainer_serves_a_model_and_changes_it() -> None:
    make_class("cpu-small")
    make_class("spot-a10")
    boss = maintainer()
    made = boss.post(MODELS, {"name": "tiny", "classes": ["cpu-small"]}, format="json")
    assert made.status_code == 201
    assert made.json()["policy"] == "forecast" and made.json()["is_automatic"] is False
    changed = boss.patch(
        f"{MODELS}tiny/",
        {
            "classes": ["cpu-small", "spot-a10"],
            "is_automatic": True,
            "budget_microcredits_per_day": 5_000_000,
        },
        format="json",
    )
    assert changed.status_code == 200
    served = ServedModel.objects.get()
    assert {one.name for one in served.classes.all()} == {"cpu-small", "spot-a10"}
    assert (served.is_automatic, served.budget_microcredits_per_day, served.slots) == (True, 5_000_000, 4)
    assert served.changed_by is not None
    assert (
        boss.patch(f"{MODELS}tiny/", {"budget_microcredits_per_day": None}, format="json").status_code == 200
    )
    served.refresh_from_db()
    assert served.budget_microcredits_per_day is None and served.is_automatic


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a/b", "classes": ["cpu-small"]}, "name"),
        ({"name": "tiny", "classes": []}, "classes"),
        ({"name": "tiny"}, "classes"),
        ({"name": "tiny", "classes": ["cpu-small"], "policy": "guess"}, "policy"),
        ({"name": "tiny", "classes": ["cpu-small"], "slots": 0}, "slots"),
        ({"name": "tiny", "classes": ["cpu-small"], "actuator": "swarm"}, "actuator"),
        ({"name": "tiny", "classes": ["cpu-small"], "budget_microcredits_per_day": -1}, "budget_microcredits_per_day"),
        ({"name": "tiny", "classes": ["cpu-small"], "fixed_nodes": 2**40}, "fixed_nodes"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_field(body: dict[str, Any], field: str) -> None:
    make_class("cpu-small")
    answer = maintainer().post(MODELS, body, format="json")
    assert answer.status_code == 400 and list(error_of(answer)["details"]) == [field]
    assert not ServedModel.objects.exists()


def test_an_unknown_class_and_a_second_model_of_the_name_are_refused() -> None:
    make_class("cpu-small")
    boss = maintainer()
    answer = boss.post(MODELS, {"name": "tiny", "classes": ["cpu-small", "gold"]}, format="json")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "no_such_class")
    assert error_of(answer)["message"] == "There is no class gold. The classes are: cpu-small."
    assert boss.post(MODELS, {"name": "tiny", "classes": ["cpu-small"]}, format="json").status_code == 201
    again = boss.post(MODELS, {"name": "tiny", "classes": ["cpu-small"]}, format="json")
    assert (again.status_code, error_of(again)["code"]) == (409, "served_twice")
    missing = boss.patch(f"{MODELS}other/", {"fixed_nodes": 1}, format="json")
    assert missing.status_code == 404


def test_others_read_and_change_nothing() -> None:
    serve(make_class())
    for client in (reader(), client_of(make_user(), "read")):
        assert client.get(MODELS).json()["results"][0]["name"] == MODEL
        assert client.get(f"{MODELS}{MODEL}/").status_code == 200
        assert client.post(MODELS, {"name": "x", "classes": ["cpu-small"]}, format="json").status_code == 403
        assert client.patch(f"{MODELS}{MODEL}/", {"fixed_nodes": 9}, format="json").status_code == 403
    assert APIClient().get(MODELS).status_code == 401
    assert ServedModel.objects.get().fixed_nodes == 1


def test_decisions_are_listed_newest_first_with_reason_and_inputs() -> None:
    served = serve(make_host(make_class(), devices=4).device_class)
    passes(served)
    ServedModel.objects.update(fixed_nodes=2)
    passes(served)
    client = reader()
    rows = client.get("/api/v1/capacity/decisions/", {"model": MODEL}).json()["results"]
    assert [row["reason"] for row in rows] == ["a maintainer set 2 nodes", "a maintainer set 1 node"]
    assert (rows[0]["before"], rows[0]["wanted"]) == ({"cpu-small": 1}, {"cpu-small": 2})
    assert rows[0]["inputs"]["objective"]["budget_left_today"] is None
    assert client.get("/api/v1/capacity/decisions/", {"model": "other"}).json()["results"] == []
    Decision.objects.filter(pk=rows[0]["id"]).update(is_change=False)
    changes = client.get("/api/v1/capacity/decisions/", {"is_change": "true"}).json()["results"]
    assert [row["id"] for row in changes] == [rows[1]["id"]]


def test_what_keda_reads() -> None:
    served = serve(make_host(make_class(), devices=4).device_class, fixed_nodes=3, actuator="external")
    passes(served)
    make_ready(live()[0])
    read = reader().get(f"/api/v1/capacity/wanted/{MODEL}/cpu-small/")
    assert read.json() == {
        "model": MODEL, "device_class": "cpu-small", "wanted": 3, "starting": 2, "ready": 1, "draining": 0,
    }  # fmt: skip
    assert reader().get(f"/api/v1/capacity/wanted/{MODEL}/gold/").status_code == 404
    assert APIClient().get(f"/api/v1/capacity/wanted/{MODEL}/cpu-small/").status_code == 401


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1", "*/*"]
)
def test_what_prometheus_reads(accept: str) -> None:
    served = serve(make_host(make_class(), devices=4).device_class, fixed_nodes=2)
    passes(served)
    answer = reader().get("/api/v1/capacity/metrics/", headers={"accept": accept})
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(
        "text/plain; version=0.0.4"
    )
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }
    assert samples["gainshare_wanted_nodes", "cpu-small", MODEL] == 2
    assert samples["gainshare_nodes", "cpu-small", "starting", MODEL] == 2
    assert samples["gainshare_nodes", "cpu-small", "ready", MODEL] == 0
    assert samples["gainshare_scaling_passed_timestamp_seconds", MODEL] > 1.7e9


def test_metrics_need_a_key_and_say_so_in_json() -> None:
    answer = APIClient().get("/api/v1/capacity/metrics/", headers={"accept": "text/plain"})
    assert answer.status_code == 401 and "message" in error_of(answer)
