"""Services of the gateway: admit a request with its hold, record its outcome, and settle.

Each function opens its own transaction and is idempotent by request id. Settling has two steps, so that a
crash between them loses nothing: the outcome and its bill are recorded, then the ledger takes the money.
`settle_outstanding` finishes what a killed process left unfinished.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from benchmarks.faults import fault_point
from gainshare.accounts.models import ApiKey, Scope, User
from gainshare.accounts.services import InvalidKey, authenticate_key
from gainshare.capacity.routing import seats
from gainshare.capacity.routing.seats import AccountFull, QueueFull, SeatRequest
from gainshare.gateway.cache_memory import UNKNOWN, CacheShape, cache_shape
from gainshare.gateway.errors import (
    BadKey,
    ContextTooLong,
    MissingScope,
    NoCredits,
    Overloaded,
    TooManyRequests,
)
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import PLAYGROUND, RequestStatus, UsageRecord
from gainshare.gateway.requests import GenerationRequest
from gainshare.ledger.errors import HoldResolved, InsufficientCredits, UnknownHold, Unpriced
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import TERMS, active_price
from gainshare.ledger.pricing import Arrival, Bill, Prices, Usage, affordable_output, bill, upper_bound
from gainshare.ledger.services import balance, open_hold, settle_hold, void_hold

logger = logging.getLogger(__name__)

TOKEN_PRICES = ("cached_input", "fresh_input", "output")
HOLD_ATTEMPTS = 3  # retries, because other requests of the same user may take credits between two tries
GRACE = timedelta(seconds=5)  # a live web process settles within this time after a request's end
# Time for beat to find and settle the requests of a killed process, before their holds expire.
REPAIR_TIME = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Payer:
    """Payer of a request, and the prefix of its key, or `PLAYGROUND`."""

    user: User
    key_prefix: str


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may run until `expires_at`: its hold covers the prompt and `n_answers` of `max_tokens` tokens.

    `owner` is the account's pseudonym at nodes: constant, and not traceable to the account. `cache` is the model's,
    by which memory is billed.
    """

    request_id: UUID
    prompt_tokens: int
    max_tokens: int
    hold_microcredits: int
    expires_at: datetime
    n_answers: int = 1
    owner: str = ""
    cache: CacheShape = UNKNOWN
    node: str = ""  # that its seat has; empty: it waits for one, or has no seat

    @property
    def output_tokens(self) -> int:
        """Maximum number of tokens of all answers together."""
        return self.max_tokens * self.n_answers


def room_for_completion(
    *, prompt_tokens: int, max_context: int, wanted: int | None, default: int | None = None
) -> int:
    """Number of tokens that the model's context allows to generate; raises `ContextTooLong`.

    `default` limits a request without a limit of its own; the context may lower it.
    """
    room = max_context - prompt_tokens
    if room < 1:
        raise ContextTooLong(
            f"This model's maximum context length is {max_context} tokens. Your prompt has {prompt_tokens} "
            "tokens, which leaves none for an answer. Shorten the prompt.",
            param="messages",
        )
    if wanted is not None and wanted > room:
        raise ContextTooLong(
            f"This model's maximum context length is {max_context} tokens. You requested {prompt_tokens + wanted} "
            f"({prompt_tokens} in the prompt, {wanted} in the completion). Shorten the prompt or the completion.",
            param="max_tokens",
        )
    if wanted is not None:
        return wanted
    return room if default is None else min(room, default)


def caller(*, raw_key: str) -> ApiKey:
    """Authenticate the presented key and return it with its user; raises `BadKey` or `MissingScope`."""
    try:
        key = authenticate_key(raw_key)
    except InvalidKey as error:
        raise BadKey(f"{error.reason} You can make a new key on the page Keys.") from None
    if not key.has_scope(Scope.INFERENCE):
        raise MissingScope(
            "This API key lacks the scope 'inference', which is needed to use models. Make a key with this scope."
        )
    return key


def caller_and_price(*, raw_key: str, model: str) -> tuple[Payer, PriceVersion | None]:
    """`caller` and `price_of` in one database call."""
    key = caller(raw_key=raw_key)
    return Payer(key.user, key.prefix), price_of(model=model)


def visitor(*, user: User) -> Payer:
    """The payer of a playground request without a key; raises `MissingScope`."""
    if Scope.INFERENCE not in user.allowed_scopes:
        raise MissingScope("Your account may not use models. Ask a maintainer for a role that may.")
    return Payer(user, PLAYGROUND)


def price_of(*, model: str) -> PriceVersion | None:
    """The model's present price, or None."""
    try:
        return active_price(model, timezone.now())
    except Unpriced:
        return None


def admit(
    *,
    payer: Payer,
    request: GenerationRequest,
    request_id: UUID,
    price: PriceVersion,
    prompt_tokens: int,
    max_context: int,
    seat: SeatRequest | None = None,
) -> Admission:
    """Hold the credits for `request`, with fewer tokens than requested if the balance does not cover all.

    Its `seat` is taken with the hold, or neither is. Raises `ContextTooLong`, `NoCredits`, `TooManyRequests` or
    `Overloaded`; then nothing was written.
    """
    max_tokens = room_for_completion(
        prompt_tokens=prompt_tokens,
        max_context=max_context,
        wanted=request.max_tokens,
        default=request.default_tokens,
    )
    n_answers, cache = request.n_answers, cache_shape(request.model)
    expires_at = timezone.now() + timedelta(seconds=settings.HOLD_S)
    for _ in range(HOLD_ATTEMPTS):
        amount = upper_bound(prompt_tokens, max_tokens * n_answers, price)
        try:
            with transaction.atomic():
                _commit_without_waiting()
                open_hold(
                    hold_id=request_id,
                    user=payer.user,
                    amount_microcredits=amount,
                    expires_at=expires_at + REPAIR_TIME,
                    reference=f"request:{request_id}",
                )
                record = UsageRecord(
                    request_id=request_id,
                    user=payer.user,
                    key_prefix=payer.key_prefix,
                    endpoint=request.endpoint.value,
                    model=request.model,
                    is_stream=request.is_stream,
                    max_tokens=max_tokens * n_answers,
                    prompt_tokens=prompt_tokens,
                    price=price,
                    kv_bytes_per_token=cache.bytes_per_token,
                    hold_microcredits=amount,
                    expires_at=expires_at,
                )
                UsageRecord.objects.bulk_create(
                    [record], ignore_conflicts=True
                )  # a repeated call changes nothing
                fault_point("gateway.before_seat")
                node = _take_seat(request_id, seat)  # last, because its locks last until the commit
        except InsufficientCredits as short:
            affordable = affordable_output(short.available, prompt_tokens, price)
            max_tokens = max_tokens if affordable is None else min(max_tokens, affordable // n_answers)
            if max_tokens < 1:
                break
        else:
            return Admission(
                request_id,
                prompt_tokens,
                max_tokens,
                amount,
                expires_at,
                n_answers,
                owner_name(payer.user.pk),
                cache,
                node,
            )
    raise NoCredits(
        "You have too few credits for this request. Your running requests hold credits until they end, so "
        "wait for them. You earn credits with accepted patches."
    )


def wait_in_front(*, payer: Payer, price: PriceVersion, request_id: UUID, seat: SeatRequest) -> None:
    """Seat a request whose prompt no node can count yet. Raises `NoCredits`, `TooManyRequests` or `Overloaded`.

    Only an account that could pay for a token of it may wait, because what waits makes nodes start.
    """
    affordable = affordable_output(balance(payer.user).available, seat.prompt_tokens, price)
    if affordable is not None and affordable < 1:
        raise NoCredits("You have too few credits for this request. You earn credits with accepted patches.")
    with transaction.atomic():
        _commit_without_waiting()
        _take_seat(request_id, seat)


def _take_seat(request_id: UUID, seat: SeatRequest | None) -> str:
    """The node of the request's new seat, or "" if it waits. Raises `TooManyRequests` or `Overloaded`."""
    if seat is None:
        return ""
    try:
        return seats.take(request_id=request_id, asked=seat)
    except AccountFull:
        raise TooManyRequests(
            f"Your account has {seat.account_limit} requests in flight, which is the most it may have. Wait until one "
            "of them ends."
        ) from None
    except QueueFull:
        raise Overloaded(
            f"{seat.queue_limit} requests wait for a node of this model, and no more may. Try again later."
        ) from None


def owner_name(user_id: int) -> str:
    """The account's pseudonym at model nodes, which use it as tenant for queues and prefix caches."""
    return salted_hmac("gainshare.gateway.owner", str(user_id), algorithm="sha256").hexdigest()[:32]


def prompt_salt(user_id: int) -> bytes:
    """The key under which digests of the account's prompts are made; no other account's digests equal them."""
    return salted_hmac("gainshare.gateway.prompt", str(user_id), algorithm="sha256").digest()


def _commit_without_waiting() -> None:
    """Make this transaction's commit asynchronous, because waiting for the disk is most of an admission's time.

    A crash of the database server may lose a recent hold together with its record. The ledger stays
    consistent: both are lost or kept together, later transactions depend on earlier ones, and a request
    without its hold is not charged.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")


def price_bill(metered: Metered, price: Prices) -> Bill:
    """Bill of the metered usage. Without any tokens the usage is empty and costs nothing."""
    usage = Usage(
        cached_tokens=metered.cached_tokens,
        fresh_tokens=metered.prompt_tokens - metered.cached_tokens,
        output_tokens=metered.completion_tokens,
        prompt_hour=metered.prompt_hour,
        arrivals=metered.arrivals,
        kv_byte_ms=metered.kv_byte_ms,
    )
    return bill(usage, price)


def _counts(metered: Metered) -> dict[str, Any]:
    """The columns of a usage record that hold what was metered; `recorded` reads them."""
    return {
        "counted_prompt_tokens": metered.prompt_tokens,
        "cached_tokens": metered.cached_tokens,
        "completion_tokens": metered.completion_tokens,
        "engine": dict(metered.engine),
        "prompt_hour": metered.prompt_hour,
        "output_hours": [list(arrival) for arrival in metered.arrivals],
        "kv_byte_ms": metered.kv_byte_ms,
    }


def recorded(record: UsageRecord) -> Metered:
    """What a usage record says was metered, from which its bill was made."""
    return Metered(
        prompt_tokens=record.counted_prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        engine=record.engine,
        prompt_hour=record.prompt_hour,
        arrivals=tuple(Arrival(*arrival) for arrival in record.output_hours),
        kv_byte_ms=record.kv_byte_ms,
    )


def record_outcome(
    *,
    request_id: UUID,
    status: RequestStatus,
    metered: Metered,
    finish_reason: str = "",
    error_code: str = "",
    node: str = "",
    device_class: str = "",
    tree: str = "",
) -> bool:
    """Record the request's outcome and bill, and the node and tree that answered it. True if this call did it, False if it was recorded before.

    Also False if there is no such request, because its admission was lost in a crash of the database server.
    """
    record = UsageRecord.objects.select_related("price").filter(pk=request_id).first()
    if record is None:
        logger.warning("request %s: its admission was lost, so it is not charged", request_id)
        return False
    priced = price_bill(metered, record.price)
    changed = UsageRecord.objects.filter(pk=request_id, status=RequestStatus.RUNNING).update(
        status=status,
        **_counts(metered),
        finish_reason=finish_reason,
        error_code=error_code,
        bill_lines=[line.as_json() for line in priced.lines],
        billed_microcredits=priced.total,
        finished_at=timezone.now(),
        node=node,
        device_class=device_class,
        tree=tree,
    )
    return changed == 1


def record_progress(*, request_id: UUID, metered: Metered) -> bool:
    """Record what a running request has delivered, in case its process is killed. True if the count rose.

    Does nothing if the request has an outcome, or if the count is not higher than the recorded one.
    """
    with transaction.atomic():
        _commit_without_waiting()
        changed = UsageRecord.objects.filter(
            pk=request_id, status=RequestStatus.RUNNING, completion_tokens__lt=metered.completion_tokens
        ).update(**_counts(metered))
    return changed == 1


def follow(*, request_id: UUID, metered: Metered) -> bool:
    """Call `record_progress` and return whether the answer may continue: key not revoked, account not disabled.

    A playground request has no key and continues while its account is enabled. A key that expires meanwhile
    does not end the request.
    """
    record_progress(request_id=request_id, metered=metered)
    good_key = Exists(ApiKey.objects.filter(prefix=OuterRef("key_prefix"), revoked_at=None))
    enabled = UsageRecord.objects.filter(pk=request_id, user__is_active=True)
    return enabled.filter(Q(key_prefix=PLAYGROUND) | good_key).exists()


def settle(*, request_id: UUID) -> bool:
    """Settle the recorded bill from the hold, release the rest, and free the seat. True if this call did it."""
    with transaction.atomic():
        seats.free([request_id])
        record = UsageRecord.objects.select_for_update().filter(pk=request_id).first()
        if record is None or record.settled_at is not None or record.finished_at is None:
            return False
        record.charged_microcredits = _collect(record)
        record.settled_at = timezone.now()
        record.save(update_fields=["charged_microcredits", "settled_at"])
    return True


def _collect(record: UsageRecord) -> int:
    """Resolve the hold and return the micro-credits taken."""
    amount = min(record.billed_microcredits, record.hold_microcredits)
    if amount < record.billed_microcredits:
        logger.error("request %s: bill above its hold, the difference is waived", record.pk)
    try:
        with transaction.atomic():
            if amount:
                settle_hold(
                    hold_id=record.pk,
                    amount_microcredits=amount,
                    memo=f"{record.model}, {record.total_tokens} tokens",
                )
            else:
                void_hold(hold_id=record.pk)
    except (HoldResolved, UnknownHold) as error:
        # The hold expired before it was settled: the user keeps the credits.
        if amount:
            logger.warning("request %s: %s not charged: %s", record.pk, amount, error)
        return 0
    return amount


def settle_outstanding(*, now: datetime) -> int:
    """Settle requests that their web process could not settle; return their number.

    A request with an outcome only lacks the ledger's part. One that still runs after its deadline has lost
    its process; it pays for the recorded tokens.
    """
    lost = UsageRecord.objects.filter(status=RequestStatus.RUNNING, expires_at__lt=now - GRACE)
    for request_id in lost.order_by("expires_at").values_list("pk", flat=True)[:500]:
        _record_lost(request_id)
    unsettled = UsageRecord.objects.filter(settled_at=None, finished_at__isnull=False).order_by("finished_at")
    return sum(settle(request_id=request_id) for request_id in unsettled.values_list("pk", flat=True)[:500])


def _record_lost(request_id: UUID) -> None:
    """End a request whose process is gone. An answer that is not streamed is delivered whole or not at all."""
    with transaction.atomic():
        running = UsageRecord.objects.select_for_update().filter(pk=request_id, status=RequestStatus.RUNNING)
        if (record := running.first()) is None:
            return
        delivered = Metered(engine=record.engine)
        if record.is_stream and record.completion_tokens:
            delivered = replace(recorded(record), prompt_tokens=record.prompt_tokens)
        record_outcome(
            request_id=request_id,
            status=RequestStatus.FAILED,
            metered=delivered,
            error_code="gateway_lost",
        )


def priced_models(served: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Model objects in OpenAI's shape of served models with a price, each with its prices per million tokens."""
    now = timezone.now()
    listed = []
    for name in sorted(served):
        try:
            price = active_price(name, now)
        except Unpriced:
            continue
        listed.append(
            {
                "id": name,
                "object": "model",
                "created": int(served[name].get("created") or 0),
                "owned_by": "gainshare",
                "max_context": served[name].get("max_context"),
                "tree": served[name].get("tree") or None,
                "system_fingerprint": served[name].get("system_fingerprint"),
                "microcredits_per_million_tokens": {
                    "cached_input": price.cached_input,
                    "fresh_input": price.fresh_input,
                    "output": price.output,
                },
                "price_terms": {name: getattr(price, name) for name in TERMS if name not in TOKEN_PRICES},
            }
        )
    return listed
