"""Streams: every token once an epoch, shares kept, exact resumption anywhere, equal global batches on any ranks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError
from model.data.arrow.token_documents import Span
from model.data.batches.batch import IGNORED, PADDING, Batch
from model.data.batches.curriculum import Curriculum, LengthWarmup, Stage, three_stages
from model.data.batches.drawing import Drawer, piece_at
from model.data.batches.stream import DataStream
from model.data.errors import DataError, StateError
from tests.model.data.memory_documents import MemoryDocuments

pytestmark = pytest.mark.slow

# Ids tell sources and documents apart: general 1000s, domain 100000s; instructions have an answer.
LENGTHS = {"general": [2, 9, 40, 17, 3, 25, 8, 61, 5, 12], "domain": [30, 4, 4, 55, 21]}
INSTRUCTIONS = 12


def documents(first: int, lengths: list[int]) -> MemoryDocuments:
    return MemoryDocuments([range(first + 100 * n, first + 100 * n + size) for n, size in enumerate(lengths)])


def instructions() -> MemoryDocuments:
    ids = [range(10**6 + 100 * n, 10**6 + 100 * n + 6 + n) for n in range(INSTRUCTIONS)]
    return MemoryDocuments(ids, [((3, 6 + n),) for n in range(INSTRUCTIONS)])


SOURCES = {
    "general": documents(1_000, LENGTHS["general"]),
    "domain": documents(100_000, LENGTHS["domain"]),
    "instruction": instructions(),
}
ONE = Curriculum((Stage("only", 1.0, {"general": 1.0}, 16),), 1_000)
THREE = three_stages(3_000, 24, replay=0.2, warmup=LengthWarmup(8, 900, steps=3))


def stream(curriculum: Curriculum = THREE, **changes: Any) -> DataStream:
    return DataStream(SOURCES, curriculum, **{"batch_tokens": 48, "seed": 1, "window_tokens": 200, **changes})


def same(one: Batch, other: Batch) -> bool:
    names = ("tokens_BS", "positions_BS", "documents_BS", "targets_BS")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def take(batches: DataStream, n: int) -> list[Batch]:
    return [next(batches) for _ in range(n)]


def transitions(batches: list[Batch]) -> Counter[tuple[int, int]]:
    """(token, next token) of every scored position."""
    pairs: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        scored = batch.targets_BS != IGNORED
        pairs.update(zip(batch.tokens_BS[scored].tolist(), batch.targets_BS[scored].tolist(), strict=True))
    return pairs


@pytest.mark.parametrize("layout", ["packed", "bucketed"])
def test_an_epoch_scores_every_transition_once(layout: str) -> None:
    """One window over exactly one epoch, gone through to its end."""
    n_tokens = sum(length - 1 for length in LENGTHS["general"])
    whole = stream(ONE, layout=layout, window_tokens=n_tokens, batch_tokens=16 if layout == "packed" else 48)
    batches = []
    while whole.tokens_seen < n_tokens:
        batches.append(next(whole))
    assert whole.tokens_seen == n_tokens
    expected = Counter((int(a), int(b)) for ids in SOURCES["general"].ids for a, b in itertools.pairwise(ids))
    assert transitions(batches) == expected
    assert whole.epochs == {"general": 1.0}


@pytest.mark.parametrize("layout", ["packed", "bucketed"])
def test_positions_and_documents_follow_the_pieces(layout: str) -> None:
    for batch in take(stream(ONE, layout=layout), 30):
        for row in range(batch.tokens_BS.shape[0]):
            numbers = batch.documents_BS[row].tolist()
            filled = [number for number in numbers if number != PADDING]
            assert numbers == filled + [PADDING] * (len(numbers) - len(filled))
            assert filled == sorted(filled) and set(filled) == set(range(len(set(filled))))
            for number in set(filled):
                here = batch.documents_BS[row] == number
                tokens, positions = batch.tokens_BS[row, here], batch.positions_BS[row, here]
                assert torch.equal(positions, torch.arange(len(positions)))
                assert torch.equal(tokens, tokens[0] + positions)  # one document's ids, in order
                assert torch.equal(batch.targets_BS[row, here], tokens + 1)
            if layout == "bucketed":
                assert set(filled) == {0}


def test_packed_batches_have_one_shape_and_bucketed_ones_keep_the_budget() -> None:
    assert {tuple(batch.tokens_BS.shape) for batch in take(stream(ONE), 30)} == {(3, 16)}
    shapes = {tuple(batch.tokens_BS.shape) for batch in take(stream(ONE, layout="bucketed"), 60)}
    assert all(rows * width <= 48 and width % 8 == 0 for rows, width in shapes)
    assert len(shapes) > 2


def test_a_bucketed_batch_is_never_wider_than_its_sequences_may_be() -> None:
    odd = Curriculum((Stage("only", 1.0, {"general": 1.0}, 29),), 1_000)
    batches = take(stream(odd, layout="bucketed"), 60)
    widths = {batch.tokens_BS.shape[1] for batch in batches}
    assert max(widths) == 29 and all(width % 8 == 0 for width in widths - {29})
    longest = [int((batch.documents_BS != PADDING).sum(1).max()) for batch in batches]
    assert max(longest) == 29  # some document fills it


def test_a_packed_batch_may_hold_one_sequence_of_any_length() -> None:
    odd = Curriculum((Stage("only", 1.0, {"general": 1.0}, 29),), 1_000)
    assert next(stream(odd, batch_tokens=29)).tokens_BS.shape == (1, 29)
    with pytest.raises(ConfigError, match="batch_tokens must be at least 32"):
        stream(odd, batch_tokens=29, layout="bucketed")


def test_documents_are_split_only_where_they_are_longer_than_a_sequence() -> None:
    n_tokens = sum(length - 1 for length in LENGTHS["general"])
    whole = stream(ONE, window_tokens=n_tokens, batch_tokens=16)
    pieces: Counter[int] = Counter()
    while whole.tokens_seen < n_tokens:
        batch = next(whole)
        for number in set(batch.documents_BS[0].tolist()) - {PADDING}:
            pieces[int(batch.tokens_BS[0, batch.documents_BS[0] == number][0]) // 100 - 10] += 1
    assert pieces == {n: -(-(length - 1) // 16) for n, length in enumerate(LENGTHS["general"])}


def test_epochs_come_in_different_orders_and_seeds_too() -> None:
    def starts(seed: int) -> list[int]:
        drawer = Drawer({"general": SOURCES["general"]}, seed)
        pieces, _ = drawer.draw(drawer.start(), {"general": 1.0}, 2 * 172, 1_000)
        return [piece.document for piece in pieces]

    first, second = starts(0)[:10], starts(0)[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert starts(1)[:10] != first


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SOURCES)), st.floats(0.05, 5), min_size=1),
    st.integers(1, 3_000),
    st.integers(9, 40),
)
def test_sources_keep_their_shares_to_a_piece(mixture: dict[str, float], n_tokens: int, length: int) -> None:
    drawer = Drawer(SOURCES, 0)
    pieces, drawn = drawer.draw(drawer.start(), mixture, n_tokens, length)
    total = sum(piece.length for piece in pieces)
    assert n_tokens <= total < n_tokens + length
    assert sum(drawn.tokens.values()) == total
    for name, weight in mixture.items():
        given_tokens = sum(piece.length for piece in pieces if piece.source == name)
        assert abs(given_tokens - total * weight / sum(mixture.values())) <= length * len(mixture)
        assert drawn.tokens[name] == given_tokens


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(9, 40))
def test_drawing_in_parts_is_drawing_at_once(parts: list[int], length: int) -> None:
    drawer, mixture = Drawer(SOURCES, 0), {"general": 1.0, "domain": 2.0}
    together, state = [], drawer.start()
    for n_tokens in parts:
        pieces, state = Drawer(SOURCES, 0).draw(state, mixture, n_tokens, length)
        together += pieces
    total = sum(piece.length for piece in together)
    assert drawer.draw(drawer.start(), mixture, total, length) == (together, state)


def test_a_source_s_epochs_grow_with_each_of_its_documents() -> None:
    drawer, n_documents = Drawer(SOURCES, 0), len(LENGTHS["general"])
    drawn = drawer.start()
    for n_drawn in range(1, 2 * n_documents + 2):
        _, drawn = drawer.draw(drawn, {"general": 1.0}, 1, 10_000)
        assert drawer.epochs(drawn)["general"] == pytest.approx(n_drawn / n_documents)
    assert drawer.epochs(drawn)["domain"] == 0


def test_a_stage_draws_from_its_own_mixture() -> None:
    batches = stream(THREE)
    tokens: dict[str, Counter[str]] = {"general": Counter(), "domain": Counter(), "instruction": Counter()}
    while batches.tokens_seen < 3_000:
        name = batches.moment.stage.name
        batch = next(batches)
        for token in batch.tokens_BS[batch.documents_BS != PADDING].tolist():
            kind = "instruction" if token >= 10**6 else "domain" if token >= 100_000 else "general"
            tokens[name][kind] += 1
    assert set(tokens["general"]) == {"general"}
    domain = tokens["domain"]
    assert domain["domain"] / domain.total() == pytest.approx(0.8, abs=0.1)
    assert tokens["instruction"]["instruction"] > tokens["instruction"]["general"]
    assert domain.total() == pytest.approx(3_000 * 10 / 51, abs=2 * 48)


def test_epochs_count_what_was_delivered() -> None:
    n_tokens = sum(length - 1 for length in LENGTHS["general"])
    batches = stream(ONE, window_tokens=10 * n_tokens)
    for _ in range(40):
        next(batches)
        assert batches.epochs["general"] == pytest.approx(batches.tokens_seen / n_tokens, abs=0.5)


def test_sequences_grow_with_the_curriculum() -> None:
    batches = stream(THREE)
    for _ in range(60):
        expected = batches.moment.sequence_length
        batch = next(batches)
        assert batch.tokens_BS.shape == (48 // expected, expected)
    assert {segment.sequence_length for segment in THREE.segments} == {8, 24, 16}


def test_no_more_than_two_batches_are_passed_over_at_a_segment_s_end() -> None:
    """With one source, what was drawn is little more than what was delivered."""
    curriculum = Curriculum(
        (Stage("a", 1.0, {"general": 1.0}, 16), Stage("b", 1.0, {"general": 1.0}, 16)), 1_000
    )
    batches = stream(curriculum, window_tokens=10_000)
    while batches.tokens_seen < 500:
        next(batches)
    drawn = batches._drawer.epochs(batches._next_draw)["general"] * sum(
        length - 1 for length in LENGTHS["general"]
    )
    assert drawn - batches.tokens_seen < 2 * 48 + 61


def test_instructions_are_cut_rather_than_continued() -> None:
    ids = range(40)
    for answers, expected in (
        (((3, 40),), [(0, 16)]),  # cut: an answer without its question is no instruction
        (((16, 40),), [(0, 16)]),  # its first token is the last that is scored
        (((17, 40),), []),
        ((), [(0, 16), (16, 16), (32, 7)]),
    ):
        pieces, start = [], 0
        while piece := piece_at("a", 0, len(ids), answers, start, 16):
            pieces.append((piece.start, piece.length))
            start = piece.end
        assert pieces == expected


def test_instructions_that_do_not_fit_are_passed_over() -> None:
    source = MemoryDocuments([range(40), range(100, 108)], [((30, 40),), ((4, 8),)])
    curriculum = Curriculum((Stage("only", 1.0, {"a": 1.0}, 16),), 1_000)
    batch = next(DataStream({"a": source}, curriculum, batch_tokens=16, window_tokens=64))
    assert set(batch.tokens_BS[batch.documents_BS != PADDING].tolist()) == set(range(100, 107))


def test_a_source_whose_answers_all_come_too_late_is_an_error() -> None:
    source = MemoryDocuments([range(40)], [((30, 40),)])
    curriculum = Curriculum((Stage("only", 1.0, {"a": 1.0}, 16),), 1_000)
    with pytest.raises(DataError, match="an answer that begins within 16 tokens: raise the sequence length"):
        next(DataStream({"a": source}, curriculum, batch_tokens=16))


@settings(max_examples=25, deadline=None)
@given(
    stops=st.lists(st.integers(0, 70), min_size=1, max_size=3),
    layout=st.sampled_from(["packed", "bucketed"]),
    window=st.sampled_from([48, 200, 5_000]),
    ranks=st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_a_resumed_stream_goes_on_bit_equal(
    stops: list[int], layout: str, window: int, ranks: list[int]
) -> None:
    """Through JSON, in new objects, several times, through stages and lengths, on other numbers of ranks meanwhile."""
    changes: dict[str, Any] = {"layout": layout, "window_tokens": window}
    straight = stream(**changes)
    state = stream(**changes).state()
    for stop, n_ranks in zip(stops, ranks, strict=False):
        parts = [stream(**changes, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
        for part in parts:
            part.resume(json.loads(json.dumps(state)))
        for _ in range(stop):
            next(straight)
            for part in parts:
                next(part)
        state = parts[0].state()
        assert all(part.state() == state for part in parts)
        assert state == straight.state()
    resumed = stream(**changes)
    resumed.resume(json.loads(json.dumps(state)))
    assert resumed.tokens_seen == straight.tokens_seen
    assert all(same(*pair) for pair in zip(take(straight, 8), take(resumed, 8), strict=True))
    assert resumed.state() == straight.state()


def test_a_stream_can_be_put_back() -> None:
    batches = stream()
    take(batches, 5)
    state = batches.state()
    first = take(batches, 20)
    batches.resume(state)
    assert all(same(*pair) for pair in zip(first, take(batches, 20), strict=True))


def test_a_state_does_not_change_while_the_stream_goes_on() -> None:
    batches = stream()
    take(batches, 5)
    state = batches.state()
    text = json.dumps(state)
    take(batches, 50)
    assert json.dumps(state) == text


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.sampled_from(["packed", "bucketed"]))
def test_ranks_share_each_global_batch(n_ranks: int, layout: str) -> None:
    alone = stream(layout=layout)
    parts = [stream(layout=layout, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    for _ in range(40):
        whole, shares = next(alone), [next(part) for part in parts]
        assert len({share.tokens_BS.shape for share in shares}) == 1  # collectives need equal shapes
        assert transitions([whole]) == sum((transitions([share]) for share in shares), Counter())
        assert whole.n_tokens == sum(share.n_tokens for share in shares)
        for row in range(whole.tokens_BS.shape[0]):
            share = shares[row % n_ranks]
            assert torch.equal(share.tokens_BS[row // n_ranks], whole.tokens_BS[row])
        assert all(part.tokens_seen == alone.tokens_seen for part in parts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 2}, "other seed"),
        ({"batch_tokens": 96}, "other batch_tokens"),
        ({"window_tokens": 201}, "other window_tokens"),
        ({"layout": "bucketed"}, "other layout"),
        ({"curriculum": ONE}, "other curriculum, sources"),
    ],
)
def test_another_stream_s_state_is_refused(changes: dict[str, Any], reason: str) -> None:
    batches = stream()
    take(batches, 3)
    other = stream(**changes)
    before = other.state()
    with pytest.raises(StateError, match=f"{reason}: resume with the settings and data"):
        other.resume(batches.state())
    assert other.state() == before


def test_a_state_of_other_data_is_refused() -> None:
    other = DataStream(
        {**SOURCES, "domain": documents(7, [9, 9])}, THREE, batch_tokens=48, seed=1, window_tokens=200
    )
    with pytest.raises(StateError, match="other sources"):
        other.resume(stream().state())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "format None"),
        ({"format": "gainshare.stream/0"}, "this version reads"),
        ({"format": "gainshare.stream/1"}, "other seed, layout"),
    ],
)
def test_what_is_no_state_is_refused(state: dict[str, Any], reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        stream().resume(state)


@pytest.mark.parametrize("damage", [{"window": {"number": 1}}, {"window": 3}, {"tokens": None}])
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    batches = stream()
    take(batches, 3)
    with pytest.raises(StateError, match=r"not a stream's state: .* older checkpoint"):
        batches.resume({**batches.state(), **damage})


def test_a_state_behind_its_window_is_refused() -> None:
    batches = stream()
    take(batches, 3)
    state = json.loads(json.dumps(batches.state()))
    state["window"]["delivered"] = 10_000
    with pytest.raises(StateError, match="beyond its window's end: take an older checkpoint"):
        batches.resume(state)


class Broken:
    """General documents of which one cannot be read while `is_broken` is set."""

    def __init__(self) -> None:
        self.is_broken = True
        self.lengths, self.fingerprint = SOURCES["general"].lengths, SOURCES["general"].fingerprint

    def tokens(self, document: int) -> Any:
        if self.is_broken and document == 3:
            raise DataError("document 3 is damaged")
        return SOURCES["general"].tokens(document)

    def answers(self, document: int) -> tuple[Span, ...]:
        return ()


def test_a_batch_that_failed_has_not_been_delivered() -> None:
    source = Broken()
    batches = DataStream({"general": source}, ONE, batch_tokens=48, seed=1, window_tokens=60)
    whole = stream(ONE, window_tokens=60)
    with pytest.raises(DataError, match="document 3"):
        for _ in range(100):
            state = batches.state()
            assert same(next(batches), next(whole))
    assert batches.state() == state
    with pytest.raises(DataError, match="document 3"):
        next(batches)
    assert batches.state() == state
    source.is_broken = False
    whole.resume(state)
    assert all(same(*pair) for pair in zip(take(batches, 9), take(whole, 9), strict=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_tokens": 16}, "batch_tokens must be at least 24"),
        ({"window_tokens": 40}, "window_tokens must be at least batch_tokens"),
        ({"rank": 2, "n_ranks": 2}, "rank must be at least 0 and below n_ranks"),
        ({"rank": -1}, "rank must be at least 0"),
        ({"layout": "sorted"}, "one of packed, bucketed"),
        (
            {"curriculum": Curriculum((Stage("a", 1.0, {"poems": 1.0, "maps": 1.0}, 8),), 9)},
            "draws from maps, poems: add",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        stream(**changes)


def test_a_source_without_transitions_is_refused() -> None:
    with pytest.raises(DataError, match="'general' has no document of two tokens or more"):
        DataStream({"general": MemoryDocuments([[1], [2]])}, ONE, batch_tokens=48)
    mixed = DataStream({"general": MemoryDocuments([[1], [5, 6]])}, ONE, batch_tokens=48, window_tokens=64)
    assert set(transitions(take(mixed, 3))) == {(5, 6)}


def test_a_stream_is_a_context() -> None:
    with stream() as batches:
        assert next(iter(batches)).n_tokens > 0
