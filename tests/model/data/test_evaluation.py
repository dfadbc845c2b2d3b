"""Evaluation batches: every token once, always the same, shared by ranks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.batches.batch import IGNORED, Batch
from model.data.batches.evaluation import evaluation_batches
from tests.model.data.memory_documents import MemoryDocuments

LENGTHS = [2, 9, 40, 17, 1, 3, 25, 8, 61, 5, 12]
DOCUMENTS = MemoryDocuments([range(100 * n, 100 * n + size) for n, size in enumerate(LENGTHS)])
ALL = Counter((100 * n + i, 100 * n + i + 1) for n, size in enumerate(LENGTHS) for i in range(size - 1))


def transitions(batch: Batch) -> Counter[tuple[int, int]]:
    scored = batch.targets_BS != IGNORED
    return Counter(zip(batch.tokens_BS[scored].tolist(), batch.targets_BS[scored].tolist(), strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 70), st.integers(70, 300), st.booleans(), st.integers(1, 3))
def test_every_transition_is_scored_once_on_any_ranks(
    length: int, budget: int, is_packed: bool, n_ranks: int
) -> None:
    ranks = [
        list(
            evaluation_batches(
                DOCUMENTS,
                sequence_length=length,
                batch_tokens=budget,
                is_packed=is_packed,
                rank=rank,
                n_ranks=n_ranks,
            )
        )
        for rank in range(n_ranks)
    ]
    assert sum((transitions(batch) for batches in ranks for batch in batches), Counter()) == ALL
    shapes = [[batch.tokens_BS.shape for batch in batches] for batches in ranks]
    assert all(shape == shapes[0] for shape in shapes)
    assert all(batch.n_cells * n_ranks <= budget + (n_ranks - 1) * 2 * 70 for b in ranks for batch in b)


def test_part_of_the_documents_is_always_the_same_part_and_whole() -> None:
    def documents(max_tokens: int) -> set[int]:
        batches = list(
            evaluation_batches(DOCUMENTS, sequence_length=16, batch_tokens=64, max_tokens=max_tokens)
        )
        scored = sum((transitions(batch) for batch in batches), Counter())
        numbers = {token // 100 for token, _ in scored}
        assert scored.total() == sum(LENGTHS[number] - 1 for number in numbers)
        assert scored.total() >= min(max_tokens, ALL.total())
        return numbers

    assert documents(30) == documents(30) <= documents(80) < documents(10_000)


def test_instructions_are_scored_on_answers_unless_told_otherwise() -> None:
    source = MemoryDocuments([range(10), range(100, 140)], [((6, 10),), ((30, 40),)])

    def scored(mask: str) -> int:
        batches = evaluation_batches(source, sequence_length=16, batch_tokens=16, mask=mask)  # type: ignore[arg-type]
        return sum(batch.n_targets for batch in batches)

    assert scored("answers") == 4  # the second answer begins too late
    assert scored("all") == 9


def test_a_batch_must_hold_a_sequence() -> None:
    with pytest.raises(ValueError, match="at least the sequence length of 16"):
        list(evaluation_batches(DOCUMENTS, sequence_length=16, batch_tokens=15))
