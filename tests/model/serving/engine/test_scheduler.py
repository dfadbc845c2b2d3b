"""The scheduler: budgets, chunks, preemption, sharing, turns, deadlines; and any arrivals at all come to their end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.serving.engine.blocks import BlockPool
from model.serving.engine.scheduler import AGEING_NS, NeverFitsError, Scheduler
from model.serving.engine.sequence import Phase, SequenceState
from tests.model.serving.engine.scheduler_world import STEP_NS, World, plain_answer


def world(**changes: int) -> World:
    sizes: dict[str, int] = {
        "n_blocks": 100,
        "block_tokens": 4,
        "max_running": 4,
        "step_tokens": 8,
        **changes,
    }
    return World(**sizes)


def test_a_prompt_is_read_in_chunks_and_then_decoded_token_by_token() -> None:
    w = world()
    w.submit([1] * 19, 3)
    assert [[work.n_tokens for work in w.step().works] for _ in range(5)] == [[8], [8], [3], [1], [1]]
    assert w.finished[0].tokens[19:] == plain_answer([1] * 19, 3)


def test_decoding_goes_on_while_a_long_prompt_is_read() -> None:
    w = world()
    short = w.submit([0, 1], 20)
    w.step()
    w.submit([2] * 30, 1)
    for _ in range(3):
        plan = w.step()
        assert [work.n_tokens for work in plan.works] == [1, 7]
        assert plan.works[0].sequence is short


def test_logits_are_asked_for_only_at_the_end_of_what_is_known() -> None:
    w = world()
    w.submit([1] * 11, 2)
    plan = w.scheduler.schedule(0)
    assert [work.n_logits for work in plan.works] == [0]
    w.scheduler.computed(plan.works[0].sequence, 8)
    assert [work.n_logits for work in w.scheduler.schedule(0).works] == [1]


def test_no_more_run_than_there_are_places() -> None:
    w = world(max_running=2)
    for _ in range(5):
        w.submit([1, 2], 4)
    assert len(w.step().works) == 2
    assert (len(w.scheduler.running), len(w.scheduler.waiting)) == (2, 3)
    w.run()
    assert len(w.finished) == 5


def test_a_second_prompt_that_begins_alike_computes_only_what_is_new() -> None:
    w = world(step_tokens=64)
    prompt = [1, 2, 0, 1, 2, 2, 1, 0, 1]  # two full blocks and one token
    w.submit(prompt, 1)
    w.run()
    before = w.n_computed
    again = w.submit([*prompt, 2], 1)
    w.run()
    assert again.n_cached == 8
    assert w.n_computed - before == 2


def test_of_a_prompt_that_is_known_wholly_the_last_token_is_computed_still() -> None:
    w = world(step_tokens=64)
    for _ in range(2):
        last = w.submit([1, 2, 0, 1, 2, 2, 1, 0], 1)
        w.run()
    assert last.n_cached == 4  # the last block would hold the last token, so it is computed
    assert [sequence.tokens for sequence in w.finished] == [w.finished[0].tokens] * 2


def test_answers_are_found_by_the_next_turn_of_a_conversation() -> None:
    w = world(step_tokens=64)
    first = w.submit([1, 2, 0], 10)
    w.run()
    follow = w.submit([*first.tokens, 1, 1], 1)
    w.run()
    assert follow.n_cached == 12  # the last answered token was never computed


def test_another_salt_shares_nothing() -> None:
    w = world(step_tokens=64)
    for salt in ("a", "bb"):
        last = w.submit([1] * 20, 1, salt=salt)
        w.run()
    assert last.n_cached == 0


def test_several_answers_share_the_prompts_blocks_until_they_write() -> None:
    w = world(step_tokens=64)
    w.submit([1, 2, 0, 1, 2, 0], 6, n_answers=3)
    w.step()
    assert w.pool.n_held == 2
    assert [w.pool.holders(block) for block in w.scheduler.running[0].blocks] == [3, 3]
    plan = w.step()
    assert len(plan.copies) == 2  # the last holder writes where it is
    assert w.pool.n_held == 4
    w.run()
    found = sorted(sequence.tokens[6:] for sequence in w.finished)
    assert found == sorted(plain_answer([1, 2, 0, 1, 2, 0], 6, answer) for answer in range(3))


def test_answers_without_a_place_wait_and_find_the_prompt_in_the_cache() -> None:
    w = world(max_running=2, step_tokens=64)
    w.submit([1, 2, 0, 1, 2, 0], 3, n_answers=5)
    w.step()
    assert (len(w.scheduler.running), len(w.scheduler.waiting)) == (2, 3)
    before = w.n_computed
    w.run()
    assert len(w.finished) == 5
    assert w.n_computed - before == 5 * 2 + 3 * 2  # the three read two tokens of their prompt again, then one


def test_when_blocks_run_out_the_lowest_gives_way_and_is_computed_again() -> None:
    w = world(n_blocks=5, max_running=2)
    first = w.submit([0] * 7, 9)
    second = w.submit([1] * 6, 9)
    w.run()
    assert (first.n_preempted, second.n_preempted) == (0, 1)
    assert w.scheduler.n_preemptions == 1
    assert second.tokens[6:] == plain_answer([1] * 6, 9)
    assert w.pool.n_held == 0


def test_a_higher_priority_is_preempted_last_even_if_it_came_last() -> None:
    w = world(n_blocks=5, max_running=2)
    low = w.submit([0] * 7, 9)
    high = w.submit([1] * 6, 9, priority=1)
    w.run()
    assert low.n_preempted > 0 and high.n_preempted == 0


def test_what_can_never_fit_is_refused_and_what_fits_alone_runs() -> None:
    w = world(n_blocks=3)
    with pytest.raises(NeverFitsError, match="3"):
        w.submit([1] * 10, 3)
    w.submit([1] * 10, 2)
    w.run()
    assert len(w.finished) == 1


def test_the_next_one_is_not_overtaken_by_a_smaller_one() -> None:
    w = world(n_blocks=6)
    w.submit([0] * 4, 12)
    w.step()
    big = w.submit([1] * 20, 1)
    small = w.submit([2], 1)
    w.step()
    assert big.phase is small.phase is Phase.WAITING
    w.run()
    assert [sequence.tokens[0] for sequence in w.finished] == [0, 1, 2]


def test_higher_priority_starts_first() -> None:
    w = world(max_running=1)
    w.submit([0], 3)
    w.step()
    w.submit([1], 1)
    w.submit([2], 1, priority=2)
    w.run()
    assert [sequence.tokens[0] for sequence in w.finished] == [0, 2, 1]


def test_waiting_long_enough_outdoes_priority() -> None:
    w = world(max_running=1)
    w.submit([0], 3)
    w.step()
    old = w.submit([1], 1)
    w.now_ns += 2 * AGEING_NS
    w.submit([2], 1, priority=1)
    w.run()
    assert [sequence.tokens[0] for sequence in w.finished] == [0, 1, 2]
    assert old.rank[0] == -2


def test_the_least_served_owner_is_next_however_much_another_has_queued() -> None:
    w = world(max_running=1)
    for _ in range(4):
        w.submit([0], 6, owner="greedy")
    w.step()
    w.submit([1], 6, owner="modest")
    w.submit([1], 6, owner="modest")
    w.run()
    owners = [sequence.owner for sequence in w.finished]
    assert owners == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


def test_within_a_step_the_least_served_owners_prompt_is_read_first() -> None:
    w = world(max_running=3, step_tokens=8)
    w.submit([0] * 60, 1, owner="long")
    w.step()
    w.submit([1] * 6, 1, owner="short")
    assert [work.sequence.owner for work in w.step().works] == ["long"]  # level, and it came first
    works = w.step().works
    assert [(work.sequence.owner, work.n_tokens) for work in works] == [("short", 6), ("long", 2)]


def test_computing_again_after_preemption_is_charged_to_nobody() -> None:
    w = world(n_blocks=5, max_running=2)
    sequences = [w.submit([index] * 6, 9, owner=str(index)) for index in range(2)]
    turns = w.scheduler.turns
    w.submit([2], 13, owner="idle")  # keeps the counters from being forgotten
    while any(sequence.phase is not Phase.ENDED for sequence in sequences):
        w.step()
        for sequence in sequences:
            assert turns.served(sequence.owner) <= sequence.max_length
    assert w.scheduler.n_preemptions > 0


def test_right_drafts_save_steps_and_wrong_ones_change_nothing() -> None:
    n_steps = {}
    for max_drafts in (0, 3):
        w = world(max_drafts=max_drafts)
        w.submit([1, 2], 40)
        n_steps[max_drafts] = 0
        while w.scheduler.has_work:
            w.step()
            n_steps[max_drafts] += 1
        assert w.finished[0].tokens[2:] == plain_answer([1, 2], 40)
    assert n_steps[3] < n_steps[0] * 0.6


def test_drafts_take_only_what_prompts_leave_over() -> None:
    w = world(max_drafts=4, step_tokens=8)
    w.submit([1, 2], 40)
    w.step()
    w.submit([2] * 12, 1)
    assert [(work.n_tokens, len(work.drafts)) for work in w.step().works] == [(1, 0), (7, 0)]
    assert [(work.n_tokens, len(work.drafts)) for work in w.step().works] == [(1, 2), (5, 0)]


def test_drafts_never_pass_the_end_or_take_a_block_from_others() -> None:
    w = world(max_drafts=4, step_tokens=20, n_blocks=4)
    w.submit([1, 2, 0], 5)
    w.submit([2, 2, 0], 5)
    w.run()
    assert w.scheduler.n_preemptions == 0
    assert [len(sequence.tokens) for sequence in w.finished] == [8, 8]


def test_the_overdue_are_named_waiting_or_running() -> None:
    w = world(max_running=1)
    running = w.submit([0], 9, deadline_ns=5 * STEP_NS)
    w.step()
    waiting = w.submit([1] * 9, 9, deadline_ns=3 * STEP_NS)
    w.submit([1] * 9, 9)
    assert w.scheduler.overdue(2 * STEP_NS) == []
    assert w.scheduler.overdue(2 * STEP_NS, ns_per_token=STEP_NS / 9) == [waiting]
    assert w.scheduler.overdue(3 * STEP_NS) == [waiting]
    assert w.scheduler.overdue(5 * STEP_NS) == [waiting, running]


def test_what_is_cached_needs_no_time_to_be_read() -> None:
    w = world()
    w.submit([1] * 17, 1)
    w.run()
    w.submit([1] * 17, 1, deadline_ns=w.now_ns + 2 * STEP_NS)
    assert w.scheduler.overdue(w.now_ns, ns_per_token=STEP_NS) == []  # 1 token is fresh, 16 are cached
    w.submit([2] * 17, 1, deadline_ns=w.now_ns + 2 * STEP_NS)
    assert len(w.scheduler.overdue(w.now_ns, ns_per_token=STEP_NS)) == 1


def test_ending_gives_everything_back_in_any_phase() -> None:
    w = world(max_running=1)
    running, waiting = w.submit([1] * 6, 4), w.submit([2] * 6, 4)
    w.step()
    for sequence in (running, waiting, running):
        w.scheduler.end(sequence)
    assert w.pool.n_held == 0 and not w.scheduler.has_work
    assert running.phase is waiting.phase is Phase.ENDED


def test_what_a_failed_step_wrote_is_not_used_again() -> None:
    w = world(step_tokens=64)
    sequence = w.submit([1] * 12, 4)
    w.step()
    w.scheduler.end(sequence, is_sound=False)
    again = w.submit([1] * 12, 1)
    w.run()
    assert again.n_cached == 0


def test_a_budget_that_prompts_would_starve_under_is_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens"):
        Scheduler(BlockPool(4, 4), max_running=8, step_tokens=8)


ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "after": st.integers(0, 4),
            "prompt": st.lists(st.integers(0, 1), min_size=1, max_size=14),
            "n_tokens": st.integers(1, 9),
            "n_answers": st.integers(1, 3),
            "salt": st.sampled_from(["", "salted"]),
            "owner": st.sampled_from("abc"),
            "priority": st.integers(0, 2),
            "cancelled_after": st.none() | st.integers(0, 12),
        }
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    ARRIVALS,
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([0, 0, 3]),
    st.none() | st.integers(1, 12),
)
def test_whatever_arrives_and_leaves_all_finish_right_and_no_block_is_lost(
    arrivals: list[dict[str, object]],
    block_tokens: int,
    spare_blocks: int,
    max_running: int,
    spare_budget: int,
    max_drafts: int,
    window: int | None,
) -> None:
    """Caches from just large enough for the largest request alone, cancels at any time, answers side by side, windows."""
    fields = [dict(arrival) for arrival in arrivals]
    longest = max((len(f["prompt"]) + f["n_tokens"] for f in fields), default=1)  # type: ignore[arg-type, operator]
    w = World(
        n_blocks=-(-longest // block_tokens) + spare_blocks,
        block_tokens=block_tokens,
        max_running=max_running,
        step_tokens=max_running + spare_budget,
        max_drafts=max_drafts,
        window=window,
    )
    leaving: list[tuple[int, SequenceState]] = []
    expected, n_steps = 0, 0

    def step() -> None:
        nonlocal n_steps
        w.step()
        n_steps += 1
        for when, sequence in leaving:
            if n_steps >= when:
                w.scheduler.end(sequence)
        w.check_blocks()

    for f in fields:
        for _ in range(f.pop("after")):  # type: ignore[call-overload]
            step()
        cancelled_after = f.pop("cancelled_after")
        sequence = w.submit(**f)  # type: ignore[arg-type]
        if cancelled_after is None:
            expected += f["n_answers"]  # type: ignore[operator]
        else:
            leaving.append((n_steps + cancelled_after, sequence))  # type: ignore[operator]
    while w.scheduler.has_work:
        step()
        assert n_steps < 3000, "somebody starves"
    assert len(w.finished) >= expected
    for sequence in w.finished:
        prompt, answer = sequence.tokens[: sequence.n_prompt], sequence.tokens[sequence.n_prompt :]
        assert answer == plain_answer(prompt, len(answer), w.answer_of[id(sequence)])
    assert w.pool.n_held == 0
    assert w.pool.n_available == w.n_blocks
    assert not w.scheduler.turns._active and not w.scheduler.turns._served


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_nobody_starves_under_a_stream_of_higher_priorities(seed: int) -> None:
    draw = random.Random(seed)
    w = world(max_running=2, n_blocks=6)
    lowly = w.submit([0] * 5, 6, owner="lowly")
    for _ in range(400):
        w.now_ns += AGEING_NS // 20
        if len(w.scheduler.waiting) < 4:
            w.submit([draw.randrange(3)] * draw.randrange(1, 9), 3, priority=2, owner=draw.choice("xyz"))
        w.step()
        if lowly.phase is Phase.ENDED:
            break
    assert lowly.phase is Phase.ENDED, "the low priority never had its turn"
