"""The engine's core, step by step on a clock of its own: answers side by side, counters that add up, deadlines, drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.sampling import Sampler, SamplingSettings
from model.serving.engine.stats import StepReport
from model.serving.executors.base import Part
from model.serving.metering.generation import EngineLimits, Event, Finish, Generation
from model.serving.metering.job import Job
from model.serving.metering.tokens import AnswerToken
from model.serving.node.served import ServedModel, tiny
from model.transformer import Transformer
from tests.model.serving.engine.core_bench import GREEDY, STEP_NS, Bench, speculating

WINDOW = 5


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return tiny()


@pytest.fixture(scope="module")
def windowed(served: ServedModel) -> ServedModel:
    config = replace(served.transformer.config, sliding_window=WINDOW)
    return replace(served, transformer=Transformer(config))


def test_each_token_is_an_event_with_what_was_chosen(served: ServedModel) -> None:
    bench = Bench(served)
    job = bench.ask([1, 2, 3], 4)
    bench.run()
    assert bench.tokens(job) == bench.plain([1, 2, 3], 4)
    assert [event.usage.completion_tokens for event in bench.events[job]] == [1, 2, 3, 4]
    assert bench.last(job).finish is Finish.LENGTH


def test_log_probabilities_come_with_the_tokens(served: ServedModel) -> None:
    bench = Bench(served)
    job = bench.ask([1, 2, 3], 2, settings=SamplingSettings(temperature=0, logprobs=2))
    bench.run()
    logits_V = bench.executor.logits([1, 2, 3])
    chosen = bench.events[job][0].chosen
    assert chosen is not None and chosen.logprob is not None
    assert chosen.logprob == pytest.approx(-math.log(np.exp(logits_V - logits_V.max()).sum()), abs=1e-5)
    assert len(chosen.top) == 2


def test_several_answers_are_those_of_their_own_seeds(served: ServedModel) -> None:
    bench = Bench(served)
    drawn = SamplingSettings(temperature=1, seed=5)
    prompt = list(range(6))
    job = bench.ask(prompt, 7, n=3, settings=drawn)
    bench.run()
    for answer in range(3):
        assert bench.tokens(job, answer) == bench.plain(prompt, 7, Sampler(drawn).fork(answer))
    assert len({tuple(bench.tokens(job, answer)) for answer in range(3)}) == 3
    usage = bench.last(job).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (6, 21)
    assert sorted(event.answer for event in bench.events[job] if event.finish) == [0, 1, 2]


def test_several_answers_read_their_prompt_once(served: ServedModel) -> None:
    bench = Bench(served)
    bench.ask(list(range(10)), 3, n=4)
    bench.run()
    assert bench.executor.n_computed == 10 + 4 * 2
    assert bench.executor.n_copies == 3


def test_more_answers_than_places_all_come(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=2, step_tokens=16))
    job = bench.ask(list(range(9)), 4, n=5, settings=SamplingSettings(seed=1))
    bench.run()
    for answer in range(5):
        expected = bench.plain(list(range(9)), 4, Sampler(SamplingSettings(seed=1)).fork(answer))
        assert bench.tokens(job, answer) == expected


def test_cancelling_ends_all_answers_even_those_not_begun(served: ServedModel) -> None:
    bench = Bench(served)
    early, late = bench.ask(list(range(40)), 9, n=2), bench.ask([1], 9, n=2)
    bench.core.step()
    bench.core.step()
    for job in (early, late):
        bench.core.end(job, Finish.CANCELLED)
        assert [e.finish for e in bench.events[job] if e.finish] == [Finish.CANCELLED] * 2
        assert bench.last(job).is_last
    assert not bench.core.has_work and bench.core.pool.n_held == 0


def test_a_cached_prefix_is_counted_once_and_exactly(served: ServedModel) -> None:
    bench = Bench(served)
    prompt = list(range(11))
    jobs = []
    for salt in ("", "", "another account"):
        jobs.append(bench.ask(prompt, salt=salt))
        bench.run()
    assert [bench.last(job).usage.cached_tokens for job in jobs] == [0, 8, 0]
    assert bench.last(jobs[1]).usage.fresh_tokens == 3
    assert bench.tokens(jobs[0]) == bench.tokens(jobs[1]) == bench.tokens(jobs[2])
    assert (bench.core.stats.prompt_tokens, bench.core.stats.cached_tokens) == (33, 8)


def test_a_preempted_request_counts_its_time_as_queued_and_is_not_cached_anew(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=2, step_tokens=16), {"n_blocks": 6})
    jobs = [bench.ask([i] * 7, 14, settings=SamplingSettings(seed=i)) for i in range(2)]
    bench.run()
    assert bench.core.scheduler.n_preemptions > 0
    for i, job in enumerate(jobs):
        assert bench.tokens(job) == bench.plain([i] * 7, 14, Sampler(SamplingSettings(seed=i)))
        usage = bench.last(job).usage
        assert usage.cached_tokens == 0
        assert usage.device_ns <= usage.prefill_ns + usage.decode_ns
    assert bench.last(jobs[1]).usage.queued_ns > bench.last(jobs[0]).usage.queued_ns


def test_held_memory_is_split_between_those_who_share_it(served: ServedModel) -> None:
    """Two requests over one cached prefix of two blocks: each pays half of those and all of its own."""
    bench = Bench(served)
    prompt = list(range(8))
    bench.ask(prompt, 1)
    bench.run()
    jobs = [bench.ask([*prompt, 50 + i], 3) for i in range(2)]
    start_ns = bench.clock.now_ns
    bench.run()
    elapsed_ns = bench.clock.now_ns - start_ns
    assert [bench.last(job).usage.kv_byte_ns for job in jobs] == [(2 * 500 + 1000) * elapsed_ns] * 2


def test_nothing_is_held_or_paid_while_waiting(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=1, step_tokens=16))
    bench.ask([1, 2], 9)
    waiting = bench.ask([3, 4], 9)
    for _ in range(5):
        bench.core.step()
    usage = waiting.meter.read(bench.clock.now_ns)
    assert (usage.queued_ns, usage.kv_byte_ns, usage.device_ns) == (5 * STEP_NS, 0, 0)


def test_a_deadline_that_passes_ends_what_waits_and_what_runs(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=1, step_tokens=16))
    running = bench.ask([1, 2], 50, deadline_ms=4, n=2)
    waiting = bench.ask([3, 4], 5, deadline_ms=3)
    unhurried = bench.ask([5, 6], 5)
    bench.run()
    assert bench.last(waiting).finish is Finish.DEADLINE and bench.tokens(waiting) == []
    assert bench.last(running).finish is Finish.DEADLINE
    assert 1 <= len(bench.tokens(running)) <= 4
    assert bench.last(unhurried).finish is Finish.LENGTH
    assert bench.core.stats.finished == {Finish.DEADLINE: 3, Finish.LENGTH: 1}


def test_a_prompt_that_cannot_be_read_in_time_is_not_begun(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=4, step_tokens=64), {"n_blocks": 200})
    bench.ask([1] * 64, 1)
    bench.run()  # 64 tokens took a step
    hopeless = bench.ask([2] * 400, 1, deadline_ms=5)
    possible = bench.ask([3] * 100, 1, deadline_ms=5)
    before = bench.executor.n_computed
    bench.run()
    assert bench.last(hopeless).finish is Finish.DEADLINE
    assert bench.last(possible).finish is Finish.LENGTH
    assert bench.executor.n_computed - before == 100


def test_a_failing_step_ends_its_own_and_leaves_no_trace(served: ServedModel) -> None:
    bench = Bench(served, executor_fields={"fails_at": lambda tokens: tokens[0] == 7})
    sick = bench.ask([7] * 10, n=2)
    bench.core.step()
    well = bench.ask([8] * 10)
    bench.run()
    assert [e.finish for e in bench.events[sick]] == [Finish.ERROR] * 2
    assert bench.last(well).finish is Finish.LENGTH
    assert bench.core.pool.n_held == 0
    bench.executor.fails_at = lambda tokens: False
    retried = bench.ask([7] * 10)
    bench.run()
    assert bench.last(retried).usage.cached_tokens == 0
    assert bench.tokens(retried) == bench.plain([7] * 10, 5)


def test_unusable_logits_end_only_their_own_answer(served: ServedModel) -> None:
    bench = Bench(served, executor_fields={"nan_at": lambda tokens: tokens[0] == 7 and len(tokens) == 12})
    sick, well = bench.ask([7] * 10), bench.ask([8] * 10)
    bench.run()
    assert (bench.last(sick).finish, bench.last(well).finish) == (Finish.ERROR, Finish.LENGTH)
    assert len(bench.tokens(sick)) == 2
    assert bench.core.stats.finished[Finish.ERROR] == 1
    bench.executor.nan_at = lambda tokens: False
    retried = bench.ask([7] * 10)
    bench.run()
    assert bench.last(retried).usage.cached_tokens == 0  # what led to them is not used again


def test_a_listener_that_fails_is_asked_no_more_than_its_end(served: ServedModel) -> None:
    bench = Bench(served)
    heard: list[Event] = []

    def broken(event: Event) -> None:
        heard.append(event)
        raise RuntimeError("the loop is closed")

    bench.core.add(Job(served, Generation((1, 2), 50, GREEDY, ignore_stop_tokens=True), broken, 0))
    bench.run(max_steps=3)
    assert [event.finish for event in heard] == [None, Finish.CANCELLED]


def test_speculation_changes_the_number_of_steps_and_nothing_else(served: ServedModel) -> None:
    plain, guessing = Bench(served), speculating(served)
    for bench in (plain, guessing):
        jobs = [bench.ask([i, 9], 30, stop=("zz",)) for i in range(2)]
        bench.run()
        for i, job in enumerate(jobs):
            assert bench.tokens(job) == bench.plain([i, 9], 30)
            counts = [event.usage.completion_tokens for event in bench.events[job]]
            assert counts == list(range(1, 31))
    assert len(guessing.reports) < 0.5 * len(plain.reports)
    stats = guessing.core.stats
    assert 0 < stats.n_accepted < stats.n_drafted
    assert stats.completion_tokens == 60


def test_speculation_ends_where_plain_decoding_does(served: ServedModel) -> None:
    """A stop token in the middle of accepted drafts: what stands behind it is dropped."""
    bench = speculating(served)
    answer = bench.plain([3, 4], 20)
    end = next(i for i in range(5, 20) if answer[i] not in answer[:i])

    class Stops:
        stop_tokens = frozenset({answer[end]})
        encode = encode_prompt = staticmethod(lambda text: list(text.encode()))
        token_bytes = staticmethod(lambda token: b"x")

    bench = speculating(replace(served, tokenizer=Stops()))
    job = bench.ask([3, 4], 20, ignore_stop_tokens=False)
    bench.run()
    assert bench.tokens(job) == answer[: end + 1]
    assert bench.last(job).finish is Finish.STOP


def test_a_failing_proposer_costs_only_the_guesses(served: ServedModel) -> None:
    bench = Bench(served, EngineLimits(max_running=3, step_tokens=16, max_drafts=3))

    class Broken:
        def propose(self, tokens: Sequence[int], n: int) -> list[int]:
            raise RuntimeError("no idea")

    bench.core.make_proposer = lambda sampler, blocks, n_running: Broken()
    job = bench.ask([3, 4], 6)
    bench.run()
    assert bench.tokens(job) == bench.plain([3, 4], 6)


def test_an_observer_that_fails_does_not_end_the_engine(served: ServedModel) -> None:
    bench = Bench(served)

    def broken(report: StepReport) -> None:
        raise RuntimeError("the registry is gone")

    bench.core.on_step = broken
    job = bench.ask([1], 3)
    bench.run()
    assert bench.last(job).finish is Finish.LENGTH


def test_abandoned_jobs_hear_of_their_end_without_the_scheduler(served: ServedModel) -> None:
    bench = Bench(served)
    job = bench.ask([1], 3, n=2)
    bench.core.scheduler = None  # type: ignore[assignment]
    bench.core.abandon(job)
    assert [event.finish for event in bench.events[job]] == [Finish.ERROR] * 2
    assert bench.last(job).is_last


REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.lists(st.integers(0, 1), min_size=1, max_size=20),
            "n_tokens": st.integers(1, 8),
            "n": st.integers(1, 3),
            "deadline_ms": st.none() | st.integers(1, 30),
            "owner": st.sampled_from(["", "a", "b"]),
            "leaves_after": st.none() | st.integers(0, 9),
        }
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(0, 6), st.booleans(), st.booleans())
def test_whatever_is_asked_the_counters_add_up(
    served: ServedModel,
    windowed: ServedModel,
    requests: list[dict[str, Any]],
    spare_blocks: int,
    speculates: bool,
    forgets: bool,
) -> None:
    """Busy time is charged to the last nanosecond; phases are lives; every answer ends once; nothing stays held."""
    make = speculating if speculates else Bench
    fields = {"n_blocks": 7 + spare_blocks, "window": WINDOW if forgets else None}
    bench = make(windowed if forgets else served, executor_fields=fields)
    leaving: list[tuple[int, Job]] = []
    for request in requests:
        asked = dict(request)
        leaves_after = asked.pop("leaves_after")
        job = bench.ask(asked.pop("prompt"), asked.pop("n_tokens"), **asked)
        if leaves_after is not None:
            leaving.append((len(bench.reports) + leaves_after, job))
        bench.core.step()
    while bench.core.has_work:
        bench.core.step()
        for when, job in leaving:
            if len(bench.reports) >= when:
                bench.core.end(job, Finish.CANCELLED)
    usages = [bench.last(job).usage for job in bench.events]
    assert sum(usage.device_ns for usage in usages) == bench.core.device.busy_ns
    assert bench.core.device.busy_ns == STEP_NS * len(bench.reports)
    assert sum(usage.completion_tokens for usage in usages) == bench.core.stats.completion_tokens
    for job, events in bench.events.items():
        ended = [event.answer for event in events if event.finish]
        assert sorted(ended) == list(range(job.generation.n))
        usage = bench.last(job).usage
        assert usage.completion_tokens == sum(event.chosen is not None for event in events)
        assert 0 <= usage.cached_tokens < usage.prompt_tokens
        assert usage.device_ns <= usage.prefill_ns + usage.decode_ns
        for answer in range(job.generation.n):
            tokens = bench.tokens(job, answer)
            assert tokens == bench.plain(job.generation.prompt, len(tokens))
    assert bench.core.pool.n_held == 0 and not bench.core.jobs


@pytest.mark.parametrize("window", [None, WINDOW])
def test_every_held_byte_is_charged_to_somebody(
    served: ServedModel, windowed: ServedModel, window: int | None
) -> None:
    """Over all requests it adds up to the pool's held bytes at each step; the size splits evenly up to 16 ways."""
    fields = {"bytes_per_block": 720_720, "n_blocks": 9 if window is None else 6, "window": window}
    bench = Bench(served if window is None else windowed, executor_fields=fields)
    held: list[int] = []
    step = bench.executor.step

    def watched(parts: Sequence[Part]) -> NDArray[np.float32]:
        held.append(bench.core.pool.n_held)
        return step(parts)

    bench.executor.step = watched  # type: ignore[method-assign]
    for i in range(6):
        bench.ask([1, 2, 3, 4, 5, 6, 7, 8, i % 3], 4 + 2 * i, n=1 + i % 3)
    bench.run()
    assert bench.core.scheduler.n_preemptions > 0
    total = sum(bench.last(job).usage.kv_byte_ns for job in bench.events)
    assert total == sum(held) * 720_720 * STEP_NS


def test_chosen_is_none_only_where_an_end_brings_no_token(served: ServedModel) -> None:
    bench = Bench(served)
    job = bench.ask([1], 9)
    bench.core.step()
    bench.core.end(job, Finish.CANCELLED)
    assert [isinstance(event.chosen, AnswerToken) for event in bench.events[job]] == [True, False]
