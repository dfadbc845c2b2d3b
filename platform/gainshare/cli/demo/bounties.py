"""The demo's two bounties: their base trees, and what they pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TREASURY_MICROCREDITS = 500_000_000
ESCROW_MICROCREDITS = 100_000_000
RATE_MICROCREDITS_PER_NAT = 20_000_000


@dataclass(frozen=True)
class DemoBounty:
    """A bounty over a lineage of its own, whose base tree is a diff against the shipped stack."""

    lineage: str
    base: str
    title: str
    description: str
    suite: str

    def terms(self) -> dict[str, Any]:
        """The fields of a new bounty, without its lineage."""
        return {
            "title": self.title,
            "description": self.description,
            "suite": self.suite,
            "preset": "tour",
            "hardware": "cpu",
            "escrow_microcredits": ESCROW_MICROCREDITS,
            "rate_microcredits_per_nat": RATE_MICROCREDITS_PER_NAT,
        }


EXPERTS = DemoBounty(
    lineage="demo",
    base="base/textbook_moe.diff",
    title="Compute only the experts that the router chose",
    description=(
        "The base tree runs every expert on every token and discards most results. Produce equal outputs "
        "in less time."
    ),
    suite="moe_forward",
)
ENGINE = DemoBounty(
    lineage="engine",
    base="base/textbook_engine.diff",
    title="Answer faster than plain torch",
    description=(
        "The base tree decodes by plain torch, and serves the site's model. Produce equal outputs in less time: what is "
        "merged is served, and its tokens become cheaper."
    ),
    suite="decode",
)
BOUNTIES = (EXPERTS, ENGINE)
