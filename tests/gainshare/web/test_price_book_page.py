"""The maintainers' page of prices: versions, drafts that publish nothing, and the notice of a rise."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import RISE_NOTICE, publish_price, table_of
from gainshare.ledger.pricing import PriceTable
from gainshare.web.forms.price_form import PriceForm, typed
from gainshare.web.price_words import format_gb_seconds, format_share, price_terms
from tests.gainshare.gateway.charged_world import GB_S, PRICES, Charged, over_midnight

pytestmark = pytest.mark.django_db
CREDITS = {"model": "tiny", "cached_input": "0.1", "fresh_input": "1", "output": "4"}
TERMS = {
    "long_above": "32000",
    "long_output": "0.5",
    "off_peak_windows": "22-6 50%\r\n12\N{EN DASH}13 33.3333",
    "memory_tiers": "1 0.00004\r\n10 0.00002\r\n",
    "memory_share": "20 %",
}
TABLE = PriceTable(
    **PRICES,
    long_above=32_000,
    long_output=500_000,
    off_peak_windows=[[12, 13, 333_333], [22, 6, 500_000]],
    memory_tiers=[[GB_S, 40], [10 * GB_S, 20]],
    memory_share_ppm=200_000,
)


@pytest.fixture
def charged() -> Charged:
    charged = Charged()
    charged.settled(charged.price(**PRICES), over_midnight())
    return charged


def client_of(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_only_maintainers_see_and_change_prices(charged: Charged) -> None:
    assert Client().get("/prices/").headers["Location"] == "/login/?next=/prices/"
    ann = client_of(charged.ann)
    assert ann.get("/prices/").status_code == 403
    assert ann.post("/prices/", {**CREDITS, "publish": "1"}).status_code == 403
    assert PriceVersion.objects.count() == 1


def test_a_draft_shows_the_last_month_and_publishes_nothing(charged: Charged) -> None:
    maintainer = client_of(charged.world.maintainer)
    html = maintainer.post("/prices/", {**CREDITS, **TERMS, "output": "3", "draft": "1"}).content.decode()
    assert "the last 30 days under this draft" in html and "not published" in html
    # 10 tokens at 3, of which 6 at half price; the memory of 3 GB·s: 2 x 40, at most a fifth of 27
    row = re.search(r"Output</td><td[^>]*>([\d.]+)</td><td[^>]*>([\d.]+)</td>", html)
    assert row is not None and row.groups() == ("0.00004", "0.000021")
    memory = re.search(r"Cache memory</td><td[^>]*>([\d.]+)</td><td[^>]*>([\d.]+)</td>", html)
    assert memory is not None and memory.groups() == ("0", "0.000005")
    assert "It can make bills dearer (long output, memory share, memory tiers)" in html
    assert PriceVersion.objects.count() == 1
    unused = maintainer.post("/prices/", {**CREDITS, "model": "other", "draft": "1"}).content.decode()
    assert "no requests in the last 30 days" in unused and "can take effect at once" in unused


def test_a_fall_is_published_at_once_and_a_rise_for_tomorrow(charged: Charged) -> None:
    maintainer = client_of(charged.world.maintainer)
    fall = maintainer.post("/prices/", {**CREDITS, "output": "3.5", "publish": "1"}, follow=True)
    assert "The price of tiny was published" in fall.content.decode()
    assert PriceVersion.objects.get(output=3_500_000).effective_at <= timezone.now()
    maintainer.post("/prices/", {**CREDITS, **TERMS, "publish": "1"})
    rise = PriceVersion.objects.get(memory_share_ppm=200_000)
    assert rise.effective_at == rise.created_at + RISE_NOTICE and table_of(rise) == TABLE
    html = maintainer.get("/prices/").content.decode()
    assert html.count("in force") == 1 and html.count(">announced<") == 1
    assert "Hours in UTC: 12\N{EN DASH}13 at 33.3333 %, 22\N{EN DASH}06 at 50 %" in html
    assert "announced: from" in client_of(charged.ann).get("/usage/").content.decode()


def test_a_rise_that_is_too_soon_says_when_it_can_be(charged: Charged) -> None:
    maintainer = client_of(charged.world.maintainer)
    at = (timezone.now() + timedelta(hours=23)).strftime("%Y-%m-%dT%H:%M")
    answer = maintainer.post("/prices/", {**CREDITS, "output": "5", "effective_at": at, "publish": "1"})
    assert answer.status_code == 400
    html = answer.content.decode()
    assert 'id="id_effective_at_error"' in html and "24 hours after it is published" in html
    assert PriceVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"off_peak_windows": "at night"}, "is no window"),
        ({"off_peak_windows": "22-6 50\n5-7 10"}, "must not overlap"),
        ({"off_peak_windows": "22-26 50"}, "hours from 0 to 24"),
        ({"off_peak_windows": "1-2 150"}, "at most 1000000 millionths"),
        ({"memory_tiers": "many"}, "is no tier"),
        ({"memory_tiers": "1 1\n1 2"}, "ever more"),
        ({"memory_tiers": "1 x"}, "not an amount"),
        ({"memory_share": "a fifth"}, "per cent from 0 to 100"),
        ({"memory_share": "101"}, "per cent from 0 to 100"),
        ({"memory_share": "NaN"}, "per cent from 0 to 100"),
        ({"memory_share": "1e99999999"}, "per cent from 0 to 100"),
        ({"long_above": "-1"}, "greater than or equal"),
        ({"output": "1.000"}, "two ways"),
        ({"output": ""}, "required"),
    ],
    ids=repr,
)
def test_a_form_that_cannot_be_says_why(charged: Charged, changes: dict[str, str], complaint: str) -> None:
    answer = client_of(charged.world.maintainer).post(
        "/prices/", {**CREDITS, **TERMS, **changes, "publish": "1"}
    )
    assert answer.status_code == 400 and complaint in answer.content.decode()
    assert PriceVersion.objects.count() == 1


def test_the_form_begins_with_the_price_in_force_and_reads_back_the_same(charged: Charged) -> None:
    price = publish_price(model="wide", effective_at=timezone.now(), actor=None, **vars(TABLE))
    form = PriceForm(typed(price))
    assert form.is_valid(), form.errors
    assert form.table == TABLE
    html = client_of(charged.world.maintainer).get("/prices/?model=wide").content.decode()
    assert "22-6 50%" in html and 'value="32000"' in html
    assert client_of(charged.world.maintainer).get("/prices/?model=none").status_code == 200


def test_terms_and_figures_in_words() -> None:
    assert price_terms(PriceTable(1, 2, 3)) == []
    assert price_terms(TABLE) == [
        "Hours in UTC: 12\N{EN DASH}13 at 33.3333 %, 22\N{EN DASH}06 at 50 %",
        "Each token above 32,000: +0.5 answer",
        "Cache memory: above 1 GB·s 0.00004 per GB·s, above 10 GB·s 0.00002 per GB·s; at most 20 % of the tokens",
    ]
    assert (format_share(1), format_share(1_000_000)) == ("0.0001 %", "100 %")
    assert format_gb_seconds(GB_S // 2) == "0.5 GB·s"
