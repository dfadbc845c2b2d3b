"""Analysis of requests: lengths, bounds, and digests that say nothing without the account's salt."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.routing.analysis import (
    BLOCK_BYTES,
    MAX_BLOCKS,
    N_BUCKETS,
    PRIOR_TOKENS,
    History,
    Urgency,
    analyse,
    block_digests,
    bucket_of,
    canonical,
    expected_output,
    recorded,
)

SALT, OTHER = b"s" * 32, b"o" * 32
TEXT = bytes(range(256)) * 40


def history_of(*lengths: int) -> History:
    buckets = [0] * N_BUCKETS
    for tokens in lengths:
        buckets[bucket_of(tokens)] += 1
    return History(len(lengths), sum(lengths), tuple(buckets))


def chat(*contents: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def test_a_longer_prompt_has_the_digests_of_its_beginning() -> None:
    long, short = block_digests(TEXT, SALT), block_digests(TEXT[: 3 * BLOCK_BYTES + 7], SALT)
    assert long[:3] == short
    assert len(set(long)) == len(long) == len(TEXT) // BLOCK_BYTES


def test_a_digest_stands_for_all_before_it() -> None:
    changed = b"x" + TEXT[1:]
    assert not set(block_digests(TEXT, SALT)) & set(block_digests(changed, SALT))


def test_another_account_has_other_digests_of_the_same_prompt() -> None:
    assert not set(block_digests(TEXT, SALT)) & set(block_digests(TEXT, OTHER))


def test_no_digest_is_an_unsalted_hash() -> None:
    assert block_digests(TEXT, SALT) != block_digests(TEXT, b"")


def test_digests_fit_the_database() -> None:
    assert all(-(2**63) <= digest < 2**63 for digest in block_digests(TEXT, SALT))


def test_a_conversation_that_goes_on_begins_with_the_same_blocks() -> None:
    first = "Tell me of the sea. " * 200
    one, two = canonical(chat(first)), canonical(chat(first, "And then?"))
    shared = block_digests(one, SALT)
    assert len(shared) > 5
    assert block_digests(two, SALT)[: len(shared) - 1] == shared[:-1]


def test_a_very_long_prompt_costs_a_bounded_number_of_digests() -> None:
    assert len(block_digests(b"a" * (2 * MAX_BLOCKS * BLOCK_BYTES), SALT)) == MAX_BLOCKS


@given(st.integers(0, MAX_BLOCKS))
def test_few_digests_are_kept_and_the_deepest_is_among_them(n: int) -> None:
    digests = tuple(range(n))
    kept = recorded(digests)
    assert len(kept) <= 13
    assert set(kept) <= set(digests)
    assert not n or digests[-1] in kept


@given(st.lists(st.integers(0, 100_000), max_size=50), st.integers(1, 50_000))
def test_the_expectation_is_within_the_bound_and_the_bound_within_the_limit(
    lengths: list[int], limit: int
) -> None:
    expected, bound = expected_output(history_of(*lengths), limit)
    assert 1 <= expected <= bound <= limit


def test_a_key_without_history_is_expected_to_use_a_moderate_part_of_its_limit() -> None:
    assert expected_output(History(), 10_000) == (PRIOR_TOKENS, 10_000)
    assert expected_output(History(), 7) == (7, 7)


def test_a_key_with_short_answers_is_known_by_them() -> None:
    expected, bound = expected_output(history_of(*[12] * 200), 10_000)
    assert 12 <= expected <= 17
    assert bound == 16


def test_one_long_answer_in_a_hundred_does_not_raise_the_bound() -> None:
    assert expected_output(history_of(*[12] * 99, 9000), 10_000)[1] == 16
    assert expected_output(history_of(*[12] * 80, *[9000] * 20), 10_000)[1] == 10_000


def test_nonsense_in_a_history_stays_within_the_limit() -> None:
    assert expected_output(History(-5, -100, (0,) * N_BUCKETS), 100) == (100, 100)
    assert expected_output(History(9, 10**15, (0,) * N_BUCKETS), 100)[0] <= 100


def test_urgency_is_read_and_only_lowers_the_priority() -> None:
    def analysed(**urgency: int) -> tuple[int, float | None]:
        found = analyse(prompt=chat("x"), prompt_tokens=3, limit=9, salt=SALT, urgency=Urgency.of(urgency))
        return found.priority, found.deadline_s

    assert analysed() == (0, None)
    assert analysed(priority=-5, deadline_ms=1500) == (-5, 1.5)
    assert analysed(priority=7) == (0, None)
    assert Urgency.of(None) == Urgency()


def test_tokens_of_blocks_follow_their_share_of_the_text() -> None:
    prompt = chat("a" * 4096)
    found = analyse(prompt=prompt, prompt_tokens=1000, limit=9, salt=SALT)
    n_bytes = len(json.dumps(prompt, sort_keys=True, separators=(",", ":")))
    assert found.tokens_of(0) == 0
    assert found.tokens_of(4) == 1000 * 4 * BLOCK_BYTES // n_bytes
    assert found.tokens_of(10_000) == 1000
