"""The pool's page and its REST resource: classes, hosts, nodes, loans and runners in one place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser
from pytest_django import Settings
from pytest_django.asserts import assertContains, assertNotContains
from rest_framework.test import APIClient

from bounty.services.runners.maintenance import retire
from gainshare.accounts.models import User
from gainshare.capacity.models import DeviceClass, Host, NodeState, NodeWindow
from gainshare.capacity.pool.classes import change_class, create_class, find_class
from gainshare.capacity.pool.loans import recall
from gainshare.capacity.routing.rates import window_of
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runners.pool_world import add_host, add_node, lending_host
from tests.chromium import DESK, TELEPHONE, Watch, new_page, started_chromium
from tests.gainshare.capacity.pool.test_classes import PRICE, client_of

POOL = "/api/v1/capacity/pool/"


@pytest.fixture
def world(db: None, tmp_path: Any, settings: Settings) -> World:
    settings.BLOB_ROOT = tmp_path / "blobs"
    return World()


def page_for(user: User) -> Any:
    client = Client()
    client.force_login(user)
    return client.get("/pool/")


def resource(user: User, *scopes: str) -> dict[str, Any]:
    answer = client_of(user, *(scopes or ("read",))).get(POOL)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def class_of(seen: dict[str, Any], name: str = "cpu-small") -> dict[str, Any]:
    (found,) = (one for one in seen["classes"] if one["name"] == name)
    return dict(found)


def busy_pool(world: World) -> Host:
    """Two classes: one host with a lent device and a node, and one with a single device that both share."""
    host = lending_host(world)
    add_node(
        host, 1, model="tiny", load={"running": 3, "waiting": 1}, ready_at=timezone.now(), reason="fixed"
    )
    world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.lease()
    create_class(actor=world.mira, name="edge", **{PRICE: 1_500_000})
    add_host(world.mira, devices=1, class_name="edge", name="kitchen")
    return host


# -- REST --------------------------------------------------------------------------------------------


def test_one_resource_has_nodes_and_runners_by_class(world: World) -> None:
    host = busy_pool(world)
    seen = class_of(resource(world.ann))
    (shown,) = seen["hosts"]
    assert [(device["number"], device["use"], device["runner"]) for device in shown["devices"]] == [
        (0, "lent", world.runner.name),
        (1, "node", ""),
    ]
    assert shown["name"] == host.name and not shown["is_shared"]
    (loan,), (node,) = seen["loans"], seen["nodes"]
    assert (loan["host"], loan["device"], loan["state"]) == (host.name, 0, "taken")
    assert (node["host"], node["device"], node["model"], node["state"]) == (host.name, 1, "tiny", "ready")
    assert node["reason"] == "fixed" and node["load"] == {"running": 3, "waiting": 1} and seen["n_nodes"] == 1
    (runner,) = seen["runners"]
    assert (runner["name"], runner["state"], runner["busy_with"]) == (
        world.runner.name,
        "active",
        "a submission",
    )


def test_one_device_is_said_to_be_shared(world: World) -> None:
    busy_pool(world)
    (shown,) = class_of(resource(world.ann), "edge")["hosts"]
    assert shown["is_shared"] and "both share it" in shown["sharing"]
    assertContains(page_for(world.ann), "one device serves and judges: both share it")


def test_the_kind_of_a_submission_s_run_is_not_told(world: World) -> None:
    """A confirmation would say that the gate has passed, before the submission is decided."""
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.gate(submission, 0.3)
    assert world.lease().kind == "confirmation"
    assertNotContains(page_for(world.bob), "onfirmation")
    assert [row["busy_with"] for row in resource(world.bob)["other_runners"]] == ["a submission"]


def test_the_newest_sandbox_level_stands_beside_a_runner(world: World) -> None:
    assert [row["sandbox_level"] for row in resource(world.ann)["other_runners"]] == [""]
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.gate(submission, 0.0)
    (row,) = resource(world.ann)["other_runners"]
    assert row["sandbox_level"] and row["busy_with"] == ""
    retire(actor=world.mira, name=world.runner.name, reason="sold")
    assert resource(world.ann)["other_runners"] == []


def test_what_is_inside_is_for_maintainers(world: World, settings: Settings) -> None:
    settings.MODEL_NODES = ["http://user:secret-word@10.0.0.7:8001/"]
    host = add_host(world.mira, problem="/home/agent/model cannot be read")
    for seen in (resource(world.ann), resource(world.mira)):
        assert seen["static_nodes"] == [{"number": 1, "address": ""}]
        assert "/home/agent" not in str(seen) and class_of(seen)["hosts"][0]["problem"]
    seen = resource(world.mira, "read", "maintain")
    assert seen["static_nodes"] == [{"number": 1, "address": "10.0.0.7:8001"}]
    assert class_of(seen)["hosts"][0]["problem"] == host.problem
    assertNotContains(page_for(world.ann), "10.0.0.7")
    assertContains(page_for(world.ann), "shares its device with them: one device serves and judges")
    assertContains(page_for(world.mira), "10.0.0.7:8001")
    for user in (world.ann, world.mira):
        assertNotContains(page_for(user), "secret-word")


def test_only_the_signed_in_see_the_pool(world: World) -> None:
    assert APIClient().get(POOL).status_code == 401
    assert client_of(world.ann, "inference").get(POOL).status_code == 403
    assert Client().get("/pool/").status_code == 302


def test_what_a_node_says_of_its_load_cannot_break_the_pool(world: World) -> None:
    host = add_host(world.mira)
    add_node(host, 0, load=["<script>alert(1)</script>"])
    add_node(host, 1, load={"<b>": "<script>alert(1)</script>"})
    assert class_of(resource(world.ann))["nodes"][0]["load"] == {}
    assertNotContains(page_for(world.ann), "<script>alert")


def test_the_pool_takes_as_many_queries_for_many_hosts_as_for_one(
    world: World, django_assert_num_queries: Any, django_assert_max_num_queries: Any
) -> None:
    add_host(world.mira)
    client = client_of(world.ann, "read")
    client.get(POOL)
    with django_assert_max_num_queries(20) as one:
        client.get(POOL)
    for number in range(5):
        add_host(world.mira, class_name=f"class-{number}")
    with django_assert_num_queries(len(one)):
        client.get(POOL)


def test_rates_are_those_that_the_gateway_measured(world: World) -> None:
    host = add_host(world.mira)
    node = add_node(host, 0, model="tiny", load={"prefill_tokens_per_s": 10**9})
    assert class_of(resource(world.ann))["rates"] == [
        {"model": "tiny", "prefill_tokens_per_s": 0, "decode_tokens_per_s": 0, "requests_per_s": 0}
    ]
    assertContains(page_for(world.ann), "nothing yet")
    NodeWindow.objects.create(
        node=str(node.pk), model="tiny", device_class="cpu-small", window_at=window_of(timezone.now()),
        requests=20, failures=0, busy_ms=10_000, prefill_tokens=5_000, prefill_ms=2_000, decode_tokens=300, decode_ms=10_000,
    )  # fmt: skip
    (rates,) = class_of(resource(world.ann))["rates"]
    assert (rates["prefill_tokens_per_s"], rates["decode_tokens_per_s"]) == (2500, 30)
    assertContains(page_for(world.ann), "2500 prefill tokens/s, 30.0 decode tokens/s")


# -- page --------------------------------------------------------------------------------------------


def test_an_empty_pool_says_what_to_do_first(world: World) -> None:
    page = page_for(world.mira)
    assertContains(page, "The pool has no classes yet")
    assertContains(page, "docs/capacity.md")
    assertContains(page, 'href="/pool/classes/"')
    assertNotContains(page_for(world.ann), 'href="/pool/classes/"')
    assert resource(world.mira)["classes"] == []


def test_a_price_that_was_lowered_to_nothing_is_shown(world: World) -> None:
    create_class(actor=world.mira, name="h100", **{PRICE: 2_500_000})
    assertContains(page_for(world.ann), "2.5 credits per device-hour")
    change_class(actor=world.ruth, name="h100", **{PRICE: 0})
    page = page_for(world.ann)
    assertContains(page, "<strong>Free</strong>")
    assertContains(page, f"changed by {world.ruth.username}")
    seen = class_of(resource(world.ann), "h100")
    assert (seen["price_before_microcredits"], seen["price_changed_by"]) == (2_500_000, world.ruth.username)


def test_silent_leaving_and_recalled_are_shown(world: World) -> None:
    host = busy_pool(world)
    recall(host_id=host.pk, device=0, reason="14 requests/s forecast")
    Host.objects.filter(pk=host.pk).update(
        last_seen_at=timezone.now() - timedelta(minutes=3), leaves_at=timezone.now() + timedelta(minutes=2)
    )
    (loan,) = class_of(resource(world.ann))["loans"]
    assert (loan["state"], loan["recall_reason"]) == ("recalled", "14 requests/s forecast")
    page = page_for(world.ann)
    assertContains(page, f"{host.name} is silent since")
    assertContains(page, f"{host.name} leaves at")
    assertContains(page, "14 requests/s forecast")
    assertContains(page, "recalled")


def test_an_ended_node_is_not_in_the_pool(world: World) -> None:
    host = add_host(world.mira)
    add_node(host, 0, state=NodeState.ENDED, ended_at=timezone.now(), model="gone")
    assertNotContains(page_for(world.ann), "gone")
    seen = class_of(resource(world.ann))
    assert (seen["nodes"], seen["n_nodes"]) == ([], 0)


def test_a_maintainer_makes_and_changes_a_class_on_the_page(world: World) -> None:
    client = Client()
    client.force_login(world.mira)
    form = {"name": "h100", "price": "2.5", "max_nodes": "4", "cold_start_s": "120"}
    assert client.post("/pool/classes/", form).status_code == 302
    again = client.post("/pool/classes/", form)
    assert again.status_code == 400 and "already a class" in again.content.decode()
    assert client.post("/pool/classes/h100/", {**form, "price": "3", "hardware": "h100"}).status_code == 302
    found = find_class("h100")
    assert (found.price_microcredits_per_device_hour, found.hardware, found.max_nodes) == (
        3_000_000,
        "h100",
        4,
    )
    page = client.get("/pool/classes/h100/").content.decode()
    assert world.mira.username in page and ">2.5<" in page and ">3<" in page
    assert client.post("/pool/classes/h100/", {**form, "price": "-1"}).status_code == 400
    assert client.get("/pool/classes/a100/").status_code == 404


def test_nobody_else_changes_a_class_on_the_page(world: World) -> None:
    create_class(actor=world.mira, name="h100", **{PRICE: 5})
    client = Client()
    client.force_login(world.ann)
    for address in ("/pool/classes/", "/pool/classes/h100/"):
        assert client.get(address).status_code == 403
        form = {"name": "mine", "price": "0", "max_nodes": "1", "cold_start_s": "1"}
        assert client.post(address, form).status_code == 403
    assert DeviceClass.objects.get().price_microcredits_per_device_hour == 5


# -- browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.mark.browser
@pytest.mark.timeout(240)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_the_pool_fits_on_a_telephone_and_a_desk(
    transactional_db: None,
    live_server: Any,
    browser: Browser,
    theme: str,
    width: int,
    tmp_path: Any,
    settings: Settings,
) -> None:
    settings.BLOB_ROOT = tmp_path / "blobs"
    world = World()
    host = busy_pool(world)
    Host.objects.filter(pk=host.pk).update(problem="cannot read " + "/a/very/long/path" * 12)
    page = new_page(browser, live_server.url, world.mira, width=width, theme=theme)
    watch = Watch(page, live_server.url)
    for address in ("/pool/", "/pool/classes/edge/", "/pool/classes/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    page.goto("/pool/")
    assert re.search(r"Pool", page.locator("nav").first.inner_text())
    shown = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    channels = [int(part) for part in re.findall(r"\d+", shown)[:3]]
    assert (sum(channels) > 3 * 128) == (theme == "light")
    assert watch.complaints == []
