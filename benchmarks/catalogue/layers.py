"""Suites of one MoE layer: `moe_forward` and `moe_backward`."""

from benchmarks.canary import order
from benchmarks.catalogue.facts import (
    TIME_GUARD,
    TIME_LIMITS,
    Case,
    MessageInfo,
    SuiteInfo,
    TimeLimits,
    around,
    count,
    dimensions,
    presets_of,
    sizes,
    span,
    with_tour,
)


def family(
    name: str,
    tokens: tuple[int, ...],
    d_model: int,
    d_expert: tuple[int, ...],
    *,
    experts: int,
    top_k: int,
    shared: int,
    block: int = 1,
) -> Case:
    """A family of MoE shapes, each dimension drawn from its choices. `block` batches of `tokens` make one call."""
    tokens_text = f"{span(tokens)} tokens"
    return Case(
        name,
        {
            **dimensions(block=block, tokens=tokens, d_model=d_model, d_expert=d_expert),
            **dimensions(n_experts=experts, top_k=top_k, n_shared=shared),
        },
        call=tokens_text if block == 1 else f"{block} batches of {tokens_text}",
        model=f"d_model {d_model}, {experts} experts of width {span(d_expert)}, top-{top_k}, "
        f"{count(shared, 'shared expert')}",
    )


# `demo` is the smallest that a pair can time well: 20 to 30 ms a call for the textbook loop, and some 7 ms for the stack's
# own form, of which transport takes less than a twentieth. `tour` has the same sizes and fewer calls in a pair, which are as
# steady: ln(base / candidate) of 54 pairs of equal trees scattered by 0.022 with 10 calls a side, and by 0.033 with 24.
# `tiny` is for tests of the machinery. `standard` has one family per regime of the served model.
_FORWARD_DEMO = (family("prompt-200", around(200, 16), 256, (400, 416, 432), experts=16, top_k=2, shared=1),)
_FORWARD = sizes(
    {
        "tiny": (family("tiny", around(64, 8), 128, (128,), experts=16, top_k=2, shared=1),),
        "demo": _FORWARD_DEMO,
        "tour": _FORWARD_DEMO,
        "standard": (
            family("decode-16", around(16, 4), 512, (512,), experts=32, top_k=4, shared=2, block=2),
            family("prompt-512", around(512, 32), 512, (480, 512, 544), experts=32, top_k=4, shared=2),
        ),
    },
    {"tiny": 12, "demo": 20, "tour": 10, "standard": 20},
    {"tiny": 512, "demo": 1024, "tour": 1024, "standard": 2048},
    most_calls={"tiny": 12, "demo": 60, "tour": 12, "standard": 60},
    time_limits={
        **TIME_LIMITS,
        "tiny": TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=3_000),
        "tour": TIME_LIMITS["demo"],
    },
)

MOE_FORWARD = SuiteInfo(
    name="moe_forward",
    title="MoE layer, forward",
    unit="ns per call",
    presets=with_tour(presets_of(_FORWARD), guards=("decode",)),
    cap_log_ppm=3_688_880,  # ln 40, rounded up: past what removing every idle expert can give
    messages=(MessageInfo(("x",), "the tokens of one batch"),),
    caller="the batch of this step; the next batch depends on its outputs",
    sizes=_FORWARD,
    guard=TIME_GUARD,
    parts=(order.PREFILL, order.DECODE),
)

# As many tokens as keep what is computed large in comparison with what is sent.
_BACKWARD = sizes(
    {
        "tiny": (family("tiny", around(64, 8), 64, (64,), experts=8, top_k=2, shared=1),),
        "demo": (family("batch-512", around(512, 32), 128, (240, 256, 272), experts=8, top_k=4, shared=1),),
        "standard": (
            family("batch-1024", around(1024, 64), 256, (480, 512, 544), experts=8, top_k=4, shared=1),
            family("narrow-2048", around(2048, 128), 256, (128, 144), experts=32, top_k=4, shared=2),
        ),
    },
    {"tiny": 6, "demo": 20, "standard": 12},
    {"tiny": 768, "demo": 1024, "standard": 2048},
    most_calls={"tiny": 6, "demo": 60, "standard": 36},
)

MOE_BACKWARD = SuiteInfo(
    name="moe_backward",
    title="MoE layer, forward and backward",
    unit="ns per call",
    presets=presets_of(_BACKWARD),
    cap_log_ppm=3_688_880,  # ln 40, as moe_forward
    messages=(
        MessageInfo(("x",), "the tokens of one batch"),
        MessageInfo(("grad_y",), "the gradient of y"),
    ),
    caller="the batch; the gradient follows from y and comes after it",
    sizes=_BACKWARD,
    guard=TIME_GUARD,
)

SUITES = (MOE_FORWARD, MOE_BACKWARD)
