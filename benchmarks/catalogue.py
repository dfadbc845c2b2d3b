"""The list of suites: names, units, presets, limits. Without torch, so that web processes can show it.

What a suite does (inputs, calls, oracle) is in `benchmarks.suites`; this is what people read and what rules use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """One size of a suite. `guards` names the suites that guard its gains, None for every suite that guards others.

    A preset with fewer guards than that is for demo lineages only, whose trees no one serves.
    """

    name: str
    description: str
    guards: tuple[str, ...] | None = None

    @property
    def is_for_demos(self) -> bool:
        return self.guards is not None


GUARD_MEMORY_MARGIN_LOG_PPM = 19_802  # ln 1.02: peak memory hardly varies from run to run
CASE_SEPARATOR = "/"
GUARD_LOAD_MARGIN_LOG_PPM = 95_310  # ln 1.10, of starting and loading: a tenth of a second


@dataclass(frozen=True, slots=True)
class GuardInfo:
    """How a suite guards gains in others: in which preset, and how much worse it may become (log_ppm, above zero)."""

    preset: str
    margin_log_ppm: int
    only_if_numerics_changed: bool = False  # skipped while all outputs are equal to the bit


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """What is known of a suite without running it.

    A suite's values are in `unit`, of which less is better. All effects are ln(base's value / candidate's) in millionths of a nat (`log_ppm`):
    `minimum_effect_log_ppm` is the smallest estimate that passes the gate; `cap_log_ppm` is the largest one that
    is believed without a human's look; `worst_case_log_ppm` (negative) is how much slower any single case may be.
    """

    name: str
    title: str
    unit: str
    presets: Mapping[str, PresetInfo]
    minimum_effect_log_ppm: int
    cap_log_ppm: int
    worst_case_log_ppm: int
    guard: GuardInfo | None = None  # None: it does not guard other suites' gains


MOE_FORWARD = SuiteInfo(
    name="moe_forward",
    title="MoE layer, forward",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo(
                "demo", "Small shapes: about 20 ms a call for the textbook loop, verdicts in a minute"
            ),
            "tour": PresetInfo(
                "tour",
                "As demo, and a gain is guarded by two suites, prefill and decode, instead of all; for demo lineages only",
                guards=("prefill", "decode"),
            ),
            "standard": PresetInfo("standard", "Shapes of the served model: from one token to long prompts"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01, rounded up
    cap_log_ppm=3_688_880,  # ln 40, rounded up: past what removing every idle expert can give
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

MOE_BACKWARD = SuiteInfo(
    name="moe_backward",
    title="MoE layer, forward and backward",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Batches of 512 tokens, verdicts in a minute or two"),
            "standard": PresetInfo("standard", "Batches of 1,024 and 2,048 tokens, wide and narrow experts"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=3_688_880,  # ln 40, as moe_forward
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

PREFILL = SuiteInfo(
    name="prefill",
    title="Prefill: reading prompts",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Two prompts of up to 200 ids, a model of 7M parameters"),
            "standard": PresetInfo("standard", "Four prompts, and one long one in the engine's chunks; 40M"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=1_386_295,  # ln 4, rounded up: products at half of what a core reaches, or a third
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

DECODE = SuiteInfo(
    name="decode",
    title="Decode: one sequence, one id at a time",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Steps behind contexts of 100-200 ids, a model of 7M parameters"),
            "standard": PresetInfo("standard", "Steps behind contexts of 150-300 ids; 40M parameters"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=2_079_442,  # ln 8, rounded up: reading the weights from a core's caches, and room to spare
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

DECODE_BATCHED = SuiteInfo(
    name="decode_batched",
    title="Decode: many sequences together",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "8 sequences a step, a model of 7M parameters"),
            "standard": PresetInfo("standard", "8 and 16 sequences a step; 40M parameters"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=1_791_760,  # ln 6, rounded up
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

CHECKPOINT_LOAD = SuiteInfo(
    name="checkpoint_load",
    title="Checkpoint on disk to first logits",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Checkpoints of about 25 MB and two short prompts"),
            "standard": PresetInfo("standard", "Checkpoints of about 50 MB and two short prompts"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=1_609_438,  # ln 5, rounded up: the bytes must be read and the prompts computed
    worst_case_log_ppm=-51_293,  # ln 0.95
)

PEAK_MEMORY = SuiteInfo(
    name="peak_memory",
    title="Peak memory of prompts and steps",
    unit="bytes",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "8 prompts of up to 1,000 ids at once, then 4 steps"),
            "standard": PresetInfo("standard", "16 prompts of up to 1,000 ids at once, then 4 steps"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=1_386_295,  # ln 4, rounded up: the interpreter and torch remain
    worst_case_log_ppm=-19_803,  # ln 1/1.02: memory hardly varies from run to run
)

TRAIN_STEP = SuiteInfo(
    name="train_step",
    title="Training, one optimiser step",
    unit="ns per call",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Two layers, 512 tokens a step, verdicts in a minute or two"),
            "standard": PresetInfo("standard", "Three layers, 1,024 tokens a step"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=2_302_586,  # ln 10: past what the step's matrix products leave room for
    worst_case_log_ppm=-51_293,  # ln 0.95
    guard=GuardInfo("demo", margin_log_ppm=29_558),  # ln 1.03
)

TIME_TO_LOSS = SuiteInfo(
    name="time_to_loss",
    title="Training, time to a held-out loss",
    unit="ns until the target loss",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Two layers, about 80 steps of 512 ids: ten seconds a pair"),
            "standard": PresetInfo("standard", "Three layers, about 160 steps of 1,152 ids"),
        }
    ),
    minimum_effect_log_ppm=19_803,  # ln 1.02
    cap_log_ppm=1_386_295,  # ln 4
    worst_case_log_ppm=-51_293,  # ln 0.95
)

QUALITY = SuiteInfo(
    name="quality",
    title="Held-out loss after equal training time",
    unit="nano-nats per id",
    presets=MappingProxyType(
        {
            "demo": PresetInfo("demo", "Two layers, the time of 100 steps of base: ten seconds a pair"),
            "standard": PresetInfo("standard", "Three layers, the time of 200 steps of base"),
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01: loss, so 1 % is a lot
    cap_log_ppm=223_144,  # ln 1.25: what is above may have looked the answers up
    worst_case_log_ppm=-9_951,
    guard=GuardInfo("demo", margin_log_ppm=9_951, only_if_numerics_changed=True),  # ln 1.01
)

# Nothing is timed: a fix earns its bounty's award for the severity, not a rate. The limits are those of its pairs, in
# which the candidate stands beside itself.
BUG = SuiteInfo(
    name="bug",
    title="Bug: reproduced, then fixed",
    unit="trials",
    presets=MappingProxyType(
        {
            "standard": PresetInfo(
                "standard",
                "Three attempts of the reproduction on each tree, then one pair of every quick suite",
            )
        }
    ),
    minimum_effect_log_ppm=9_951,  # ln 1.01
    cap_log_ppm=3_688_880,  # ln 40, as moe_forward
    worst_case_log_ppm=-51_293,  # ln 0.95
)

SUITES: Mapping[str, SuiteInfo] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            MOE_FORWARD,
            MOE_BACKWARD,
            TRAIN_STEP,
            TIME_TO_LOSS,
            QUALITY,
            PREFILL,
            DECODE,
            DECODE_BATCHED,
            CHECKPOINT_LOAD,
            PEAK_MEMORY,
            BUG,
        )
    }
)


def guarding_suites(gained: str, preset: str) -> list[tuple[SuiteInfo, GuardInfo]]:
    """The suites that guard a gain in this one, in the catalogue's order, each with how. A preset for demos has fewer."""
    known = SUITES[gained].presets.get(preset)
    named = None if known is None else known.guards
    return [
        (suite, suite.guard)
        for suite in SUITES.values()
        if suite.guard is not None and suite.name != gained and (named is None or suite.name in named)
    ]


def suite_of_case(case: str) -> str:
    """The suite that a guard run's case belongs to: cases there are named `suite/case`."""
    return case.partition(CASE_SEPARATOR)[0]
