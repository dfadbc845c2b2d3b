"""Fingerprints that runners send with each request for work. Other hardware behind the same token is quarantined.

Its noise history starts again with the change, because earlier figures are of other hardware.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from benchmarks.patch.policy import harness_hash
from bounty.errors import BadRequest, NotLeasable
from bounty.models import QuarantineCause, Runner
from bounty.services.runners.quarantine import quarantine
from bounty.services.transitions import note

HARNESS = "harness"  # the fingerprint's key of the harness hash
MAX_CHARS = 4000


def checked(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Check a fingerprint before it is stored. Raises BadRequest unless it is small and flat."""
    plain = (str, int, bool, type(None))
    for name, value in fingerprint.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, plain) for part in parts):
            raise BadRequest(
                f"A fingerprint may hold texts, whole numbers and lists of these; {name!r} is something else."
            )
    if len(json.dumps(dict(fingerprint))) > MAX_CHARS:
        raise BadRequest(f"A fingerprint may have at most {MAX_CHARS} characters.")
    return dict(fingerprint)


def follow_fingerprint(*, runner: Runner, fingerprint: Mapping[str, Any]) -> None:
    """Store the runner's fingerprint, and quarantine the runner if its hardware changed.

    A new version of the judge only starts the noise history again. Raises NotLeasable if it is not the
    platform's version, because evidence of other versions is not accepted.
    """
    sent = checked(fingerprint)
    if sent != runner.fingerprint:
        _change(runner, sent)
    if HARNESS in sent and sent[HARNESS] != harness_hash():
        raise NotLeasable(
            f"This runner has version {str(sent[HARNESS])[:12]} of the judge, but the platform has "
            f"{harness_hash()[:12]}, so its evidence would not be accepted. Install the same version and "
            "start the runner again."
        )


def _change(runner: Runner, sent: dict[str, Any]) -> None:
    with transaction.atomic():
        fresh = Runner.objects.select_for_update(no_key=True).get(pk=runner.pk)
        old = fresh.fingerprint
        changed = differences(old, sent)
        fields: dict[str, Any] = {"fingerprint": sent}
        if old and changed:
            fields["history_since"] = timezone.now()
        Runner.objects.filter(pk=fresh.pk).update(**fields)
        for name, value in fields.items():
            setattr(runner, name, value)
        if not changed:
            return
        what = "; ".join(changed)
        reason = f"fingerprint changed: {what}" if old else f"fingerprint: {what}"
        note(fresh, old=fresh.state, new=fresh.state, reason=reason[:4000])
        if old and any(not text.startswith(f"{HARNESS} ") for text in changed):
            quarantine(runner=runner, cause=QuarantineCause.FINGERPRINT, reason=reason[:2000])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed values in words: ``cores 2 -> 4``."""
    return [
        f"{name} {_text(old.get(name))} -> {_text(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _text(value: Any) -> str:
    return (
        "none"
        if value in (None, "", [])
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
