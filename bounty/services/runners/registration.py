"""Registration and authentication of runners. Maintainers' actions are in `maintenance`."""

import base64
import binascii
import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from bounty.errors import BadRequest, BountyError
from bounty.models import Runner, RunnerState
from bounty.services.permissions import require_maintainer
from bounty.services.runners.fingerprints import checked
from bounty.services.transitions import note
from gainshare.accounts.models import User

SEEN_EVERY = timedelta(seconds=10)
TOKEN_MARK = "gsr_"  # noqa: S105 - the public beginning of every runner token, not a secret


def token_hash(token: str) -> str:
    """Hex SHA-256 of a runner token: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def register_runner(
    *,
    actor: User | None,
    name: str,
    hardware: str,
    public_key: str,
    fingerprint: dict[str, Any] | None = None,
    host: str = "",
) -> tuple[Runner, str]:
    """Register a runner and return its token, which is shown only here.

    ``public_key`` is the raw Ed25519 key in base64. ``fingerprint`` is the output of `python -m
    benchmarks.runner.fingerprint` there; without it, the runner's first request for work sends it. ``actor``
    is a maintainer, or None when the machine's own supervisor registers its local runner.
    """
    if actor is not None:
        require_maintainer(actor, "register a runner")
    try:
        raw = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise BadRequest("The public key must be a raw Ed25519 key of 32 bytes in base64.")
    machine = checked(fingerprint or {})
    token = TOKEN_MARK + secrets.token_hex(32)
    try:
        with transaction.atomic():
            runner = Runner.objects.create(
                name=name,
                hardware=hardware,
                token_hash=token_hash(token),
                public_key=base64.b64encode(raw).decode(),
                key_id=hashlib.sha256(raw).hexdigest()[:16],
                fingerprint=machine,
                host=host,
                created_by=actor,
            )
            note(runner, old="", new=runner.state, reason="registered", actor=actor)
    except IntegrityError:
        raise BountyError(
            "A runner with this name or this key is already registered. Choose another name and make a new key.",
            code="runner_exists",
        ) from None
    return runner, token


def authenticate_runner(token: str) -> Runner | None:
    """The runner with this token, or None if it is unknown or retired; records that it was seen."""
    runner = Runner.objects.filter(token_hash=token_hash(token)).exclude(state=RunnerState.RETIRED).first()
    now = timezone.now()
    if runner is not None and (runner.last_seen_at is None or runner.last_seen_at < now - SEEN_EVERY):
        runner.last_seen_at = now
        Runner.objects.filter(pk=runner.pk).update(last_seen_at=now)
    return runner
