"""Set up and change served models. Only maintainers may; each change is seen in the next decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.accounts.services import NotFound
from gainshare.capacity.models import DeviceClass, ServedModel


class ServedTwice(DomainError):
    """The model is served already."""

    code = "served_twice"
    status = 409


class NoSuchClass(DomainError):
    """A class that was named does not exist."""

    code = "no_such_class"
    status = 409


def serve_model(*, actor: User, name: str, classes: Sequence[str], **fields: Any) -> ServedModel:
    """Start to serve a model on these classes. Raises ServedTwice, NoSuchClass."""
    found = _classes(classes)
    with transaction.atomic():
        try:
            with transaction.atomic():
                served = ServedModel.objects.create(name=name, changed_by=actor, **fields)
        except IntegrityError:
            raise ServedTwice(f"The model {name} is served already. Change it instead.") from None
        served.classes.set(found)
    return served


def change_served(
    *, actor: User, name: str, classes: Sequence[str] | None = None, **fields: Any
) -> ServedModel:
    """Change what is given, and leave the rest. Raises NotFound, NoSuchClass."""
    with transaction.atomic():
        served = ServedModel.objects.select_for_update().filter(name=name).first()
        if served is None:
            raise NotFound("There is no served model with this name.")
        if classes is not None:
            served.classes.set(_classes(classes))
        for field, value in {**fields, "changed_by": actor}.items():
            setattr(served, field, value)
        served.save()
    return served


def _classes(names: Sequence[str]) -> list[DeviceClass]:
    found = {one.name: one for one in DeviceClass.objects.filter(name__in=names)}
    if unknown := sorted(set(names) - set(found)):
        known = ", ".join(DeviceClass.objects.values_list("name", flat=True)) or "none yet"
        raise NoSuchClass(f"There is no class {', '.join(unknown)}. The classes are: {known}.")
    return list(found.values())
