"""Requests that are admitted, metered and settled by the gateway's services, without a node."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import create_api_key
from gainshare.gateway import services
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.requests import Endpoint, read_request
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import publish_price
from gainshare.ledger.pricing import Arrival
from tests.gainshare.ledger.ledger_world import World

PROMPT = 10  # tokens
GB_S = 10**12
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
ALL_TERMS = {
    **PRICES,
    "long_above": 12,
    "long_fresh_input": 500_000,
    "long_output": 1_000_000,
    "off_peak_windows": [[22, 6, 500_000]],
    "memory_tiers": [[0, 3], [2 * GB_S, 2]],
    "memory_share_ppm": 300_000,
}


@dataclass
class Charged:
    """Ann's requests to the model `tiny`."""

    world: World = field(default_factory=World)
    key: ApiKey = field(init=False)

    def __post_init__(self) -> None:
        self.world.grant(self.world.ann, 500_000)
        self.key, _ = create_api_key(user=self.ann, name="test", scopes=["inference"])

    @property
    def ann(self) -> User:
        return self.world.ann

    def price(self, **terms: Any) -> PriceVersion:
        return publish_price(
            model="tiny", effective_at=timezone.now(), actor=self.world.maintainer, **(terms or ALL_TERMS)
        )

    def admit(self, price: PriceVersion, *, is_stream: bool = True, max_tokens: int = 50) -> UUID:
        body = b'{"model": "tiny", "prompt": "x", "max_tokens": %d, "stream": %s}'
        return services.admit(
            payer=services.Payer(self.ann, self.key.prefix),
            request=read_request(
                body % (max_tokens, b"true" if is_stream else b"false"), Endpoint.COMPLETIONS
            ),
            request_id=uuid4(),
            price=price,
            prompt_tokens=PROMPT,
            max_context=512,
        ).request_id

    def settled(self, price: PriceVersion, metered: Metered, **outcome: Any) -> UsageRecord:
        request_id = self.admit(price)
        services.record_outcome(
            request_id=request_id, **{"status": RequestStatus.COMPLETED, "metered": metered, **outcome}
        )
        services.settle(request_id=request_id)
        return UsageRecord.objects.get(pk=request_id)


def over_midnight(before: int = 4, after: int = 6, *, kv_byte_ms: int = 3 * GB_S) -> Metered:
    """An answer whose first tokens came at 21 o'clock, in the peak, and the others at 22 o'clock."""
    return Metered(
        PROMPT,
        4,
        before + after,
        {"device_ms": 1.5},
        21,
        tuple(each for each in (Arrival(21, 0, before), Arrival(22, 0, after)) if each.tokens),
        kv_byte_ms,
    )
