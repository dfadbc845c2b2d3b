"""What a site asks of a canary: the trees, and a plan of the requests. Plain values; site and agent both import this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

PREFILL, DECODE, MEMORY, LOAD = "prefill", "decode", "memory", "load"
LINES = (PREFILL, DECODE, MEMORY, LOAD)
"""What a canary measures; the first three say what a token costs, each its own line of a bill."""

ROUNDS = 5
"""Of fresh processes in one look, after one that is not clocked. Load and memory have one value a round: all five above
the median by chance is 1 in 32."""

LOOKS = 2
"""What looks worse than the served tree is measured once more, and refused where it looks worse again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths of one request, in tokens of its model."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`shapes` were drawn from what users ask for, each account weighing the same; texts come from a shipped set.

    `batches` are the numbers of answers at once at which decoding is clocked. `quality_margin_ppm` is None where
    answers must be equal, else the share by which held-out loss may grow, in millionths: a gain by the quality route.
    """

    shapes: tuple[Shape, ...]
    batches: tuple[int, ...] = (1, 4, 7)
    pairs: int = 30
    quality_margin_ppm: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """Raises ValueError, KeyError or TypeError for something else."""
        margin = document["quality_margin_ppm"]
        return cls(
            shapes=tuple(
                Shape(int(one["prompt_tokens"]), int(one["output_tokens"])) for one in document["shapes"]
            ),
            batches=tuple(int(batch) for batch in document["batches"]),
            pairs=int(document["pairs"]),
            quality_margin_ppm=None if margin is None else int(margin),
        )


@dataclass(frozen=True, slots=True)
class CanaryOrder:
    """One canary: `candidate` compared with `served`, the tree that answers now; trees by hash, "" for the installed one.

    `best` is the tree that prices rest on. Where it is not the one served, the candidate is timed against it as well.
    `nonce` is the site's, 64 hexadecimal digits; the document repeats it.
    """

    id: UUID
    model: str
    served: str
    candidate: str
    best: str
    nonce: str
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("model", "served", "candidate", "best", "nonce")}
        return {"id": str(self.id), **named, "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CanaryOrder:
        """Raises ValueError, KeyError or TypeError for something else."""
        return cls(
            id=UUID(document["id"]),
            model=str(document["model"]),
            served=str(document["served"]),
            candidate=str(document["candidate"]),
            best=str(document["best"]),
            nonce=str(document["nonce"]),
            plan=Plan.from_json(document["plan"]),
        )
