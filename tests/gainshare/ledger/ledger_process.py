"""Run as a process by the kill tests: calls one ledger service with JSON arguments, and prints what came back.

`python -m tests.gainshare.ledger.ledger_process call NAME JSON` makes one call; `... spend USER SEED` opens, settles, voids
and repeats holds of one user until it is killed, with ids that a later run of the same seed makes again.
"""
# ruff: noqa: T201 - a process of the tests talks to them through its output

import json
import random
import sys
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid5

import django

django.setup()

from django.utils import timezone  # noqa: E402 - the apps must be ready first

from gainshare.accounts.models import User  # noqa: E402
from gainshare.ledger import services  # noqa: E402
from gainshare.ledger.errors import LedgerError  # noqa: E402


def call(name: str, arguments: dict[str, Any]) -> None:
    for key, value in arguments.items():
        if key.endswith("_id"):
            arguments[key] = UUID(value)
        elif key == "user":
            arguments[key] = User.objects.get(pk=value)
        elif key == "expires_at":
            arguments[key] = timezone.now() + timedelta(seconds=value)
    print(getattr(services, name)(**arguments))


def spend(user_id: int, seed: int) -> None:
    rng = random.Random(seed)
    user = User.objects.get(pk=user_id)
    base = UUID(int=seed)
    for number in count():
        hold_id = uuid5(base, str(number))
        amount, used, how = rng.randint(1, 50), rng.random(), rng.random()
        try:
            services.open_hold(
                hold_id=hold_id,
                user=user,
                amount_microcredits=amount,
                expires_at=timezone.now() + timedelta(seconds=1),
                reference=f"{seed}/{number}",
            )
            if how < 0.7:
                services.settle_hold(hold_id=hold_id, amount_microcredits=int(amount * used), memo="used")
            elif how < 0.9:
                services.void_hold(hold_id=hold_id)
        except LedgerError as refusal:
            print(number, refusal.code)
        print(number, "done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "call":
        call(sys.argv[2], json.loads(sys.argv[3]))
    else:
        spend(int(sys.argv[2]), int(sys.argv[3]))
