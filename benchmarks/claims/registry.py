"""All claims of the stack, in the order of DESIGN.md's table."""

from __future__ import annotations

from benchmarks.claims import (
    autoscaling,
    billing,
    curriculum,
    distillation,
    eight_bit,
    growth,
    padding,
    parallelism,
    placement,
    recompute,
    sharing,
    sparse_moe,
)
from benchmarks.claims.claim import Claim

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (
        sparse_moe,
        sharing,
        distillation,
        curriculum,
        padding,
        recompute,
        eight_bit,
        placement,
        parallelism,
        growth,
        billing,
        autoscaling,
    )
}
