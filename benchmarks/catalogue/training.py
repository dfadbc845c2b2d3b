"""Suites of training: `train_step`, `time_to_loss` and `quality`."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.catalogue.facts import (
    TIME_GUARD,
    Case,
    Dimensions,
    GuardInfo,
    MessageInfo,
    SuiteInfo,
    around,
    count,
    dimensions,
    presets_of,
    sizes,
    span,
)

MEMORY_MIB = {"tiny": 768, "demo": 1024, "standard": 2048}
ONE_TRIAL = {"tiny": 1, "demo": 1, "standard": 1}
TEXT_VOCAB = 128  # of the suites that train on text: one id per ASCII character


def model_text(drawn: Dimensions) -> str:
    """The size of a transformer in words."""
    layers, d_model, experts, top_k, vocab = (
        span(drawn[name]) for name in ("n_layers", "d_model", "n_experts", "top_k", "vocab")
    )
    return f"{count(int(layers), 'layer')}, d_model {d_model}, {experts} experts, top-{top_k}, vocabulary {vocab}"


def step_ids(drawn: Dimensions) -> str:
    """The ids of one step's batch."""
    (sequences,) = drawn["sequences"]
    return span(sequences * length for length in drawn["tokens"])


def step_family(name: str, **own: tuple[int, ...]) -> tuple[Case, ...]:
    """Transformers and batches of `train_step`."""
    drawn: Dimensions = {**dimensions(n_shared=1, top_k=2, first_moe_layer=0), **own}
    (sequences,), (probes,) = drawn["sequences"], drawn["probes"]
    batch = f"{count(sequences, 'sequence')} of {span(drawn['tokens'])} ids"
    return (Case(name, drawn, f"a batch of {batch}, then {count(probes, 'probe')}", model_text(drawn)),)


_TRAIN_STEP = sizes(
    {
        "tiny": step_family(
            "tiny",
            **dimensions(sequences=4, probes=2, tokens=around(16, 2), vocab=(56, 64), d_model=32),
            **dimensions(n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48, d_expert=32),
            **dimensions(n_experts=4, tied=(0, 1), max_context=32),
        ),
        "demo": step_family(
            "batch-8x64",
            **dimensions(sequences=8, probes=1, tokens=around(64, 4), vocab=(240, 256, 272), d_model=64),
            **dimensions(n_layers=2, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, d_expert=(48, 64, 80)),
            **dimensions(n_experts=8, tied=(0, 1), max_context=128),
        ),
        "standard": step_family(
            "batch-8x128",
            **dimensions(sequences=8, probes=1, tokens=around(128, 8), vocab=(960, 1024, 1088), d_model=128),
            **dimensions(n_layers=3, n_heads=4, n_kv_heads=2, d_head=32, d_ff=256, d_expert=(112, 128, 144)),
            **dimensions(n_experts=8, tied=(0, 1), max_context=256),
        ),
    },
    {"tiny": 6, "demo": 20, "standard": 10},
    MEMORY_MIB,
)

TRAIN_STEP = SuiteInfo(
    name="train_step",
    title="Training, one optimiser step",
    unit="ns per call",
    presets=presets_of(_TRAIN_STEP),
    cap_log_ppm=2_302_586,  # ln 10: past what the step's matrix products leave room for
    messages=(MessageInfo(("tokens",), "a batch"), MessageInfo(("probe",), "ids to answer for")),
    caller="the batch of this step; who asks the updated model is not known before",
    sizes=_TRAIN_STEP,
    guard=TIME_GUARD,
)

# Widths per preset, and what a step and one scoring are made of.
WIDTHS: Mapping[str, Dimensions] = {
    "tiny": {
        **dimensions(d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_head=16, d_ff=32),
        **dimensions(d_expert=(32, 48), n_experts=4, max_context=64, sequences=8),
        **dimensions(tokens=(28, 30, 32, 34), held_out=16, training_ids=100_000, held_out_ids=40_000),
    },
    "demo": {
        **dimensions(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_head=16, d_ff=64),
        **dimensions(d_expert=(48, 64, 80), n_experts=8, max_context=128, sequences=8),
        **dimensions(tokens=(60, 64, 68), held_out=32, training_ids=400_000, held_out_ids=100_000),
    },
    "standard": {
        **dimensions(d_model=128, n_layers=3, n_heads=4, n_kv_heads=2, d_head=32, d_ff=128),
        **dimensions(d_expert=(96, 128, 160), n_experts=8, max_context=256, sequences=12),
        **dimensions(tokens=(92, 96, 100), held_out=32, training_ids=1_000_000, held_out_ids=200_000),
    },
}


@dataclass(frozen=True, slots=True)
class Race:
    """A size of `time_to_loss`: the target, how often a side is scored, and when it has failed."""

    target_nano: int  # nano-nats above a bigram table's loss; below it where negative
    every: int  # steps between two scorings
    steps: int  # at most
    measured_steps: tuple[int, int]  # that the shipped recipe took, at least and at most; decides nothing


@dataclass(frozen=True, slots=True)
class EqualTime:
    """A size of `quality`: the steps of base, and the held-out batches that are scored afterwards."""

    steps: int
    batches: int


# Measured curves of the shipped recipe: tiny is 1 nat above the bigram table after 24 to 28 steps (4 languages), demo 0.05
# after 56 to 80 (4), standard 0.45 below it after 140 to 150 (2). The caps leave three times as many and more.
RACES = {
    "tiny": Race(target_nano=1_000_000_000, every=4, steps=120, measured_steps=(24, 28)),
    "demo": Race(target_nano=50_000_000, every=8, steps=320, measured_steps=(56, 80)),
    "standard": Race(target_nano=-450_000_000, every=10, steps=500, measured_steps=(140, 150)),
}
EQUAL_TIMES = {
    "tiny": EqualTime(steps=16, batches=2),
    "demo": EqualTime(steps=100, batches=8),
    "standard": EqualTime(steps=200, batches=12),
}


def text_family(name: str, preset: str, call: str) -> tuple[Case, ...]:
    """Transformers of a preset's widths and a secret language."""
    fixed = dimensions(vocab=TEXT_VOCAB, tied=1, first_moe_layer=0, top_k=2, n_shared=1)
    drawn: Dimensions = {**fixed, **WIDTHS[preset]}
    return (Case(name, drawn, call, model_text(drawn)),)


def race_text(preset: str) -> str:
    """The steps of `time_to_loss` in words."""
    race = RACES[preset]
    side = "above" if race.target_nano >= 0 else "below"
    return (
        f"steps of {step_ids(WIDTHS[preset])} ids until the held-out loss is {abs(race.target_nano) / 1e9:.2g} nats {side} "
        f"a bigram table's, at most {race.steps}; the shipped recipe takes {span(race.measured_steps)}"
    )


def equal_time_text(preset: str) -> str:
    """The steps of `quality` in words."""
    size, (held_out,) = EQUAL_TIMES[preset], WIDTHS[preset]["held_out"]
    return (
        f"the time of {size.steps} steps of base, each of {step_ids(WIDTHS[preset])} ids; "
        f"then {size.batches} batches of {held_out} held-out sequences"
    )


_TEXT_MESSAGES = (
    MessageInfo(("tokens",), "a batch of training text"),
    MessageInfo(("held_out",), "held-out sequences without their last ids"),
)
_TEXT_CALLER = "the batch of this step; held-out text only while it is scored"

_TIME_TO_LOSS = sizes(
    {preset: text_family("race", preset, race_text(preset)) for preset in RACES}, ONE_TRIAL, MEMORY_MIB
)

TIME_TO_LOSS = SuiteInfo(
    name="time_to_loss",
    title="Training, time to a held-out loss",
    unit="ns until the target loss",
    presets=presets_of(_TIME_TO_LOSS),
    minimum_effect_log_ppm=19_803,  # ln 1.02
    cap_log_ppm=1_386_295,  # ln 4
    messages=_TEXT_MESSAGES,
    caller=_TEXT_CALLER,
    sizes=_TIME_TO_LOSS,
)

_QUALITY = sizes(
    {
        preset: text_family(f"{size.steps}-steps-of-base", preset, equal_time_text(preset))
        for preset, size in EQUAL_TIMES.items()
    },
    ONE_TRIAL,
    MEMORY_MIB,
)

QUALITY = SuiteInfo(
    name="quality",
    title="Held-out loss after equal training time",
    unit="nano-nats per id",
    presets=presets_of(_QUALITY),
    cap_log_ppm=223_144,  # ln 1.25: what is above may have looked the answers up
    messages=_TEXT_MESSAGES,
    caller=_TEXT_CALLER,
    worst_case_log_ppm=-9_951,
    sizes=_QUALITY,
    guard=GuardInfo("demo", margin_log_ppm=9_951, only_if_numerics_changed=True),  # ln 1.01
)

SUITES = (TRAIN_STEP, TIME_TO_LOSS, QUALITY)
