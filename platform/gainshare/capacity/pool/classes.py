"""Classes of devices: maintainers create them and change price, limits and words. Every price stays on record."""

from __future__ import annotations

import re
from typing import Any

from django.db import IntegrityError, transaction

from gainshare.accounts.models import User
from gainshare.accounts.services import NotAllowed
from gainshare.capacity.models import ClassPrice, DeviceClass
from gainshare.capacity.pool.errors import BadClass, ClassExists, NoSuchClass

CHANGEABLE = frozenset(
    {
        "description",
        "price_microcredits_per_device_hour",
        "is_preemptible",
        "hardware",
        "max_nodes",
        "cold_start_s",
    }
)
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
MAX_PRICE = 10**15  # micro-credits per device-hour: no sum over a year of a large pool passes 64 bits
MAX_COUNT = 10_000
PRICE = "price_microcredits_per_device_hour"


def find_class(name: str) -> DeviceClass:
    """The class of this name; raises NoSuchClass."""
    found = DeviceClass.objects.filter(name=name).first()
    if found is None:
        raise NoSuchClass(
            "There is no class with this name. `gainshare pool` and GET capacity/classes/ list them all."
        )
    return found


def create_class(*, actor: User | None, name: str, **fields: Any) -> DeviceClass:
    """Create a class. Raises NotAllowed, BadClass, ClassExists.

    ``actor`` is a maintainer, or None when the machine's own supervisor sets up its pool.
    """
    if actor is not None:
        _require_maintainer(actor)
    if not NAME.fullmatch(name):
        raise BadClass(
            "A class's name has 1 to 40 lower-case letters, digits and dashes, such as spot-a10. Choose another one."
        )
    _check(fields)
    try:
        with transaction.atomic():
            made = DeviceClass.objects.create(name=name, **fields)
            _note_price(made, actor)
    except IntegrityError:
        raise ClassExists(
            f"There is already a class {name}. Change it with PATCH capacity/classes/{name}/, or choose another name."
        ) from None
    return made


def change_class(*, actor: User, name: str, **fields: Any) -> DeviceClass:
    """Change a class as a maintainer. A new price holds for nodes that start from now on.

    Raises NotAllowed, NoSuchClass, BadClass. The same values again change nothing.
    """
    _require_maintainer(actor)
    _check(fields)
    with transaction.atomic():
        found = DeviceClass.objects.select_for_update().filter(pk=find_class(name).pk).get()
        before = found.price_microcredits_per_device_hour
        for field, value in fields.items():
            setattr(found, field, value)
        found.save(update_fields=[*fields, "updated_at"])
        if found.price_microcredits_per_device_hour != before:
            _note_price(found, actor)
    return found


def _note_price(of: DeviceClass, actor: User | None) -> None:
    ClassPrice.objects.create(
        device_class=of,
        price_microcredits_per_device_hour=of.price_microcredits_per_device_hour,
        set_by=actor,
    )


def _require_maintainer(actor: User) -> None:
    if not actor.is_maintainer:
        raise NotAllowed("Only maintainers may change the pool's classes. Ask one of them.")


def _check(fields: dict[str, Any]) -> None:
    if unknown := sorted(set(fields) - CHANGEABLE):
        raise BadClass(f"A class has no {', '.join(unknown)}. It has {', '.join(sorted(CHANGEABLE))}.")
    if not 0 <= fields.get(PRICE, 0) <= MAX_PRICE:
        raise BadClass(
            f"A price is a whole number of micro-credits per device-hour, from 0 to {MAX_PRICE}. Give such a number."
        )
    if not 0 <= fields.get("max_nodes", 0) <= MAX_COUNT:
        raise BadClass(f"max_nodes must be a whole number from 0 to {MAX_COUNT}.")
    if not 0 <= fields.get("cold_start_s", 0) <= MAX_COUNT:
        raise BadClass(f"cold_start_s must be a whole number from 0 to {MAX_COUNT}.")
    if len(fields.get("description", "")) > 200 or len(fields.get("hardware", "")) > 40:
        raise BadClass("A description has at most 200 characters, the name of a hardware at most 40.")
