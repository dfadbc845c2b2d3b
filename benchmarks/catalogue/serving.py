"""The suite of mixed load, `mixed_load`: it guards gains of all others and pays none itself."""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.catalogue.decoders import MEMORY_MIB, WIDTHS, model_text
from benchmarks.catalogue.facts import (
    Case,
    Dimensions,
    GuardInfo,
    MessageInfo,
    SuiteInfo,
    around,
    dimensions,
    sizes,
    span,
)

GUARD_LOAD_LATENCY_MARGIN_LOG_PPM = 48_791  # ln 1.05: a trial's value has no median of turns behind it
BETWEEN_TOKENS, FIRST_TOKEN = 0, 1  # what a case measures, in its dimension `feels`

# Who asks what. Chats run throughout; two long prompts of one owner come into them, then short ones of others and of the
# same owner, and at last two of equal length and unequal priority, while all places are taken.
CHATS, LONG, SHORT, RANKED = 3, 2, 2, 2
REQUESTS = CHATS + LONG + SHORT + RANKED

# What an operator sets, drawn again for each pair, and the lengths of prompts and answers.
LOADS: Mapping[str, Dimensions] = {
    "tiny": dimensions(
        step_tokens=(24, 28, 32), max_running=6, long=around(100, 8), short=around(10, 2), chat=12, rounds=1
    ),
    "demo": dimensions(
        step_tokens=(192, 224, 256),
        max_running=6,
        long=around(640, 40),
        short=around(32, 6),
        chat=16,
        rounds=2,
    ),
}


def _case(preset: str, name: str, feels: int, value: str) -> Case:
    drawn = {**WIDTHS[preset], **LOADS[preset], "max_context": (1024,), "feels": (feels,)}
    call = (
        f"{CHATS} chats, {LONG} prompts of {span(drawn['long'])} ids and {SHORT + RANKED} of {span(drawn['short'])}, "
        f"steps of at most {span(drawn['step_tokens'])} tokens; {value}"
    )
    return Case(name, drawn, call, model_text(drawn))


def _cases(preset: str) -> tuple[Case, ...]:
    return (
        _case(preset, "between-tokens", BETWEEN_TOKENS, "time between tokens of the chats meanwhile"),
        _case(preset, "first-token", FIRST_TOKEN, "time to the first token of the short prompts"),
    )


_MIXED_LOAD = sizes({preset: _cases(preset) for preset in LOADS}, dict.fromkeys(LOADS, 1), MEMORY_MIB)

MIXED_LOAD = SuiteInfo(
    name="mixed_load",
    title="Mixed load: tokens between, first tokens, limits",
    unit="ns until a token",
    presets=MappingProxyType({}),  # no bounty: shorter steps would be paid for at the cost of others
    cap_log_ppm=2_079_442,  # ln 8, as decode
    messages=(
        MessageInfo(
            ("arrived", "prompts", "continued", "ended"),
            "of each step: the requests that arrived, and the next id of each that the step before answered",
        ),
    ),
    caller="what has arrived, and the ids sampled from the last step's logits",
    worst_case_log_ppm=-GUARD_LOAD_LATENCY_MARGIN_LOG_PPM,
    sizes=_MIXED_LOAD,
    guard=GuardInfo("demo", margin_log_ppm=GUARD_LOAD_LATENCY_MARGIN_LOG_PPM),
)

SUITES = (MIXED_LOAD,)
