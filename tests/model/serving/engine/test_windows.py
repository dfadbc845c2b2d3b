"""The scheduler where every layer has a window: blocks behind it are given back, and prefixes found without them."""

from __future__ import annotations

from model.serving.engine.sequence import SequenceState
from tests.model.serving.engine.scheduler_world import World, plain_answer


def world(window: int, *, n_blocks: int = 100, step_tokens: int = 64) -> World:
    return World(n_blocks, block_tokens=4, max_running=4, step_tokens=step_tokens, window=window)


def test_blocks_behind_the_window_are_given_back_while_a_sequence_runs() -> None:
    w = world(6, step_tokens=8)
    sequence = w.submit([1] * 19, 40)
    held = []
    while w.scheduler.has_work:
        w.step()
        held.append(sequence.n_held)
    assert held[:3] == [5, 3, 2]  # of 20 places all at first; 8, then 16 tokens are read, then all 19
    assert set(held[3:-1]) == {2}  # the five tokens that the next one looks back on
    assert sequence.tokens[19:] == plain_answer([1] * 19, 40)


def test_a_prefix_is_found_by_what_its_window_needs_though_its_beginning_is_lost() -> None:
    w = world(5, n_blocks=6)
    prompt = [1, 2, 0, 1, 2, 2, 1, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1]  # four full blocks and one token
    w.submit(prompt, 1)
    w.run()
    w.submit([0] * 13, 1, salt="another")  # takes the room that was never used and what was left longest
    w.run()
    keys = SequenceState(prompt, len(prompt), 18).keys_to_find(4)
    assert w.pool.find(keys) == []
    before = w.n_computed
    again = w.submit(prompt, 1)
    w.run()
    assert again.n_cached == 16 and w.n_computed - before == 1


def test_a_prefix_whose_window_is_lost_is_not_found() -> None:
    w = world(9)
    prompt = [1, 2, 0, 1, 2, 2, 1, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1]
    w.submit(prompt, 1)
    w.run()
    keys = SequenceState(prompt, len(prompt), 18).keys_to_find(4)
    w.pool.forget_content([keys[2]])
    again = w.submit(prompt, 1)
    w.run()
    assert again.n_cached == 8
    assert again.tokens[17:] == plain_answer(prompt, 1)


def test_what_a_failed_sequence_gave_back_is_not_used_again_either() -> None:
    w = world(5)
    sequence = w.submit([1] * 22, 4)
    w.step()
    assert sequence.n_gone == 4 and w.pool.n_idle == 4
    w.scheduler.end(sequence, is_sound=False)
    assert w.pool.n_idle == 0 and w.pool.n_available == w.n_blocks
    again = w.submit([1] * 22, 1)
    w.run()
    assert again.n_cached == 0
