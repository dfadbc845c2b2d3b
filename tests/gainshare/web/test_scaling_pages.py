"""Pages of scaling and of its cost: who sees them, reasons, and what keeps the counts from being reached."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.capacity.models import Decision, ScalingState, ServedModel
from gainshare.web.views.scaling import points_of
from tests.gainshare.capacity.scaling.scaling_world import (
    MODEL,
    live,
    make_class,
    make_host,
    make_ready,
    make_user,
    passes,
    serve,
    take_seats,
)
from tests.gainshare.gateway.test_serving_cost import ran, used

pytestmark = pytest.mark.django_db


def html_of(user: User, path: str, status: int = 200) -> str:
    client = Client()
    client.force_login(user)
    answer = client.get(path)
    assert answer.status_code == status
    return answer.content.decode()


@pytest.fixture
def served() -> ServedModel:
    """A model with two nodes, one of them ready, and the decision that ordered them."""
    served = serve(make_host(make_class(), devices=4).device_class, fixed_nodes=2)
    passes(served)
    make_ready(live()[0])
    return served


def test_everyone_signed_in_reads_the_decisions_and_maintainers_find_them(served: ServedModel) -> None:
    take_seats(None, 3)
    ServedModel.objects.update(fixed_nodes=3)
    passes(served)
    for user in (make_user("contributor"), make_user()):
        listed = html_of(user, "/scaling/")
        assert f'href="/scaling/{MODEL}/"' in listed and "a maintainer set 3 nodes" in listed
        html = html_of(user, f"/scaling/{MODEL}/")
        assert "a maintainer set 2 nodes" in html and "2 cpu-small → 3 cpu-small" in html
        assert html.count('<svg class="plot"') == 2
        assert '1 <span class="note">ready of 3 wanted, 2 starting</span>' in html
    assert Client().get("/scaling/").headers["Location"] == "/login/?next=/scaling/"
    assert 'href="/scaling/"' in html_of(make_user(), "/")
    assert 'href="/scaling/"' not in html_of(make_user("contributor"), "/")
    assert 'href="/serving-cost/"' not in html_of(make_user("contributor"), "/scaling/")


def test_what_is_not_reached_is_said(served: ServedModel) -> None:
    ScalingState.objects.update(failure="ZeroDivisionError: no <rate>")
    for path in ("/scaling/", f"/scaling/{MODEL}/"):
        assert "ZeroDivisionError: no &lt;rate&gt;" in html_of(make_user(), path)


def test_without_a_served_model_the_page_says_what_to_do() -> None:
    assert "gainshare scale set" in html_of(make_user(), "/scaling/")
    html_of(make_user(), "/scaling/other/", status=404)


def test_a_model_without_a_pass_has_a_page() -> None:
    serve(make_class())
    assert "no decision yet" in html_of(make_user(), "/scaling/")
    assert "No decision yet" in html_of(make_user(), f"/scaling/{MODEL}/?hours=72")


def test_the_plot_begins_with_the_last_decision_before_it(served: ServedModel) -> None:
    Decision.objects.update(created_at=timezone.now() - timedelta(hours=5))
    (before,) = points_of(served, timezone.now() - timedelta(hours=1))
    assert (before.wanted, before.reason) == (2, "")
    assert "<circle" not in html_of(make_user(), f"/scaling/{MODEL}/?hours=1")
    assert "<circle" in html_of(make_user(), f"/scaling/{MODEL}/?hours=6")
    assert "<circle" in html_of(make_user(), f"/scaling/{MODEL}/?hours=x")


def test_cost_stands_beside_revenue_for_maintainers_alone() -> None:
    now = timezone.now()
    assert "Nothing was served yet" in html_of(make_user(), "/serving-cost/")
    ran(now - timedelta(minutes=1), None, price=60_000_000)
    used(make_user("contributor"), now, prompt=400_000, completion=100_000, charged=1_500_000)
    html = html_of(make_user(), "/serving-cost/")
    assert "class-60000000" in html and "500000" in html and "3" in html and "<svg" in html
    assert "Only maintainers" in html_of(make_user("contributor"), "/serving-cost/", status=403)
