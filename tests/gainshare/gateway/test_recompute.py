"""Every charge can be computed again from its row and its price version, bit for bit; what was changed is named."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gainshare.cli.main import app
from gainshare.cli.maintainer import audit as audit_command
from gainshare.gateway import services
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.recompute import READING, recompute
from gainshare.ledger import services as ledger
from gainshare.ledger.price_book import publish_price
from gainshare.ledger.pricing import Arrival, Usage, bill
from tests.gainshare.gateway.charged_world import ALL_TERMS, GB_S, PRICES, PROMPT, Charged, over_midnight

pytestmark = pytest.mark.django_db


@pytest.fixture
def charged() -> Charged:
    return Charged()


def test_a_bill_over_a_border_of_windows_and_the_whole_row_that_explains_it(charged: Charged) -> None:
    record = charged.settled(charged.price(), over_midnight())
    assert (record.prompt_hour, record.output_hours) == (21, [[21, 0, 4], [22, 0, 6]])
    assert (record.kv_byte_ms, record.kv_bytes_per_token) == (3 * GB_S, 512)
    lines = {line["item"]: line["amount"] for line in record.bill_lines}
    # 4 x 4 and 6 x 4 at half price; 8 tokens are above 12, of which 6 at half price; memory 2 x 3 + 1 x 2
    assert lines == {"cached_input": 0, "fresh_input": 6, "output": 28, "long_output": 5, "memory": 8}
    assert record.charged_microcredits == record.billed_microcredits == 47 <= record.hold_microcredits
    result = recompute()
    assert (result.requests, result.charged_microcredits, result.differences) == (1, 47, ())


OUTCOMES: list[dict[str, Any]] = [
    {"metered": Metered(), "status": RequestStatus.CANCELLED},
    {"metered": Metered(PROMPT, 0, 0, {}, 3), "status": RequestStatus.CANCELLED},
    {
        "metered": Metered(engine={"queued_ms": 3}),
        "status": RequestStatus.FAILED,
        "error_code": "node_failed",
    },
    {"metered": over_midnight(), "status": RequestStatus.FAILED},
    {"metered": over_midnight(50, 0)},
    {"metered": over_midnight(kv_byte_ms=2**63 - 1)},
    {"metered": Metered(PROMPT, 10, 7, {}, None, (), GB_S)},
]


@pytest.mark.parametrize("terms", [PRICES, ALL_TERMS], ids=["neutral", "all terms"])
def test_every_outcome_recomputes(charged: Charged, terms: dict[str, Any]) -> None:
    price = charged.price(**terms)
    for outcome in OUTCOMES:
        charged.settled(price, **outcome)
    charged.admit(price)  # still runs
    result = recompute()
    assert (result.requests, result.differences) == (len(OUTCOMES), ())
    assert result.charged_microcredits == sum(
        UsageRecord.objects.values_list("charged_microcredits", flat=True)
    )


def test_a_hold_that_expired_took_nothing_and_that_is_right(charged: Charged) -> None:
    request_id = charged.admit(charged.price())
    services.record_outcome(request_id=request_id, status=RequestStatus.COMPLETED, metered=over_midnight())
    ledger.expire_holds(now=timezone.now() + timedelta(days=1))
    services.settle(request_id=request_id)
    assert recompute().differences == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"completion_tokens": 11}, "bill_lines"),
        ({"cached_tokens": 5}, "bill_lines"),
        ({"prompt_hour": 22}, "bill_lines"),
        ({"output_hours": [[22, 0, 10]]}, "bill_lines"),
        ({"output_hours": [[22, 0, 11]]}, "counts"),
        ({"output_hours": [[24, 0, 1]]}, "counts"),
        ({"output_hours": [["22", 0, 1]]}, "counts"),
        ({"output_hours": [[22, 0]]}, "counts"),
        ({"output_hours": 5}, "counts"),
        ({"kv_byte_ms": 0}, "bill_lines"),
        ({"counted_prompt_tokens": 0}, "counts"),
        ({"billed_microcredits": 48}, "billed_microcredits"),
        ({"charged_microcredits": 46}, "charged_microcredits"),
        ({"hold_microcredits": 500}, "hold_microcredits"),
        ({"max_tokens": 49}, "hold_microcredits"),
        ({"bill_lines": []}, "bill_lines"),
    ],
    ids=repr,
)
def test_what_was_changed_is_named(charged: Charged, changes: dict[str, Any], named: str) -> None:
    price = charged.price()
    charged.settled(price, over_midnight())
    changed = charged.settled(price, over_midnight())
    UsageRecord.objects.filter(pk=changed.pk).update(**changes)
    found = recompute().differences
    assert {each.request_id for each in found} == {str(changed.pk)}
    assert named in {each.what for each in found}


def test_another_price_version_is_another_bill(charged: Charged) -> None:
    first = charged.price()
    record = charged.settled(first, over_midnight())
    other = charged.price(**{**ALL_TERMS, "output": 3_999_999, "memory_share_ppm": 0})
    UsageRecord.objects.filter(pk=record.pk).update(price=other)
    assert {each.what for each in recompute().differences} >= {"bill_lines", "hold_microcredits"}


def test_a_row_that_agrees_with_a_version_no_longer_in_force_is_found(charged: Charged) -> None:
    """Bill, hold and ledger all follow the old version, so that only its time tells."""
    old = charged.price()
    new = charged.price(**{**ALL_TERMS, "output": 3_999_999, "memory_share_ppm": 0})
    record = charged.settled(old, over_midnight())
    good = charged.settled(new, over_midnight())
    assert recompute().differences == ()  # the price was read just before the admission
    UsageRecord.objects.update(created_at=new.created_at + timedelta(hours=1))
    (found,) = recompute().differences
    assert (found.request_id, found.what) == (str(record.pk), "price")
    assert f"version {old.pk} " in found.stored and f"version {new.pk} " in found.recomputed
    UsageRecord.objects.update(created_at=new.created_at + READING)
    assert {each.request_id for each in recompute().differences} == {str(record.pk)}
    UsageRecord.objects.update(created_at=new.created_at + READING - timedelta(milliseconds=1))
    assert recompute().differences == ()
    assert good.price == new


def test_a_version_that_was_published_later_is_found(charged: Charged) -> None:
    price = charged.price()
    charged.settled(price, over_midnight())
    UsageRecord.objects.update(created_at=price.effective_at - timedelta(hours=1))
    (found,) = recompute().differences
    assert (found.what, found.recomputed) == ("price", "no version was in force")


def test_a_version_of_another_model_is_found(charged: Charged) -> None:
    own = charged.price()
    other = publish_price(
        model="other", effective_at=own.effective_at, actor=charged.world.maintainer, **ALL_TERMS
    )
    charged.settled(other, over_midnight())
    (found,) = recompute().differences
    assert found.what == "price" and "of other" in found.stored and "of tiny" in found.recomputed


def test_versions_are_read_once_for_all_rows(charged: Charged) -> None:
    price = charged.price()
    charged.settled(price, over_midnight())
    with CaptureQueriesContext(connection) as one:
        recompute()
    for _ in range(5):
        charged.settled(price, over_midnight())
    with CaptureQueriesContext(connection) as six:
        recompute()
    assert len(one) == len(six)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    split=st.lists(st.tuples(st.integers(0, 23), st.integers(0, 9)), max_size=5),
    memory=st.integers(0, 2**63 - 1),
    hour=st.none() | st.integers(0, 23),
    cached=st.integers(0, PROMPT),
)
def test_any_split_over_hours_recomputes_from_the_database(
    charged: Charged, split: list[tuple[int, int]], memory: int, hour: int | None, cached: int
) -> None:
    arrivals = tuple(Arrival(at, 0, tokens) for at, tokens in split if tokens)
    metered = Metered(PROMPT, cached, sum(each.tokens for each in arrivals), {}, hour, arrivals, memory)
    record = charged.settled(charged.price(), metered)
    usage = Usage(cached, PROMPT - cached, metered.completion_tokens, hour, arrivals, memory)
    assert record.charged_microcredits == bill(usage, record.price).total
    assert recompute(records=UsageRecord.objects.filter(pk=record.pk)).differences == ()


# -- a process that is killed -----------------------------------------------------------------------


def test_a_process_killed_after_midnight_bills_the_windows_it_noted(charged: Charged) -> None:
    request_id = charged.admit(charged.price())
    services.record_progress(request_id=request_id, metered=over_midnight(4, 0, kv_byte_ms=GB_S))
    services.record_progress(request_id=request_id, metered=over_midnight(4, 3, kv_byte_ms=2 * GB_S))
    services.record_progress(request_id=request_id, metered=over_midnight(4, 2, kv_byte_ms=9 * GB_S))  # late
    now = UsageRecord.objects.get(pk=request_id).expires_at + services.GRACE + timedelta(seconds=1)
    services.settle_outstanding(now=now)
    record = UsageRecord.objects.get(pk=request_id)
    assert (record.error_code, record.output_hours) == ("gateway_lost", [[21, 0, 4], [22, 0, 3]])
    assert {line["item"]: line["amount"] for line in record.bill_lines} == {
        "cached_input": 0, "fresh_input": 6, "output": 22, "long_output": 3, "memory": 6,
    }  # fmt: skip
    assert recompute().differences == ()


def test_a_killed_answer_that_was_not_streamed_costs_nothing(charged: Charged) -> None:
    request_id = charged.admit(charged.price(), is_stream=False)
    services.record_progress(request_id=request_id, metered=over_midnight())
    now = UsageRecord.objects.get(pk=request_id).expires_at + services.GRACE + timedelta(seconds=1)
    services.settle_outstanding(now=now)
    record = UsageRecord.objects.get(pk=request_id)
    assert (record.charged_microcredits, record.output_hours, record.kv_byte_ms) == (0, [], 0)
    assert recompute().differences == ()


# -- rows of before ---------------------------------------------------------------------------------

BEFORE = [("gateway", "0002_request_ends_before_its_hold")]


@pytest.fixture
def old_schema(transactional_db: None) -> Iterator[None]:
    """The gateway's tables as they were before windows and memory; migrated at the end."""
    newest = [key for key in MigrationExecutor(connection).loader.graph.leaf_nodes() if key[0] == "gateway"]
    try:
        yield
    finally:
        MigrationExecutor(connection).migrate(newest)


@pytest.mark.django_db(transaction=True)
def test_rows_of_before_recompute_exactly_after_the_migration(old_schema: None) -> None:
    charged = Charged()
    price = charged.price(**PRICES)
    for outcome in OUTCOMES[:4]:
        charged.settled(price, **outcome)
    running = charged.admit(price)
    services.record_progress(request_id=running, metered=over_midnight(3, 0))
    newest = [key for key in MigrationExecutor(connection).loader.graph.leaf_nodes() if key[0] == "gateway"]
    MigrationExecutor(connection).migrate(BEFORE)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM gateway_usagerecord")
        assert cursor.fetchone() == (5,)
    MigrationExecutor(connection).migrate(newest)
    result = recompute()
    assert (result.requests, result.differences) == (4, ())
    counted = UsageRecord.objects.order_by("created_at").values_list("counted_prompt_tokens", flat=True)
    assert list(counted) == [0, PROMPT, 0, PROMPT, PROMPT]
    services.settle_outstanding(now=timezone.now() + timedelta(hours=1))
    record = UsageRecord.objects.get(pk=running)
    assert (record.billed_microcredits, record.prompt_hour) == (6 + 3 * 4, None)
    assert recompute().differences == ()


# -- the command ------------------------------------------------------------------------------------


def test_the_command_says_what_differs_by_its_status(
    charged: Charged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = charged.settled(charged.price(), over_midnight())
    run = CliRunner().invoke
    good = run(app, ["audit", "--recompute", "--json"])
    assert good.exit_code == 0, good.output
    recomputed = json.loads(good.stdout)["recomputed"]
    assert recomputed == {
        "requests": 1, "billed_microcredits": 47, "charged_microcredits": 47, "differences": [],
    }  # fmt: skip
    assert "recomputed" not in json.loads(run(app, ["audit", "--json"]).stdout)
    UsageRecord.objects.filter(pk=record.pk).update(charged_microcredits=46)
    assert run(app, ["audit"]).exit_code == 0  # the ledger itself holds
    bad = run(app, ["audit", "--recompute", "--json"])
    document = json.loads(bad.stdout)
    assert (bad.exit_code, document["holds"]) == (1, False)
    assert document["recomputed"]["differences"] == [
        {"request_id": str(record.pk), "what": "charged_microcredits", "stored": 46, "recomputed": 47}
    ]
    monkeypatch.setattr(audit_command.console, "width", 200)
    assert run(app, ["audit", "--recompute"]).exit_code == 1
