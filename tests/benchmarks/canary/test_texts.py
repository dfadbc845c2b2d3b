"""Texts, calls and planted words of a canary."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.canary.order import Plan, Shape
from benchmarks.canary.planted import counter, inner_ids, secret_of
from benchmarks.canary.texts import COMMON, made_up_word, sentence, text
from benchmarks.canary.tokens import tokenizer_of
from benchmarks.canary.work import MIXED_OUTPUT, MOST_PROMPT, Call, Work
from benchmarks.pairs.seeds import Seeds

TOKENIZER = tokenizer_of(None, "tiny")
COUNT = counter(TOKENIZER)
PLAN = Plan((Shape(200, 24), Shape(5, 1), Shape(100_000, 100_000)), (1, 4, 7), 30)


def work(seed: int = 1, *, plan: Plan = PLAN, max_context: int = 512) -> Work:
    made = Work(plan, Seeds(bytes([seed]) * 32), TOKENIZER)
    made.fit(max_context)
    return made


@pytest.mark.parametrize("tokens", [24, 48, 333])
def test_a_text_has_nearly_so_many_tokens_and_never_more(tokens: int) -> None:
    for seed in range(20):
        made = text(random.Random(seed), tokens, COUNT)
        assert tokens * 3 // 4 - 10 <= COUNT(made) <= tokens


def test_a_secret_is_in_its_text_once_and_whole() -> None:
    for seed in range(50):
        order = random.Random(seed)
        word = made_up_word(order)
        made = text(order, 60, COUNT, secret=word)
        assert made.split().count(word) == 1 and COUNT(made) <= 60


def test_a_secret_without_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer prompts"):
        text(random.Random(1), 8, COUNT, secret="a" * 16)


def test_made_up_words_are_in_texts_without_secrets_too() -> None:
    """So a planted word cannot be told from others."""
    words = " ".join(sentence(random.Random(seed)) for seed in range(50)).lower().replace(".", "").split()
    assert any(len(word) == 16 for word in words)


def test_a_model_of_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--models"):
        tokenizer_of(None, "smollm2")
    with pytest.raises(ValueError, match="is missing"):
        tokenizer_of(tmp_path, "smollm2")


def every_call(made: Work) -> list[Call]:
    calls = []
    for number in range(6):
        planted = made.planted(number)
        calls += [made.first(number), *planted, *made.mixed(number)]
        calls += [call for pair in made.pairs_of(number) for call in made.timed(pair)]
        calls += made.probes(number, planted)
    return calls


def test_each_pair_is_clocked_once_at_every_batch() -> None:
    calls = [call for call in every_call(work()) if call.pair is not None]
    found = sorted((call.pair, call.case, call.batch) for call in calls if call.pair is not None)
    wanted = [(pair, "decode", batch) for pair in range(30) for batch in (1, 4, 7)]
    assert found == sorted(wanted + [(pair, "prefill", 1) for pair in range(30)])


def test_prompts_and_owners_are_never_used_again_but_for_the_repeated_one() -> None:
    calls = every_call(work())
    asks = [ask for call in calls if call.case not in ("repeated", "probe") for ask in call.asks]
    assert len({ask.prompt for ask in asks}) == len(asks)
    everyone = [ask.owner for call in calls for ask in call.asks]
    assert len(set(everyone)) == len(everyone)
    repeated = [call for call in calls if call.case == "repeated"]
    assert all(call.asks[0].prompt in {ask.prompt for ask in asks} for call in repeated)


@pytest.mark.parametrize("tokens_of_a_word", [1, 2, 9])
def test_the_shortest_prompts_differ_too(tokens_of_a_word: int) -> None:
    """As a slow model's decode calls have them, whatever its tokenizer makes of a word."""

    def count(text: str) -> int:
        return sum(9 if len(word) > 12 else tokens_of_a_word for word in text.split())

    made = [text(random.Random(seed), 6 * tokens_of_a_word, count) for seed in range(2_000)]
    assert len(set(made)) == len(made)
    assert {len(one.split()) for one in made} >= {6}


def test_prompts_of_a_slow_model_s_decode_calls_are_as_long_as_six_words() -> None:
    slow = work()
    slow.shorten_timed(10_000_000_000, 70_000_000_000)
    calls = [call for pair in range(30) for call in slow.timed(pair) if call.case == "decode"]
    prompts = [str(ask.prompt) for call in calls for ask in call.asks]
    six_words = 6 * (COUNT(" ".join(COMMON)) + 1) / len(COMMON)
    assert all(six_words / 2 < COUNT(prompt) < six_words + 1 for prompt in prompts)
    assert len(set(prompts)) == len(prompts)


def test_every_request_fits_the_context() -> None:
    for call in every_call(work(max_context=256)):
        for ask in call.asks:
            assert COUNT(ask.prompt) + ask.output_tokens + 30 <= 256
            assert 1 <= ask.output_tokens <= MIXED_OUTPUT[1] and COUNT(ask.prompt) <= MOST_PROMPT


def lengths(made: Work) -> tuple[int, int, int]:
    """Of clocked calls the longest prompt and answer, and the longest answer of a mixed batch."""
    timed = [ask for pair in range(30) for call in made.timed(pair) for ask in call.asks]
    mixed = [ask for call in made.mixed(0) for ask in call.asks]
    return (
        max(COUNT(str(ask.prompt)) for ask in timed),
        max(ask.output_tokens for ask in timed),
        max(ask.output_tokens for ask in mixed),
    )


def test_a_slow_model_gets_shorter_calls_that_take_the_same_time() -> None:
    fast, middle, slow = work(), work(), work()
    fast.fit_mixed(4_000_000)
    fast.shorten_timed(500_000, 2_000_000)
    assert lengths(fast) == lengths(work())
    middle.fit_mixed(20_000_000)
    middle.shorten_timed(20_000_000, 120_000_000)
    prompt, output, mixed = lengths(middle)
    assert 200 <= prompt <= 240 and output == 11 and 20 < mixed <= 28
    assert 2 * 30 * output * 0.12 <= 120
    slow.fit_mixed(10_000_000_000)
    slow.shorten_timed(10_000_000_000, 70_000_000_000)
    prompt, output, mixed = lengths(slow)
    assert 40 <= prompt <= 48 and (output, mixed) == (4, 8)


def test_a_fast_model_gets_mixed_batches_whose_requests_are_answered_at_once() -> None:
    fast = work(max_context=4096)
    fast.fit_mixed(500_000)
    assert 400 < lengths(fast)[2] <= 500, "a quarter of a second"
    small = work(max_context=256)
    small.fit_mixed(100_000)
    for ask in (ask for call in small.mixed(0) for ask in call.asks):
        assert MIXED_OUTPUT[1] < ask.output_tokens and COUNT(ask.prompt) + ask.output_tokens + 30 <= 256


def test_a_context_without_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="too short"):
        work(max_context=100)


def test_the_same_secret_gives_the_same_calls_and_another_one_others() -> None:
    assert every_call(work(3)) == every_call(work(3))
    assert work(3).timed(0)[0].asks != work(4).timed(0)[0].asks


def forms(word: str) -> dict[str, bytes]:
    ids = inner_ids(word, TOKENIZER)
    return {
        "text": f"x{word}y".encode(),
        "upper case": word.upper().encode(),
        "backwards": word[::-1].encode(),
        "hex": word.encode().hex().upper().encode(),
        "utf-16": word.encode("utf-16"),
        **{f"base64 at {n}": base64.b64encode(b"?" * n + word.encode() + b"!" * n) for n in range(5)},
        "a list of ids": str(list(ids)).encode(),
        "ids as JSON": str(list(ids)).replace(" ", "").encode(),
        "ids as int32": np.array(ids, np.int32).tobytes(),
        "ids as int64": np.array(ids, np.int64).tobytes(),
    }


@pytest.mark.parametrize("name", list(forms("bagadaharalamana")))
def test_a_planted_word_is_found_in_every_form(name: str) -> None:
    for seed in range(20):
        word = made_up_word(random.Random(seed))
        assert secret_of(word, TOKENIZER).found_in(b"before " + forms(word)[name] + b" after")


def test_a_planted_word_is_not_found_elsewhere() -> None:
    secret = secret_of(made_up_word(random.Random(1)), TOKENIZER)
    others = " ".join(sentence(random.Random(seed)) for seed in range(1_000)).encode()
    assert not secret.found_in(others) and not secret.found_in(random.Random(2).randbytes(1 << 20))
