"""Suites of one MoE layer: `moe_forward` and `moe_backward`."""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.catalogue.facts import (
    MIB,
    TIME_GUARD,
    TIME_LIMITS,
    Case,
    PresetInfo,
    Size,
    SuiteInfo,
    TimeLimits,
    around,
    count,
    presets_of,
    span,
)


def family(
    name: str,
    *,
    tokens: tuple[int, ...],
    d_model: int,
    d_expert: tuple[int, ...],
    n_experts: int,
    top_k: int,
    n_shared: int,
    block: int = 1,
) -> Case:
    """A family of MoE shapes, each dimension drawn from its choices. `block` batches of `tokens` make one call."""
    tokens_text = f"{span(tokens)} tokens"
    return Case(
        name,
        {
            "block": (block,),
            "tokens": tokens,
            "d_model": (d_model,),
            "d_expert": d_expert,
            "n_experts": (n_experts,),
            "top_k": (top_k,),
            "n_shared": (n_shared,),
        },
        call=tokens_text if block == 1 else f"{block} batches of {tokens_text}",
        model=f"d_model {d_model}, {n_experts} experts of width {span(d_expert)}, top-{top_k}, "
        f"{count(n_shared, 'shared expert')}",
    )


# `demo` is the smallest that a pair can time well: 20 to 30 ms a call for the textbook loop, and some 7 ms for the stack's
# own form, of which transport takes less than a twentieth. `tiny` is for tests of the machinery. `standard` has one family
# per regime of the served model.
_FORWARD_DEMO = Size(
    cases=(
        family(
            "prompt-200",
            tokens=around(200, 16),
            d_model=256,
            d_expert=(400, 416, 432),
            n_experts=16,
            top_k=2,
            n_shared=1,
        ),
    ),
    calls_per_side=20,
    most_calls=60,
    time_limits=TIME_LIMITS["demo"],
    memory_bytes=1024 * MIB,
)
_FORWARD: Mapping[str, Size] = MappingProxyType(
    {
        "tiny": Size(
            cases=(
                family(
                    "tiny",
                    tokens=around(64, 8),
                    d_model=128,
                    d_expert=(128,),
                    n_experts=16,
                    top_k=2,
                    n_shared=1,
                ),
            ),
            calls_per_side=12,
            most_calls=12,
            time_limits=TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=3_000),
            memory_bytes=512 * MIB,
        ),
        "demo": _FORWARD_DEMO,
        "tour": _FORWARD_DEMO,
        "standard": Size(
            cases=(
                family(
                    "decode-16",
                    block=2,
                    tokens=around(16, 4),
                    d_model=512,
                    d_expert=(512,),
                    n_experts=32,
                    top_k=4,
                    n_shared=2,
                ),
                family(
                    "prompt-512",
                    tokens=around(512, 32),
                    d_model=512,
                    d_expert=(480, 512, 544),
                    n_experts=32,
                    top_k=4,
                    n_shared=2,
                ),
            ),
            calls_per_side=20,
            most_calls=60,
            time_limits=TIME_LIMITS["standard"],
            memory_bytes=2048 * MIB,
        ),
    }
)
_TOUR_GUARDS = ("prefill", "decode")

MOE_FORWARD = SuiteInfo(
    name="moe_forward",
    title="MoE layer, forward",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": presets_of(_FORWARD)["demo"],
            "tour": PresetInfo(
                "tour",
                f"The sizes of demo, guarded by {' and '.join(_TOUR_GUARDS)} only; for demo lineages",
                guards=_TOUR_GUARDS,
            ),
            "standard": presets_of(_FORWARD)["standard"],
        }
    ),
    cap_log_ppm=3_688_880,  # ln 40, rounded up: past what removing every idle expert can give
    sizes=_FORWARD,
    guard=TIME_GUARD,
)

# As many tokens as keep what is computed large in comparison with what is sent.
_BACKWARD: Mapping[str, Size] = MappingProxyType(
    {
        "tiny": Size(
            cases=(
                family(
                    "tiny", tokens=around(64, 8), d_model=64, d_expert=(64,), n_experts=8, top_k=2, n_shared=1
                ),
            ),
            calls_per_side=6,
            most_calls=6,
            time_limits=TIME_LIMITS["tiny"],
            memory_bytes=768 * MIB,
        ),
        "demo": Size(
            cases=(
                family(
                    "batch-512",
                    tokens=around(512, 32),
                    d_model=128,
                    d_expert=(240, 256, 272),
                    n_experts=8,
                    top_k=4,
                    n_shared=1,
                ),
            ),
            calls_per_side=20,
            most_calls=60,
            time_limits=TIME_LIMITS["demo"],
            memory_bytes=1024 * MIB,
        ),
        "standard": Size(
            cases=(
                family(
                    "batch-1024",
                    tokens=around(1024, 64),
                    d_model=256,
                    d_expert=(480, 512, 544),
                    n_experts=8,
                    top_k=4,
                    n_shared=1,
                ),
                family(
                    "narrow-2048",
                    tokens=around(2048, 128),
                    d_model=256,
                    d_expert=(128, 144),
                    n_experts=32,
                    top_k=4,
                    n_shared=2,
                ),
            ),
            calls_per_side=12,
            most_calls=36,
            time_limits=TIME_LIMITS["standard"],
            memory_bytes=2048 * MIB,
        ),
    }
)

MOE_BACKWARD = SuiteInfo(
    name="moe_backward",
    title="MoE layer, forward and backward",
    unit="ns per call",
    presets=presets_of(_BACKWARD),
    cap_log_ppm=3_688_880,  # ln 40, as moe_forward
    sizes=_BACKWARD,
    guard=TIME_GUARD,
)
