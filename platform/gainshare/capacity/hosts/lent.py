"""Asks whether a device is lent to judging: then it gets no node."""

from __future__ import annotations

from uuid import UUID


def is_lent(host_id: UUID, device: int) -> bool:
    """Whether the device is lent. No device is: there are no loans yet."""
    return False
