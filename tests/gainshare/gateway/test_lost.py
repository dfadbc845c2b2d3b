"""Requests whose web process is gone: its recorded usage is billed once, and later calls change nothing."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import create_api_key, revoke_api_key
from gainshare.gateway import services
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.requests import Endpoint, read_request
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import HoldState
from gainshare.ledger.models import Hold
from gainshare.ledger.price_book import publish_price
from tests.gainshare.ledger.ledger_world import World

pytestmark = pytest.mark.django_db
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
PROMPT = 10  # tokens
GRANTED = 100_000


@pytest.fixture
def world() -> World:
    world = World()
    world.grant(world.ann, GRANTED)
    return world


def running(world: World, *, is_stream: bool = True) -> UUID:
    """The id of a request of Ann's that was admitted just now."""
    body = b'{"model": "tiny", "prompt": "x", "max_tokens": 50, "stream": %s}'
    price = publish_price(model="tiny", effective_at=timezone.now(), actor=world.maintainer, **PRICES)
    key, _ = create_api_key(user=world.ann, name="test", scopes=["inference"])
    admission = services.admit(
        payer=services.Payer(world.ann, key.prefix),
        request=read_request(body % (b"true" if is_stream else b"false"), Endpoint.COMPLETIONS),
        request_id=uuid4(),
        price=price,
        prompt_tokens=PROMPT,
        max_context=512,
    )
    return admission.request_id


def delivered(tokens: int) -> Metered:
    return Metered(prompt_tokens=PROMPT, cached_tokens=4, completion_tokens=tokens, engine={"device_ms": 1.5})


def sweep(request_id: UUID, *, late: timedelta = services.GRACE + timedelta(seconds=1)) -> UsageRecord:
    """Run beat's repair this long after the request's deadline; return the record."""
    now = UsageRecord.objects.get(pk=request_id).expires_at + late
    ledger.expire_holds(now=now)  # the worse order of the two
    services.settle_outstanding(now=now)
    return UsageRecord.objects.get(pk=request_id)


def test_what_was_noted_of_a_stream_is_billed_once(world: World) -> None:
    request_id = running(world)
    assert services.record_progress(request_id=request_id, metered=delivered(3))
    assert services.record_progress(request_id=request_id, metered=delivered(7))
    for _ in range(2):
        record = sweep(request_id)
        assert (record.status, record.error_code) == (RequestStatus.FAILED, "gateway_lost")
        # 4 cached tokens cost 0.4 micro-credits, which is floored; 6 fresh ones 6, and 7 of output 28.
        assert record.charged_microcredits == record.billed_microcredits == 34
        assert [line["quantity"] for line in record.bill_lines] == [4, 6, 7]
        assert record.engine == {"device_ms": 1.5}
        assert ledger.balance(world.ann).available == GRANTED - 34


def test_a_sweep_that_comes_too_late_charges_nothing(world: World) -> None:
    request_id = running(world)
    services.record_progress(request_id=request_id, metered=delivered(7))
    record = sweep(request_id, late=services.REPAIR_TIME + timedelta(seconds=1))
    assert (record.billed_microcredits, record.charged_microcredits) == (34, 0)
    assert Hold.objects.get(pk=request_id).state == HoldState.EXPIRED
    assert ledger.balance(world.ann).available == GRANTED


def test_a_request_that_may_still_run_is_left_alone(world: World) -> None:
    request_id = running(world)
    services.record_progress(request_id=request_id, metered=delivered(7))
    record = sweep(request_id, late=services.GRACE - timedelta(seconds=1))
    assert record.status == RequestStatus.RUNNING
    assert Hold.objects.get(pk=request_id).state == HoldState.OPEN


@pytest.mark.parametrize("is_stream", [True, False])
def test_nothing_delivered_costs_nothing(world: World, is_stream: bool) -> None:
    request_id = running(world, is_stream=is_stream)
    if not is_stream:  # what is not streamed reaches no one before its end
        services.record_progress(request_id=request_id, metered=delivered(7))
    record = sweep(request_id)
    assert (record.billed_microcredits, record.charged_microcredits, record.completion_tokens) == (0, 0, 0)
    assert Hold.objects.get(pk=request_id).state == HoldState.VOIDED
    assert ledger.balance(world.ann).available == GRANTED


def test_an_answer_continues_while_its_key_is_valid(world: World) -> None:
    request_id = running(world)
    assert services.follow(request_id=request_id, metered=delivered(3))
    key = ApiKey.objects.get(user=world.ann)
    for fields in ({"is_active": False}, {"is_active": True}):
        User.objects.filter(pk=world.ann.pk).update(**fields)
        assert services.follow(request_id=request_id, metered=delivered(3)) == fields["is_active"]
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert services.follow(request_id=request_id, metered=delivered(3))
    create_api_key(user=world.ann, name="another", scopes=["inference"])
    revoke_api_key(user=world.ann, prefix=key.prefix)
    assert not services.follow(request_id=request_id, metered=delivered(3))


def test_a_count_that_comes_late_or_is_lower_changes_nothing(world: World) -> None:
    request_id = running(world)
    services.record_progress(request_id=request_id, metered=delivered(7))
    assert not services.record_progress(request_id=request_id, metered=delivered(7))
    assert not services.record_progress(request_id=request_id, metered=delivered(5))
    assert UsageRecord.objects.get(pk=request_id).completion_tokens == 7
    services.record_outcome(request_id=request_id, status=RequestStatus.COMPLETED, metered=delivered(9))
    assert not services.record_progress(request_id=request_id, metered=delivered(12))
    services.settle(request_id=request_id)
    record = sweep(request_id)
    assert (record.status, record.completion_tokens) == (RequestStatus.COMPLETED, 9)
    assert record.charged_microcredits == 6 + 9 * 4
