"""The generator's traces resemble the published ones, and are the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest

from gainshare.capacity.traces.formats import read_rates, read_trace
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.requests import Trace
from gainshare.capacity.traces.statistics import statistics
from gainshare.capacity.traces.workload import CONVERSATION, LONG_CONTEXT, LogNormal, Week

# Figures of published traces, as `gainshare replay FILE --json` prints them (`trace`). Sources: kvcache-ai/Mooncake,
# FAST25 release, synthetic trace (Apache-2.0); Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv of 2023 (CC-BY 4.0);
# alibaba/ServeGen, language/m-large, rates in steps of ten minutes (Apache-2.0).
MOONCAKE_PROMPT = {25: 277, 50: 11_587, 75: 23_175, 90: 38_615, 99: 66_458}
MOONCAKE_OUTPUT = {10: 4, 25: 11, 50: 69, 75: 250, 90: 389, 99: 769}
MOONCAKE_PROMPT_MEAN, MOONCAKE_OUTPUT_MEAN = 15_325, 149
MOONCAKE_REUSABLE = 0.650
AZURE_PROMPT = {10: 207, 25: 396, 50: 1020, 75: 1189, 90: 2735, 99: 4142}
AZURE_OUTPUT = {10: 54, 25: 85, 50: 129, 75: 395, 90: 424, 99: 601}
AZURE_PROMPT_MEAN, AZURE_OUTPUT_MEAN = 1155, 211
SERVEGEN_DAYS = [0.37, 0.37, 0.40, 0.41, 0.48, 0.49, 0.51, 0.55, 0.57, 0.58, 0.61, 0.65, 0.66, 0.84]
SERVEGEN_FORTNIGHT = 0.336


SAMPLES = Path(__file__).resolve().parents[5] / "shared/data"
MOONCAKE, AZURE, SERVEGEN = (
    SAMPLES / name
    for name in ("mooncake_synthetic_trace.jsonl", "azure_llm_conv.csv", "servegen_mlarge_10min_rate.csv")
)


def resembles(found: dict[int, int], published: dict[int, int], *, factor: float) -> bool:
    return all(1 / factor <= found[percent] / tokens <= factor for percent, tokens in published.items())


@pytest.mark.parametrize("seed", range(3))
def test_long_contexts_resemble_mooncakes(seed: int) -> None:
    found = statistics(generate(seed=seed))
    assert resembles(found.prompt.quantiles, MOONCAKE_PROMPT, factor=1.25), found.prompt
    assert resembles(found.output.quantiles, MOONCAKE_OUTPUT, factor=1.35), found.output
    assert found.prompt.mean == pytest.approx(MOONCAKE_PROMPT_MEAN, rel=0.15)
    assert found.output.mean == pytest.approx(MOONCAKE_OUTPUT_MEAN, rel=0.15)
    assert found.reusable_share == pytest.approx(MOONCAKE_REUSABLE, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_conversations_resemble_azures(seed: int) -> None:
    found = statistics(generate(seed=seed, workload=CONVERSATION))
    assert resembles(found.prompt.quantiles, AZURE_PROMPT, factor=1.4), found.prompt
    assert resembles(found.output.quantiles, AZURE_OUTPUT, factor=1.25), found.output
    assert found.prompt.mean == pytest.approx(AZURE_PROMPT_MEAN, rel=0.15)
    assert found.output.mean == pytest.approx(AZURE_OUTPUT_MEAN, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_rates_resemble_servegens(seed: int) -> None:
    rates = generate(seed=seed, days=14).rates()
    days = sorted(rates.part(day * 144, 144).mean_to_peak for day in range(14))
    assert all(SERVEGEN_DAYS[0] <= day <= SERVEGEN_DAYS[-1] for day in days), days
    assert days[7] == pytest.approx(SERVEGEN_DAYS[7], abs=0.1)
    assert rates.mean_to_peak == pytest.approx(SERVEGEN_FORTNIGHT, abs=0.1)


@pytest.mark.skipif(
    not all(sample.is_file() for sample in (MOONCAKE, AZURE, SERVEGEN)),
    reason=f"expected: NO PUBLIC TRACES HERE: {SAMPLES} has not all three",
)
def test_the_figures_above_are_those_of_the_samples() -> None:
    """Lengths within 0.1 % (means are noted in whole tokens, so within 0.5), shares within half of their last digit."""
    mooncake, azure = (statistics(read_trace(sample)) for sample in (MOONCAKE, AZURE))
    for found, noted in (
        (mooncake.prompt.quantiles, MOONCAKE_PROMPT), (mooncake.output.quantiles, MOONCAKE_OUTPUT),
        (azure.prompt.quantiles, AZURE_PROMPT), (azure.output.quantiles, AZURE_OUTPUT),
    ):  # fmt: skip
        assert {percent: found[percent] for percent in noted} == pytest.approx(noted, rel=0.001)
    for mean, noted_mean in (
        (mooncake.prompt.mean, MOONCAKE_PROMPT_MEAN), (mooncake.output.mean, MOONCAKE_OUTPUT_MEAN),
        (azure.prompt.mean, AZURE_PROMPT_MEAN), (azure.output.mean, AZURE_OUTPUT_MEAN),
    ):  # fmt: skip
        assert mean == pytest.approx(noted_mean, abs=0.5)
    assert mooncake.reusable_share == pytest.approx(MOONCAKE_REUSABLE, abs=0.0005)
    rates = read_rates(SERVEGEN)
    days = sorted(rates.part(day * 144, 144).mean_to_peak for day in range(14))
    assert days == pytest.approx(SERVEGEN_DAYS, abs=0.005)
    assert rates.mean_to_peak == pytest.approx(SERVEGEN_FORTNIGHT, abs=0.0005)


def test_a_workload_unlike_the_samples_is_noticed() -> None:
    found = statistics(generate(workload=CONVERSATION))
    assert not resembles(found.prompt.quantiles, MOONCAKE_PROMPT, factor=1.5)
    assert abs(found.reusable_share - MOONCAKE_REUSABLE) > 0.05


def test_the_seed_decides_all() -> None:
    trace = generate(seed=5, requests=300)
    assert list(trace) == list(trace) == list(generate(seed=5, requests=300))
    assert list(trace) != list(generate(seed=6, requests=300))
    assert trace.digest == generate(seed=5, requests=300).digest
    digests = {one.digest for one in (trace, generate(seed=6, requests=300), generate(seed=5, requests=301))}
    assert len(digests) == 3


def test_figures_of_a_seed_stay() -> None:
    """Published figures name their seed: a change of the generator changes them, and must be seen here."""
    first = list(islice(generate(seed=0), 3))
    assert [(round(one.at_s, 3), one.prompt_tokens, one.output_tokens) for one in first] == [
        (5.36, 148, 10),
        (20.569, 253, 7),
        (56.356, 12_015, 13),
    ]


@pytest.mark.parametrize("days, requests", [(0.5, 3_000), (1, 20_000), (7, 5_000)])
def test_number_and_time_of_requests_are_as_asked(days: float, requests: int) -> None:
    found = list(generate(days=days, requests=requests))
    assert len(found) == pytest.approx(requests, rel=0.08)
    assert found[0].at_s >= 0 and found[-1].at_s < days * 86_400
    assert all(earlier.at_s <= later.at_s for earlier, later in pairwise(found))


def test_a_million_requests_are_not_held_in_memory() -> None:
    trace: Trace = generate(days=14, requests=1_000_000)
    assert len(list(islice(trace, 1000))) == 1000


def test_prompts_of_a_session_grow_by_their_answers() -> None:
    """Whole blocks of an account form a tree: a block has the same block before it in each prompt."""
    before: dict[int, int] = {}
    owner: dict[int, int] = {}
    for request in generate(requests=4_000):
        assert len(request.blocks) == request.prompt_tokens // 512
        for parent, block in zip((-1, *request.blocks), request.blocks, strict=False):
            assert before.setdefault(block, parent) == parent
            assert owner.setdefault(block, request.account) == request.account
    assert len(set(owner.values())) > 50


def test_arrivals_follow_the_time_of_day() -> None:
    week = Week(swing=0.6, noise=0.0, weekend=1.0)
    hours = [0] * 24
    for request in generate(days=7, requests=20_000, week=week):
        hours[int(request.at_s // 3600) % 24] += 1
    assert abs(hours.index(max(hours)) - week.peak_hour) <= 3
    assert max(hours) > 2.5 * min(hours)


@pytest.mark.parametrize("cv", [1.0, 2.0])
def test_gaps_have_the_variation_that_was_asked_for(cv: float) -> None:
    single = replace(LONG_CONTEXT, single_share=1.0)
    week = Week(swing=0, noise=0, weekend=1)
    at = [one.at_s for one in generate(workload=single, week=week, cv=cv, requests=20_000)]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(cv, rel=0.07)


@pytest.mark.parametrize(
    "options",
    [{"days": 0}, {"days": float("nan")}, {"requests": 0}, {"requests": 10**9}, {"block_tokens": 0}],
)
def test_what_makes_no_trace_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a trace needs"):
        generate(**options)  # type: ignore[arg-type]


def test_lengths_have_their_median_and_bound() -> None:
    random = Random(1)
    drawn = sorted(LogNormal(1000, 1.0, 5_000).draw(random) for _ in range(20_001))
    assert drawn[10_000] == pytest.approx(1000, rel=0.05)
    assert drawn[16_827] == pytest.approx(2718, rel=0.06), "one standard deviation above"
    assert drawn[-1] == 5_000
