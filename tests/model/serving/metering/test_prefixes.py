"""What may be billed as cached: the engine's word, at most what the tenant has paid for. With engines that lie."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.serving.engine.scheduler import Scheduler
from model.serving.engine.sequence import SequenceState
from model.serving.metering.generation import Finish
from model.serving.metering.prefixes import PaidPrefixes
from model.serving.node.served import ServedModel, tiny
from tests.model.serving.engine.core_bench import Bench

TOKENS = st.lists(st.integers(0, 3), max_size=20)


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return tiny()


@given(paid=st.lists(TOKENS, max_size=5), prompt=TOKENS)
def test_the_bound_is_the_longest_common_beginning_in_whole_blocks(
    paid: list[list[int]], prompt: list[int]
) -> None:
    prefixes = PaidPrefixes(1000, 4)
    for tokens in paid:
        prefixes.add("a", tokens)
    common = [
        next(
            (i for i, (one, other) in enumerate(zip(tokens, prompt, strict=False)) if one != other),
            min(len(tokens), len(prompt)),
        )
        for tokens in paid
    ]
    assert prefixes.most_cached("a", prompt) == max((n // 4 * 4 for n in common), default=0)
    assert prefixes.most_cached("b", prompt) == 0


def test_the_record_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    prefixes = PaidPrefixes(3, 1)
    for token in range(4):
        prefixes.add("", [token])
        assert prefixes.most_cached("", [1]) == (token >= 1)  # used again each time
    assert len(prefixes) == 3
    assert [prefixes.most_cached("", [token]) for token in range(4)] == [0, 1, 1, 1]


def lying(monkeypatch: pytest.MonkeyPatch, n_cached: Any) -> None:
    """A scheduler, as a patch may have it, that says how much of a prompt was cached."""
    honest = Scheduler._hold_known

    def hold(self: Scheduler, sequence: SequenceState) -> bool:
        is_held = honest(self, sequence)
        sequence.n_cached = n_cached(sequence)
        return is_held

    monkeypatch.setattr(Scheduler, "_hold_known", hold)


def test_a_scheduler_that_calls_every_prompt_cached_saves_nothing(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, lambda sequence: len(sequence.tokens) - 1)
    bench = Bench(served)
    secret = bench.ask(list(range(40)))
    bench.run()
    assert bench.last(secret).usage.fresh_tokens == 40
    again, other = bench.ask(list(range(40))), bench.ask(list(range(40)), salt="another tenant")
    bench.run()
    assert bench.last(again).usage.cached_tokens in range(32, 40)  # it was paid for
    assert bench.last(other).usage.cached_tokens == 0
    assert bench.core.stats.cached_tokens == bench.last(again).usage.cached_tokens


def test_a_scheduler_that_puts_its_own_tokens_into_the_sequence_records_nothing_of_them(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, lambda sequence: len(sequence.tokens) - 1)
    bench = Bench(served)
    cheap = bench.ask([1, 2, 3], 4)
    bench.core.step()
    cheap.sequence.tokens[:] = list(range(40))
    bench.core.end(cheap, Finish.CANCELLED)
    secret = bench.ask(list(range(40)))
    bench.run()
    assert bench.last(secret).usage.fresh_tokens == 40


def test_a_prompt_that_ended_before_its_first_token_is_not_paid_for(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, lambda sequence: len(sequence.tokens) - 1)
    bench = Bench(served)
    for _ in range(3):
        early = bench.ask(list(range(200)))
        bench.core.step()
        bench.core.end(early, Finish.CANCELLED)
    secret = bench.ask(list(range(200)))
    bench.run()
    assert bench.last(secret).usage.fresh_tokens == 200


@pytest.mark.parametrize("said", [-5, 10**9])
def test_counts_that_cannot_be_are_bounded(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    lying(monkeypatch, lambda sequence: said)
    bench = Bench(served)
    jobs = []
    for _ in range(2):
        jobs.append(bench.ask(list(range(11))))
        bench.run()
    assert [0 <= bench.last(job).usage.cached_tokens <= 8 for job in jobs] == [True, True]
    assert bench.last(jobs[0]).usage.cached_tokens == 0


def test_an_answer_that_is_sent_back_counts_as_cached(served: ServedModel) -> None:
    bench = Bench(served)
    first = bench.ask(list(range(9)), 12)
    bench.run()
    conversation = [*range(9), *bench.tokens(first), 5, 6, 7]
    second = bench.ask(conversation)
    bench.run()
    assert bench.last(second).usage.cached_tokens == 20  # of 21 computed ones, in blocks of 4
