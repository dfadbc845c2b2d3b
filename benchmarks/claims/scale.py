"""The two sizes that claims are measured at."""

from __future__ import annotations

from typing import Literal

Scale = Literal["quick", "full"]

# What every row says of its scale: a figure of a model of half a million parameters is no figure of a large one.
SAYS: dict[Scale, str] = {"quick": "quick scale", "full": "full scale"}
