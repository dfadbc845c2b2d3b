"""Random re-measurement of confirmed gains: the draw and its result. Pure functions.

The draw is a keyed hash of the submission's id. Without the platform's secret it cannot be predicted, and it
cannot be repeated.
"""

import hashlib
import hmac
from uuid import UUID

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.units import signed_percent

_LABEL = b"gainshare.recheck/1\n"


def is_drawn(*, secret: str, submission_id: UUID, percent: int) -> bool:
    """Whether this submission is among the ``percent`` per cent that are measured again."""
    if not 0 <= percent <= 100:
        raise ValueError("percent must be from 0 to 100 per cent")
    drawn = hmac.new(secret.encode(), _LABEL + submission_id.bytes, hashlib.sha256).digest()
    return int.from_bytes(drawn[:8]) % 100 < percent


def doubt(*, confirmed_bound_log_ppm: int, kind: str, estimate_log_ppm: int | None, reason: str) -> str:
    """Reason to doubt the confirmed gain, or an empty text: the re-measurement should find at least half of
    its bound.

    The confirmed figure is a lower bound, so an honest gain is above it in 19 of 20 cases. Half of it leaves
    room for noise and for another host. The platform's own failure is no reason.
    """
    if kind == VerdictKind.INFRASTRUCTURE_ERROR:
        return ""
    if kind != VerdictKind.GAIN or estimate_log_ppm is None:
        return f"A random re-measurement did not find the gain again ({kind.replace('_', ' ')}): {reason}"
    if 2 * estimate_log_ppm < confirmed_bound_log_ppm:
        return (
            f"A random re-measurement found {signed_percent(estimate_log_ppm)}, less than half of the confirmed "
            f"{signed_percent(confirmed_bound_log_ppm)}."
        )
    return ""
