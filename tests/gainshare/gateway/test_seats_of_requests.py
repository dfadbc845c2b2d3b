"""The seat of a request in its admission and its settling: one statement each, in transactions that exist anyway."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Seat
from gainshare.capacity.routing.seats import Candidate, SeatRequest
from gainshare.gateway import services
from gainshare.gateway.errors import NoCredits, Overloaded, TooManyRequests
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.requests import Endpoint, read_request
from gainshare.ledger import services as ledger
from gainshare.ledger.models import Hold, PriceVersion
from gainshare.ledger.price_book import publish_price
from tests.gainshare.ledger.ledger_world import World

pytestmark = pytest.mark.django_db
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
GRANTED = 100_000


class Asking:
    """Ann, who asks with a key and a seat."""

    def __init__(self) -> None:
        self.world = World()
        self.world.grant(self.world.ann, GRANTED)
        self.price: PriceVersion = publish_price(
            model="tiny", effective_at=timezone.now(), actor=self.world.maintainer, **PRICES
        )
        key, _ = create_api_key(user=self.world.ann, name="test", scopes=["inference"])
        self.payer = services.Payer(self.world.ann, key.prefix)

    def seat(self, **changes: Any) -> SeatRequest:
        values: dict[str, Any] = {
            "process": uuid4(),
            "account": self.world.ann.pk,
            "model": "tiny",
            "priority": 0,
            "prompt_tokens": 10,
            "expected_tokens": 5,
            "account_limit": 2,
            "queue_limit": 1,
            "nodes": (Candidate("a", 1, "h100"),),
        }
        return SeatRequest(**{**values, **changes})

    def admit(self, seat: SeatRequest | None, request_id: UUID | None = None) -> services.Admission:
        body = b'{"model": "tiny", "prompt": "x", "max_tokens": 50, "stream": true}'
        return services.admit(
            payer=self.payer,
            request=read_request(body, Endpoint.COMPLETIONS),
            request_id=request_id or uuid4(),
            price=self.price,
            prompt_tokens=10,
            max_context=512,
            seat=seat,
        )


@pytest.fixture
def ann() -> Asking:
    return Asking()


def test_a_seat_costs_one_statement_at_the_start_and_one_at_the_end(ann: Asking) -> None:
    ann.admit(None)  # what is cached at first use is
    with CaptureQueriesContext(connection) as without:
        ann.admit(None)
    with CaptureQueriesContext(connection) as seated:
        admission = ann.admit(ann.seat())
    assert len(seated) == len(without) + 1
    assert (admission.node, Seat.objects.get().device_class) == ("a", "h100")
    services.record_outcome(
        request_id=admission.request_id,
        status=RequestStatus.COMPLETED,
        metered=Metered(10, 0, 3),
        node="a",
        device_class="h100",
    )
    with CaptureQueriesContext(connection) as settling:
        services.settle(request_id=admission.request_id)
    assert len([1 for query in settling if "capacity_seat" in query["sql"]]) == 1
    assert not Seat.objects.exists()
    record = UsageRecord.objects.get(pk=admission.request_id)
    assert (record.node, record.device_class) == ("a", "h100")


def test_a_refused_seat_leaves_no_hold(ann: Asking) -> None:
    for _ in range(2):
        ann.admit(ann.seat())
    for changes, error in (({}, TooManyRequests), ({"account_limit": 9}, Overloaded)):
        before = ledger.balance(ann.world.ann).available
        with pytest.raises(error):
            ann.admit(ann.seat(**changes))
        assert ledger.balance(ann.world.ann).available == before
    assert Hold.objects.count() == Seat.objects.count() == UsageRecord.objects.count() == 2


def test_too_few_credits_leave_no_seat(ann: Asking) -> None:
    ann.payer = services.Payer(ann.world.bob, ann.payer.key_prefix)
    with pytest.raises(NoCredits):
        ann.admit(ann.seat(account=ann.world.bob.pk))
    with pytest.raises(NoCredits):
        services.wait_in_front(payer=ann.payer, price=ann.price, request_id=uuid4(), seat=ann.seat())
    assert not Seat.objects.exists()


def test_a_request_that_waited_in_front_is_admitted_with_its_seat(ann: Asking) -> None:
    request_id = uuid4()
    front = ann.seat(nodes=(), account_limit=1)
    services.wait_in_front(payer=ann.payer, price=ann.price, request_id=request_id, seat=front)
    assert Seat.objects.get().node == ""
    assert not Hold.objects.exists()
    admission = ann.admit(ann.seat(account_limit=1, prompt_tokens=33), request_id)
    assert admission.node == "a"
    assert Seat.objects.get().prompt_tokens == 33


def test_beat_frees_the_seat_of_a_request_whose_process_is_gone(ann: Asking) -> None:
    admission = ann.admit(ann.seat())
    record = UsageRecord.objects.get(pk=admission.request_id)
    services.settle_outstanding(now=record.expires_at + 2 * services.GRACE)
    assert not Seat.objects.exists()
