"""Idempotent calls: whatever is made under a caller-made id is made once, however often it is requested.

The ledger's transfers store their ids themselves; `once` is for everything else that a form or request makes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from uuid import UUID

from django.db import connection, transaction

from gainshare.accounts.errors import IdConflict
from gainshare.accounts.models import MadeOnce, User


def claim(call_id: UUID) -> None:
    """Lock the id: other transactions with it wait until this one has ended."""
    key = int.from_bytes(call_id.bytes[:8], "big", signed=True) ^ int.from_bytes(
        call_id.bytes[8:], "big", signed=True
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [key])


def once(
    *, call_id: UUID | None, user: User, what: str, terms: Mapping[str, object], make: Callable[[], str]
) -> str:
    """Call ``make`` unless this id was used before; return the name of the object made, then or now.

    ``make`` runs in one transaction with the record of its id; if it raises, the id stays free. Without an id,
    ``make`` always runs. Raises IdConflict if the id belongs to another user, another kind of object or other terms.
    """
    if call_id is None:
        return make()
    digest = terms_digest(terms)
    with transaction.atomic():
        claim(call_id)
        made = MadeOnce.objects.filter(pk=call_id).first()
        if made is None:
            name = make()
            MadeOnce.objects.create(
                call_id=call_id, user=user, what=what, terms_digest=digest, name=name[:100]
            )
            return name
        if (made.user_id, made.what, made.terms_digest) != (user.pk, what, digest):
            raise IdConflict(f"The id {call_id} was already used for something else. Send a new one.")
        return made.name


def terms_digest(terms: Mapping[str, object]) -> str:
    """SHA-256 over the terms, independent of their order."""
    text = json.dumps(dict(terms), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
