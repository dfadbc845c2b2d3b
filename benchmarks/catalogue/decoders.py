"""Suites of inference: `prefill`, `decode`, `decode_batched`, `checkpoint_load` and `peak_memory`."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.canary import order
from benchmarks.catalogue.facts import (
    MIB,
    TIME_GUARD,
    TIME_LIMITS,
    Case,
    Dimensions,
    MessageInfo,
    SuiteInfo,
    TimeLimits,
    around,
    count,
    dimensions,
    presets_of,
    sizes,
    span,
    spread,
    with_tour,
)

# Widths per preset. Heads are powers of two wide: there all implementations' rotary frequencies round to the same numbers.
WIDTHS: Mapping[str, Dimensions] = {
    "tiny": {
        **dimensions(vocab=(256, 320), d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_head=16),
        **dimensions(d_ff=96, d_expert=(32, 48), n_experts=8, top_k=2, n_shared=1, first_moe_layer=1),
        **dimensions(tied=(0, 1)),
    },
    "demo": {
        **dimensions(vocab=(1920, 2048, 2176), d_model=256, n_layers=4, n_heads=8, n_kv_heads=2),
        **dimensions(d_head=32, d_ff=(480, 512, 544), d_expert=(112, 128, 144), n_experts=16, top_k=2),
        **dimensions(n_shared=1, first_moe_layer=1, tied=(0, 1)),
    },
    "standard": {
        **dimensions(vocab=(7936, 8192, 8448), d_model=512, n_layers=6, n_heads=8, n_kv_heads=(2, 4)),
        **dimensions(d_head=64, d_ff=(1024, 1280), d_expert=(224, 256, 288), n_experts=16, top_k=4),
        **dimensions(n_shared=1, first_moe_layer=1, tied=(0, 1)),
    },
}
MEMORY_MIB = {"tiny": 512, "demo": 1024, "standard": 2048}
WEIGHT_BYTES = 4  # single precision

CHECKPOINT_CAP_BYTES = 60 * MIB
HEADER_BYTES = 32 * 1024  # of a checkpoint: padded to this, so that the header's length tells nothing

STEP_TOKENS = 256  # a step's budget: what a node has where no one says otherwise
PEAK_STEP_TOKENS = 2048  # ... in `peak_memory`: as of a node that is set to read long prompts fast
PEAK_STEPS = 4  # decode steps after the prompts of `peak_memory`


_IDS = ("ids", "lengths", "places", "is_new")


def ids_message(brings: str) -> MessageInfo:
    """A message that moves sequences on."""
    return MessageInfo(_IDS, brings)


def transformer_parameters(shape: Mapping[str, int]) -> int:
    """The weights of a transformer of this shape, all of them."""
    d_model, d_expert, n_layers = shape["d_model"], shape["d_expert"], shape["n_layers"]
    dense_layers = min(shape["first_moe_layer"], n_layers)
    attention = 2 * d_model * shape["d_head"] * (shape["n_heads"] + shape["n_kv_heads"]) + 2 * d_model
    dense = 3 * d_model * shape["d_ff"]
    experts = (
        shape["n_experts"] * (3 * d_model * d_expert + d_model) + 3 * d_model * shape["n_shared"] * d_expert
    )
    tables = shape["vocab"] * d_model * (1 if shape["tied"] else 2) + d_model
    return n_layers * attention + dense_layers * dense + (n_layers - dense_layers) * experts + tables


def parameter_ends(drawn: Dimensions) -> tuple[int, int]:
    """The parameters of the smallest and of the largest transformer of a family."""
    least = {name: min(choices) for name, choices in drawn.items()} | {"tied": max(drawn["tied"])}
    most = {name: max(choices) for name, choices in drawn.items()} | {"tied": min(drawn["tied"])}
    return transformer_parameters(least), transformer_parameters(most)


def model_text(drawn: Dimensions) -> str:
    """The size of a transformer in words."""
    layers, d_model, experts, top_k = (
        span(drawn[name]) for name in ("n_layers", "d_model", "n_experts", "top_k")
    )
    least, most = (f"{parameters / 1e6:.2g}" for parameters in parameter_ends(drawn))
    millions = least if least == most else f"{least}-{most}"
    return f"{layers} layers, d_model {d_model}, {experts} experts, top-{top_k}; {millions}M parameters"


def lengths_text(longest: tuple[int, ...], sequences: tuple[int, ...]) -> str:
    """The lengths of all prompts of a call."""
    ends = [spread(ids, number) for ids in (min(longest), max(longest)) for number in sequences]
    return span(length for lengths in ends for length in lengths)


def family(preset: str, name: str, call: str, **own: tuple[int, ...]) -> Case:
    """Transformers of a preset's widths; `own` are the suite's dimensions, or widths that it wants otherwise."""
    drawn = {**WIDTHS[preset], **own}
    return Case(name, drawn, call, model_text(drawn))


def prompts(
    preset: str, name: str, sequences: int, tokens: tuple[int, ...], max_context: int, **own: tuple[int, ...]
) -> Case:
    """Calls that read prompts, the longest of `tokens` ids."""
    call = f"{count(sequences, 'prompt')} of {lengths_text(tokens, (sequences,))} ids"
    return family(
        preset, name, call, **own, sequences=(sequences,), tokens=tokens, max_context=(max_context,)
    )


def contexts(
    preset: str,
    name: str,
    sequences: tuple[int, ...],
    context: tuple[int, ...],
    max_context: int,
    call: str,
    *,
    is_together: bool,
    **own: tuple[int, ...],
) -> Case:
    """Calls that add ids after prompts, the longest of `context` ids; `call` has places for {count} and {lengths}."""
    return family(
        preset,
        name,
        call.format(count=span(sequences), lengths=lengths_text(context, sequences)),
        **own,
        sequences=sequences,
        context=context,
        max_context=(max_context,),
        together=(int(is_together),),
    )


def alone(preset: str, name: str, sequences: int, context: tuple[int, ...], max_context: int) -> Case:
    """Calls of `decode`."""
    call = "1 id for each of {count} sequences, one after the other, after prompts of {lengths} ids"
    return contexts(preset, name, (sequences,), context, max_context, call, is_together=False)


def batched(
    preset: str, name: str, sequences: tuple[int, ...], context: tuple[int, ...], max_context: int
) -> Case:
    """Calls of `decode_batched`."""
    call = "1 id for each of {count} sequences in one step, after prompts of {lengths} ids"
    return contexts(preset, name, sequences, context, max_context, call, is_together=True)


def peak(
    preset: str,
    name: str,
    sequences: int,
    context: tuple[int, ...],
    max_context: int,
    **own: tuple[int, ...],
) -> Case:
    """The trial of `peak_memory`."""
    call = "{count} prompts of {lengths} ids at once, then " + count(PEAK_STEPS, "step")
    return contexts(preset, name, (sequences,), context, max_context, call, is_together=True, **own)


_PREFILL = sizes(
    {
        "tiny": (prompts("tiny", "prompts-2x24", 2, around(24, 4), 64),),
        "demo": (prompts("demo", "prompts-2x200", 2, around(200, 20), 512),),
        "standard": (
            prompts("standard", "prompts-4x150", 4, around(150, 15), 1024),
            prompts("standard", "prompt-500", 1, around(500, 60), 1024),
        ),
    },
    {"tiny": 4, "demo": 40, "standard": 12},
    MEMORY_MIB,
)

PREFILL = SuiteInfo(
    name="prefill",
    title="Prefill: reading prompts",
    unit="ns per call",
    presets=presets_of(_PREFILL),
    cap_log_ppm=1_386_295,  # ln 4, rounded up: products at half of what a core reaches, or a third
    messages=(ids_message("all prompts of the call"),),
    caller="the prompts that wait: they are the call, and the scheduler divides them into steps",
    sizes=_PREFILL,
    guard=TIME_GUARD,
    lines=(order.PREFILL,),
)

_DECODE_DEMO = (alone("demo", "context-200", 4, around(200, 20), 512),)
_DECODE = sizes(
    {
        "tiny": (alone("tiny", "context-24", 2, around(24, 4), 64),),
        "demo": _DECODE_DEMO,
        "tour": _DECODE_DEMO,
        "standard": (alone("standard", "context-300", 2, around(300, 30), 1024),),
    },
    {"tiny": 6, "demo": 96, "tour": 12, "standard": 48},
    {**MEMORY_MIB, "tour": MEMORY_MIB["demo"]},
    time_limits={**TIME_LIMITS, "tour": TIME_LIMITS["demo"]},
)

DECODE = SuiteInfo(
    name="decode",
    title="Decode: one sequence, one id at a time",
    unit="ns per call",
    presets=with_tour(presets_of(_DECODE), guards=("moe_forward",)),
    cap_log_ppm=2_079_442,  # ln 8, rounded up: reading the weights from a core's caches, and room to spare
    messages=(ids_message("the next id of one sequence, a message for each sequence"),),
    caller="one id, sampled from the logits before it; of other sequences nothing new",
    sizes=_DECODE,
    guard=TIME_GUARD,
    lines=(order.DECODE,),
)

_DECODE_BATCHED = sizes(
    {
        "tiny": (batched("tiny", "contexts-5x24", (4, 5), around(24, 4), 64),),
        "demo": (batched("demo", "contexts-8x200", (8,), around(200, 20), 512),),
        "standard": (
            batched("standard", "contexts-8x300", (8,), around(300, 30), 1024),
            batched("standard", "contexts-16x200", (16,), around(200, 20), 1024),
        ),
    },
    {"tiny": 6, "demo": 96, "standard": 48},
    MEMORY_MIB,
)

DECODE_BATCHED = SuiteInfo(
    name="decode_batched",
    title="Decode: many sequences together",
    unit="ns per call",
    presets=presets_of(_DECODE_BATCHED),
    cap_log_ppm=1_791_760,  # ln 6, rounded up
    messages=(ids_message("the next id of every sequence"),),
    caller="the ids of all running sequences: the batch is the call",
    sizes=_DECODE_BATCHED,
    guard=TIME_GUARD,
    lines=(order.DECODE,),
)


def checkpoint(preset: str, **own: tuple[int, ...]) -> tuple[Case, ...]:
    """The one case of `checkpoint_load`: short prompts, yet long enough that every expert gets tokens."""
    case = prompts(preset, "prompts-2x64", 2, around(64, 8), 128, **own)
    least, most = (
        f"{(WEIGHT_BYTES * parameters + HEADER_BYTES) / 1e6:.2g}"
        for parameters in parameter_ends(case.dimensions)
    )
    return (replace(case, call=f"a checkpoint of {least}-{most} MB, then {case.call}"),)


_LOAD_LIMITS = TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=30_000)
_CHECKPOINT_LOAD = sizes(
    {
        "tiny": checkpoint("tiny"),
        "demo": checkpoint("demo"),
        # The served model's widths in two layers: what fits into the sample's /tmp.
        "standard": checkpoint("standard", n_layers=(2,), vocab=(3968, 4096, 4224), d_expert=(224, 240, 256)),
    },
    {"tiny": 1, "demo": 1, "standard": 1},  # a fresh process for each load
    MEMORY_MIB,
    time_limits=dict.fromkeys(WIDTHS, _LOAD_LIMITS),
)

CHECKPOINT_LOAD = SuiteInfo(
    name="checkpoint_load",
    title="Checkpoint on disk to first logits",
    unit="ns per load",
    presets=presets_of(_CHECKPOINT_LOAD),
    cap_log_ppm=1_609_438,  # ln 5, rounded up: the bytes must be read and the prompts computed
    messages=(MessageInfo(("header",), "the checkpoint's header"), ids_message("the prompts")),
    caller="the folder; requests come when the model is loaded, and a process loads once",
    sizes=_CHECKPOINT_LOAD,
)

_SMALL: Dimensions = {"vocab": (480, 512, 544), "n_layers": (2,), "n_kv_heads": (8,)}
_PEAK_MEMORY = sizes(
    {
        "tiny": (peak("tiny", "prompts-4x256", 4, around(256, 16), 512),),
        "demo": (peak("demo", "prompts-8x1000", 8, around(1000, 40), 2048, **_SMALL, n_experts=(8,)),),
        "standard": (peak("standard", "prompts-16x1000", 16, around(1000, 40), 2048, **_SMALL),),
    },
    {"tiny": 1, "demo": 1, "standard": 1},
    {"tiny": 768, "demo": 1536, "standard": 3072},
)

PEAK_MEMORY = SuiteInfo(
    name="peak_memory",
    title="Peak memory of prompts and steps",
    unit="bytes",
    presets=presets_of(_PEAK_MEMORY),
    cap_log_ppm=1_386_295,  # ln 4, rounded up: the interpreter and torch remain
    messages=(ids_message("all prompts, then the next id of every sequence, a message for each step"),),
    caller="the prompts that wait, then the ids of all running sequences: the batch is the call",
    worst_case_log_ppm=-19_803,  # ln 1/1.02: memory hardly varies from run to run
    needs_peak_counter=True,
    sizes=_PEAK_MEMORY,
    lines=(order.MEMORY,),
)

SUITES = (PREFILL, DECODE, DECODE_BATCHED, CHECKPOINT_LOAD, PEAK_MEMORY)
