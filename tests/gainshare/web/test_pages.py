"""The shell's pages with Django's client: signing up and in, keys, credits, usage, errors."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.template import Context, Template
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import create_api_key, create_user
from gainshare.gateway.models import UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import publish_price
from tests.gainshare.ledger.ledger_world import World

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "correct horse battery"


@pytest.fixture
def user() -> User:
    return create_user(username="kim", password=PASSWORD)


@pytest.fixture
def client(user: User) -> Client:
    signed_in = Client()
    signed_in.force_login(user)
    return signed_in


def html_of(client: Client, path: str, status: int = 200) -> str:
    response = client.get(path)
    assert response.status_code == status
    return response.content.decode()


@pytest.mark.parametrize("path", ["/account/", "/keys/", "/credits/", "/usage/", "/playground/"])
def test_private_pages_send_visitors_to_the_login_page(path: str) -> None:
    assert Client().get(path).headers["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize(
    "path", ["/", "/account/", "/account/password/", "/keys/", "/credits/", "/usage/", "/playground/"]
)
def test_every_page_is_complete_and_asks_no_one_else_for_anything(client: Client, path: str) -> None:
    html = html_of(client, path)
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    assert html.count("<h1") == 1
    loaded = re.findall(r'(?:src|href)="(https?:|//)[^"]*"', html)
    assert loaded == []
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", html)


def test_home_leads_each_kind_of_person_somewhere(client: Client) -> None:
    html = html_of(Client(), "/")
    for target in ("/bounties/", "/signup/", "/api/docs/"):
        assert f'href="{target}"' in html
    assert 'href="/playground/"' in html_of(client, "/")


def test_signing_up_logs_in_and_leads_back() -> None:
    client = Client()
    form = {"username": "ada", "password": PASSWORD, "password_again": PASSWORD, "next": "/keys/"}
    assert client.post("/signup/", form).headers["Location"] == "/keys/"
    assert "ada" in html_of(client, "/keys/")
    assert User.objects.get(username="ada").role == "contributor"


def test_signing_up_leads_to_no_other_site() -> None:
    form = {"username": "ada", "password": PASSWORD, "password_again": PASSWORD}
    response = Client().post("/signup/", {**form, "next": "https://evil.example/"})
    assert response.headers["Location"] == "/"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"username": "kim"}, "is taken"),
        ({"username": "a b"}, "valid username"),
        ({"password": "short", "password_again": "short"}, "too short"),
        ({"password_again": "another one altogether"}, "differ"),
        ({"email": "nobody"}, "valid email"),
    ],
)
def test_a_sign_up_that_cannot_be_says_why(user: User, changes: dict[str, str], complaint: str) -> None:
    form = {"username": "ada", "password": PASSWORD, "password_again": PASSWORD, **changes}
    assert complaint in Client().post("/signup/", form).content.decode()
    assert User.objects.count() == 1


def test_a_closed_site_takes_no_one_in(settings: Settings) -> None:
    settings.OPEN_SIGNUP = False
    assert "Sign-up is closed" in html_of(Client(), "/signup/", 403)
    form = {"username": "ada", "password": PASSWORD, "password_again": PASSWORD}
    assert Client().post("/signup/", form).status_code == 403
    assert not User.objects.exists()
    for path in ("/", "/login/"):
        assert 'href="/signup/' not in html_of(Client(), path)


def test_logging_in_and_out(user: User) -> None:
    client = Client()
    wrong = client.post("/login/", {"username": "kim", "password": "wrong"})
    assert "correct username and password" in wrong.content.decode()
    right = {"username": "kim", "password": PASSWORD, "next": "/credits/"}
    assert client.post("/login/", right).headers["Location"] == "/credits/"
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").status_code == 302
    assert client.get("/credits/").status_code == 302


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scopes": []}, "at least one permission"),
        ({"scopes": ["maintain"]}, "not one of the available choices"),
        ({"name": ""}, "required"),
        ({"lifetime": "9999"}, "valid choice"),
    ],
)
def test_a_key_that_cannot_be_says_why(client: Client, changes: dict[str, Any], complaint: str) -> None:
    response = client.post("/keys/", {"name": "x", "scopes": ["read"], "lifetime": "", **changes})
    html = response.content.decode()
    assert response.status_code == 400 and complaint in html
    (field,) = changes
    assert (
        re.search(rf'aria-describedby="[^"]*\bid_{field}_error\b', html) and f'id="id_{field}_error"' in html
    )
    assert not ApiKey.objects.exists()


def test_users_revoke_only_their_own_keys(client: Client, user: User) -> None:
    client.post("/keys/", {"name": "laptop", "scopes": ["read"], "lifetime": ""})
    key = ApiKey.objects.get()
    stranger = Client()
    stranger.force_login(create_user(username="eve", password=PASSWORD))
    stranger.post(f"/keys/{key.prefix}/revoke/")
    key.refresh_from_db()
    assert key.revoked_at is None
    client.post(f"/keys/{key.prefix}/revoke/")
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert "revoked" in html_of(client, "/keys/")


def test_credits_show_balance_lots_holds_and_movements(client: Client, user: User) -> None:
    assert "No credits yet" in html_of(client, "/credits/")
    world = World(funded=1_000_000_000)
    world.grant(user, 2_500_000, source="starter", memo="Welcome")
    world.grant(world.ann, 777_000_000, memo="another user's")
    ledger.open_hold(
        hold_id=uuid4(),
        user=user,
        amount_microcredits=500_000,
        expires_at=timezone.now() + timedelta(minutes=5),
        reference="request:x",
    )
    html = html_of(client, "/credits/")
    assert "<dd>2<" in html and "<dd>0.5<" in html
    assert "Starter" in html and "Welcome" in html
    assert "+2.5" in html and "(\N{MINUS SIGN}0.5)" in html
    assert "another user" not in html


@pytest.fixture
def record(user: User) -> UsageRecord:
    world = World()
    price = publish_price(
        model="tiny",
        effective_at=timezone.now(),
        cached_input=1,
        fresh_input=2_000_000,
        output=4_000_000,
        actor=world.maintainer,
    )
    now = timezone.now()
    return UsageRecord.objects.create(
        user=user,
        key_prefix="0123456789ab",
        endpoint="chat/completions",
        model="tiny",
        is_stream=True,
        status="completed",
        max_tokens=50,
        prompt_tokens=10,
        completion_tokens=30,
        engine={"queued_ms": 1, "decode_ms": 2500},
        price=price,
        hold_microcredits=220,
        bill_lines=[{"item": "output", "quantity": 30, "unit_price": 4_000_000, "amount": 120}],
        billed_microcredits=120,
        charged_microcredits=120,
        expires_at=now,
        finished_at=now,
        settled_at=now,
    )


def test_usage_shows_each_request_with_its_bill(client: Client, record: UsageRecord) -> None:
    assert f"/usage/{record.pk}/" in html_of(client, "/usage/")
    html = html_of(client, f"/usage/{record.pk}/")
    assert "0.00012" in html and "Writing the answer" in html and "2.500 s" in html


def test_a_bill_says_how_windows_tiers_and_the_cap_made_its_lines(
    client: Client, record: UsageRecord
) -> None:
    record.bill_lines = [
        {
            "item": "output",
            "quantity": 10,
            "unit_price": 4_000_000,
            "amount": 28,
            "parts": [[500_000, 6], [1_000_000, 4]],
        },
        {"item": "long_output", "quantity": 3, "unit_price": 1_000_000, "amount": 3},
        {
            "item": "memory",
            "quantity": 3 * 10**12,
            "unit_price": 2,
            "amount": 5,
            "parts": [[3, 2 * 10**12], [2, 10**12]],
        },
    ]
    record.prompt_hour, record.output_hours = 21, [[21, 0, 4], [22, 0, 6]]
    record.kv_bytes_per_token, record.kv_byte_ms = 512, 3 * 10**12
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert "6 at 50 %, 4 at 100 %" in html and "Long context, output" in html
    assert "2 GB·s at 0.000003, limited to its share of the tokens" in html
    assert "first at 21 h, 4 at 21 h, 6 at 22 h (UTC)" in html and "3 GB·s, at 512 bytes a token" in html
    record.kv_bytes_per_token = 0
    record.save()
    assert "not known for this model, so it costs nothing" in html_of(client, f"/usage/{record.pk}/")


def test_a_running_request_is_followed_to_the_millisecond(client: Client, record: UsageRecord) -> None:
    record.status, record.finished_at, record.settled_at, record.bill_lines = "running", None, None, []
    record.engine = {"queued_ms": 1, "prefill_ms": 20, "decode_ms": 2500, "device_ms": 1207}
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert f'data-live-url="/usage/{record.pk}/live/"' in html and "web/usage.js" in html
    live = client.get(f"/usage/{record.pk}/live/")
    times = dict(live.json()["times"])
    assert (live.json()["state"], live.json()["tokens"]) == ("running", 30)
    assert (times["Waiting in the queue"], times["Its share of the device"]) == ("0.001 s", "1.207 s")
    assert "Running for" in times and "no-store" in live.headers["Cache-Control"]
    stranger = Client()
    assert stranger.get(f"/usage/{record.pk}/live/").status_code == 302
    stranger.force_login(create_user(username="eve", password=PASSWORD))
    assert stranger.get(f"/usage/{record.pk}/live/").status_code == 404


def test_a_request_that_is_being_settled_is_followed_until_it_is_charged(
    client: Client, record: UsageRecord
) -> None:
    record.settled_at, record.charged_microcredits = None, 0
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert '<td class="num">being settled</td>' in html and 'data-state="being_settled"' in html
    assert f'data-live-url="/usage/{record.pk}/live/"' in html and "web/usage.js" in html
    assert client.get(f"/usage/{record.pk}/live/").json()["state"] == "being_settled"
    html = html_of(client, "/usage/")
    assert "not yet" in html and '<span class="badge badge-busy">being settled</span>' in html
    record.settled_at, record.charged_microcredits = timezone.now(), 120
    record.save()
    assert client.get(f"/usage/{record.pk}/live/").json()["state"] == "completed"
    html = html_of(client, f"/usage/{record.pk}/")
    assert '<td class="num">0.00012</td>' in html and "data-live-url" not in html
    assert "not yet" not in html_of(client, "/usage/")


def test_a_request_without_a_bill_is_followed_until_it_is_settled(
    client: Client, record: UsageRecord
) -> None:
    record.bill_lines, record.billed_microcredits, record.charged_microcredits = [], 0, 0
    record.status, record.settled_at = "failed", None
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert "has ended and is being settled" in html and "data-live-url" in html
    record.settled_at = timezone.now()
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert "Nothing was billed" in html and "data-live-url" not in html


@pytest.mark.parametrize("engine", [{}, {"decode_ms": "long", "queued_ms": None}])
def test_a_request_whose_node_counted_nothing_still_has_a_page(
    client: Client, record: UsageRecord, engine: dict[str, Any]
) -> None:
    record.engine = engine
    record.save()
    html = html_of(client, f"/usage/{record.pk}/")
    assert "From admission to the end" in html and "Writing the answer" not in html


def test_anothers_request_does_not_exist(record: UsageRecord) -> None:
    stranger = Client()
    stranger.force_login(create_user(username="eve", password=PASSWORD))
    assert "No requests yet" in html_of(stranger, "/usage/")
    html_of(stranger, f"/usage/{record.pk}/", 404)


def test_long_lists_have_pages(client: Client, record: UsageRecord) -> None:
    for _ in range(55):
        record.pk = uuid4()
        record.save(force_insert=True)
    assert "Page 1 of 2" in html_of(client, "/usage/")
    assert "Page 2 of 2" in html_of(client, "/usage/?page=2")
    assert "This list has only 2 pages, so there is no page 99." in html_of(client, "/usage/?page=99", 404)


def test_keys_that_work_come_first_and_a_new_one_comes_with_an_example(client: Client, user: User) -> None:
    for number in range(52):
        create_api_key(user=user, name=f"old {number}", scopes=["read"])
    ApiKey.objects.filter(name="old 51").update(revoked_at=timezone.now())
    ApiKey.objects.filter(name="old 50").update(expires_at=timezone.now() - timedelta(days=1))
    first = html_of(client, "/keys/")
    assert "Page 1 of 2" in first and "old 0<" in first and "old 51<" not in first and "old 50<" not in first
    second = html_of(client, "/keys/?page=2")
    assert "old 51<" in second and "old 50<" in second
    publish_price(
        model="tiny", effective_at=timezone.now(), cached_input=1, fresh_input=2, output=3, actor=None
    )
    for scope, has_example in (("inference", True), ("read", False)):
        form = {"name": scope, "scopes": [scope], "lifetime": ""}
        made = client.post("/keys/", form, follow=True).content.decode()
        assert ("/v1/chat/completions" in made) is has_example
        assert ("&quot;model&quot;: &quot;tiny&quot;" in made or '"model": "tiny"' in made) is has_example


def test_prices_stand_where_tokens_are_spent(client: Client) -> None:
    assert "No model has a price yet" in html_of(client, "/usage/")
    now = timezone.now()
    for days, output in ((-2, 7_000_000), (-1, 8_500_000), (+1, 9_000_000)):
        PriceVersion.objects.create(
            model="tiny",
            effective_at=now + timedelta(days=days),
            cached_input=250_000,
            fresh_input=2_000_000,
            output=output,
        )
    for path in ("/usage/", "/playground/"):
        html = html_of(client, path)
        assert ">8.5<" in html and ">0.25<" in html and ">7<" not in html
        assert html.count("announced: from") == 1 and ">9<" in html


def test_the_playground_says_that_merged_code_could_read_a_prompt(client: Client, user: User) -> None:
    html = html_of(client, "/playground/")
    assert "could read your prompt" in html and 'href="/deployments/"' in html


def test_many_lots_are_cut_short(client: Client, user: User) -> None:
    world = World(funded=1_000_000_000)
    for _ in range(53):
        world.grant(user, 1_000)
    assert "and 3 more, spent after these" in html_of(client, "/credits/")


def test_staff_sees_the_admin_and_others_do_not(client: Client) -> None:
    assert 'href="/admin/"' not in html_of(client, "/")
    staff = User.objects.create_superuser("root", password=PASSWORD)
    admin = Client()
    admin.force_login(staff)
    assert 'href="/admin/"' in html_of(admin, "/")


def test_a_missing_page_looks_like_the_site() -> None:
    html = html_of(Client(), "/nowhere/", 404)
    assert "There is nothing here" in html and "Gainshare" in html


def test_a_crash_shows_a_page_without_needing_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("gainshare.web.views.entrance.render", crash)
    response = Client(raise_request_exception=False).get("/")
    assert response.status_code == 500
    assert "Something failed on our side" in response.content.decode()
    assert "broken" not in response.content.decode()


def test_a_request_that_cannot_be_read_gets_a_page() -> None:
    response = Client().post("/login/", {f"field{i}": "x" for i in range(1001)})
    assert response.status_code == 400
    html = response.content.decode()
    assert "The request could not be read" in html and "Gainshare" in html


def test_times_say_their_zone() -> None:
    def rendered(filters: str, moment: datetime | None) -> str:
        return Template(f"{{% load shell %}}{{{{ moment|{filters} }}}}").render(Context({"moment": moment}))

    moment = datetime(2026, 3, 1, 0, 30, 5, tzinfo=timezone.get_fixed_timezone(120))
    stamp = '<time datetime="2026-02-28T22:30:05+00:00">'
    assert rendered("utc", moment) == f"{stamp}28 Feb 2026, 22:30 UTC</time>"
    assert rendered("utc_seconds", moment) == f"{stamp}28 Feb 2026, 22:30:05 UTC</time>"
    assert rendered('utc|default:"never"', None) == "never"


def test_no_page_shows_a_time_without_its_zone_or_a_cell_without_its_columns_name() -> None:
    """On a telephone the cells of a row are below each other, each beside the name of its column."""
    templates = [
        file for app in ("platform/gainshare", "bounty") for file in (ROOT / app).rglob("templates/**/*.html")
    ]
    assert len(templates) > 20
    for file in templates:
        text = file.read_text()
        assert not re.search(r"\|date:[\"'][^\"']*H:i", text), f"{file.name}: use |utc or |utc_seconds"
        for body in re.findall(r"<tbody>.*?</tbody>", text, re.DOTALL):
            assert "<td" in body and not re.search(r"<td(?! data-label=\"[^\"]+\")", body), file.name


def test_badges_are_escaped_and_toned() -> None:
    def rendered(state: str) -> str:
        return Template("{% load shell %}{{ state|badge }}").render(Context({"state": state}))

    assert rendered("no_gain") == '<span class="badge badge-plain">no gain</span>'
    assert "badge-good" in rendered("gain") and "badge-bad" in rendered("wrong_output")
    assert "<b>" not in rendered("<b>")
