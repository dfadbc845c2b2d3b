"""The split: decided by origins, stable, and without the same text on both sides."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.corpora.text_documents import TextDocument
from model.data.splitting import SHINGLE_WORDS, copied_shares, is_held_out, split


def document(text: str, origin: str = "o", answer: str | None = None) -> TextDocument:
    return TextDocument("corpus", "licence", f"path/{origin}", origin, text, answer)


def words(n: int, seed: int) -> str:
    random = Random(seed)
    return " ".join("".join(random.choices("abcdefghij", k=7)) for _ in range(n))


def origins(side: bool, n: int) -> list[str]:
    """Names of origins that are held out at one half, or not."""
    return [name for name in map(str, range(1000)) if is_held_out(name, 0.5) == side][:n]


TRAIN, HELD_OUT = origins(False, 9), origins(True, 9)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.text())
def test_a_larger_share_only_adds_to_what_is_held_out(one: float, other: float, origin: str) -> None:
    low, high = sorted((one, other))
    assert is_held_out(origin, high) or not is_held_out(origin, low)
    assert not is_held_out(origin, 0) and is_held_out(origin, 1)


def test_the_share_is_about_what_was_asked_for() -> None:
    n = sum(is_held_out(f"module/{number}", 0.05) for number in range(20_000))
    assert abs(n - 1000) < 3.3 * (1000 * 0.95) ** 0.5


def test_documents_of_one_origin_stay_together() -> None:
    documents = [document(words(20, number), str(number % 40)) for number in range(200)]
    sides = split(documents, 0.3)
    assert len(sides.train) + len(sides.held_out) == 200
    assert sides.held_out and sides.train
    assert not {d.origin for d in sides.train} & {d.origin for d in sides.held_out}


def test_more_documents_never_move_the_others() -> None:
    documents = [document(words(20, number), str(number)) for number in range(100)]
    few, all_of_them = split(documents[::2], 0.3), split(documents, 0.3)
    assert set(few.train) <= set(all_of_them.train) and set(few.held_out) <= set(all_of_them.held_out)


def test_documents_equal_but_for_case_and_blanks_stay_once() -> None:
    texts = ["One two.", "one  TWO.\n", "One two", "\tOne\ttwo.", "one two."]
    sides = split([document(text, TRAIN[0]) for text in texts], 0.5)
    assert [d.text for d in sides.train] == ["One two.", "One two"] and sides.n_duplicates == 3


def test_duplicates_across_the_split_are_not_held_out() -> None:
    text = words(30, 0)
    sides = split([document(text, TRAIN[0]), document(text.upper(), HELD_OUT[0])], 0.5)
    assert (len(sides.train), len(sides.held_out), sides.n_duplicates) == (1, 0, 1)


@pytest.mark.parametrize(("share", "is_kept"), [(1.0, False), (0.7, False), (0.3, True), (0.0, True)])
def test_held_out_documents_that_training_mostly_contains_are_left_out(share: float, is_kept: bool) -> None:
    own = words(200, 1).split()
    copied = own[: int(200 * share)]
    train = document(" ".join([words(50, 2), *copied, words(50, 3)]), TRAIN[0])
    sides = split([train, document(" ".join(own), HELD_OUT[0])], 0.5)
    assert len(sides.held_out) == is_kept and sides.n_copies == (not is_kept)
    assert sides.train == (train,)


def test_the_copied_share_counts_runs_of_words() -> None:
    own = words(112, 1).split()
    other = document(" ".join([*own[:62], *words(62, 2).split()]))
    (share,) = copied_shares([document(" ".join(own))], [other])
    assert share == pytest.approx((62 - SHINGLE_WORDS + 1) / (112 - SHINGLE_WORDS + 1))


def test_copies_are_found_in_any_case_and_wrapping_and_in_pieces() -> None:
    own = words(120, 1).split()
    halves = [document(" ".join(part).upper().replace(" ", "\n  ")) for part in (own[:66], own[54:])]
    assert copied_shares([document(" ".join(own))], halves) == [1.0]


def test_short_documents_are_copies_only_where_they_are_whole() -> None:
    short = document("just five words of text")
    assert copied_shares([short], [document("just five words of text")]) == [1.0]
    assert copied_shares([short], [document("just five words of text and more of it")]) == [0.0]
    assert copied_shares([document("")], [short]) == [0.0]


def test_single_words_and_orders_are_no_copies() -> None:
    own = words(100, 1).split()
    shuffled = Random(0).sample(own, len(own))
    assert copied_shares([document(" ".join(own))], [document(" ".join(shuffled))]) == [0.0]


def test_progress_counts_training_documents() -> None:
    seen: list[tuple[int, int]] = []
    documents = [document(words(20, number), name) for number, name in enumerate([*TRAIN, *HELD_OUT])]
    split(documents, 0.5, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


def test_answers_belong_to_their_document() -> None:
    one, other = document("q", TRAIN[0], "a"), document("q", TRAIN[0], "b")
    assert split([one, other], 0.5).n_duplicates == 0
    assert one.sha256 != other.sha256 and one.n_bytes == 3


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_outside_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split([], share)


def test_sides_may_be_empty() -> None:
    assert split([], 0.5).train == ()
    assert split([document("a b")], 0).held_out == ()
    assert split([document("a b")], 1).train == ()
