"""Result of one attack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """`name` is family.attack; `contained` is the verdict; `detail` how it was refused, or what got through."""

    name: str
    contained: bool
    detail: str
