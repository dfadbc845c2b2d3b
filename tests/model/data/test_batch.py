"""Batches: their shape checks, counts and views, and how they are filled from pieces of documents."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from model.data.batches.assembly import assemble
from model.data.batches.batch import IGNORED, PADDING, Batch
from model.data.batches.drawing import Piece
from tests.model.data.memory_documents import MemoryDocuments

PROSE = MemoryDocuments([[10, 11, 12, 13, 14, 15], [20, 21]])
CHAT = MemoryDocuments([[30, 31, 32, 33, 34, 35]], [((2, 4), (5, 6))])
SOURCES = {"prose": PROSE, "chat": CHAT}


def ids(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_row_holds_pieces_with_their_own_positions_and_documents() -> None:
    row = [Piece("prose", 0, 0, 3), Piece("prose", 1, 0, 1)]
    batch = assemble([row], SOURCES, 6, "all")
    assert torch.equal(batch.tokens_BS, ids([10, 11, 12, 20, 0, 0]))
    assert torch.equal(batch.positions_BS, ids([0, 1, 2, 0, 0, 0]))
    assert torch.equal(batch.documents_BS, ids([0, 0, 0, 1, PADDING, PADDING]))
    assert torch.equal(batch.targets_BS, ids([11, 12, 13, 21, IGNORED, IGNORED]))


def test_the_last_position_of_a_cut_piece_is_scored_on_the_token_behind_it() -> None:
    first, second = Piece("prose", 0, 0, 3), Piece("prose", 0, 3, 2)
    batch = assemble([[first], [second]], SOURCES, 3, "all")
    assert torch.equal(batch.tokens_BS, ids([10, 11, 12], [13, 14, 0]))
    assert torch.equal(batch.positions_BS, ids([0, 1, 2], [0, 1, 0]))
    assert torch.equal(batch.targets_BS, ids([11, 12, 13], [14, 15, IGNORED]))


def test_instructions_are_scored_on_their_answers_only() -> None:
    row = [Piece("chat", 0, 0, 5), Piece("prose", 1, 0, 1)]
    batch = assemble([row], SOURCES, 6, "answers")
    assert torch.equal(batch.targets_BS, ids([IGNORED, 32, 33, IGNORED, 35, 21]))
    everything = assemble([row], SOURCES, 6, "all")
    assert torch.equal(everything.targets_BS, ids([31, 32, 33, 34, 35, 21]))


def test_an_answer_that_begins_before_a_piece_is_scored_from_the_piece_on() -> None:
    batch = assemble([[Piece("chat", 0, 2, 3)]], SOURCES, 3, "answers")
    assert torch.equal(batch.tokens_BS, ids([32, 33, 34]))
    assert torch.equal(batch.targets_BS, ids([33, IGNORED, 35]))


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 4 positions"):
        assemble([[Piece("prose", 0, 0, 5)]], SOURCES, 4, "all")


def test_an_empty_row_is_padding() -> None:
    batch = assemble([[], [Piece("prose", 1, 0, 1)]], SOURCES, 2, "all")
    assert (batch.documents_BS[0] == PADDING).all() and (batch.targets_BS[0] == IGNORED).all()
    assert (batch.n_cells, batch.n_tokens, batch.n_targets) == (4, 1, 1)


def test_padding_adds_nothing_to_the_loss() -> None:
    row = [Piece("prose", 0, 0, 5)]
    narrow, wide = assemble([row], SOURCES, 5, "all"), assemble([row, []], SOURCES, 9, "all")
    logits_V = torch.randn(40, generator=torch.Generator().manual_seed(0))
    losses = [
        F.cross_entropy(logits_V.expand(batch.n_cells, -1), batch.targets_BS.flatten(), reduction="sum")
        for batch in (narrow, wide)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert narrow.n_targets == wide.n_targets == 5


def test_rows_are_views_that_add_up_to_the_batch() -> None:
    batch = assemble([[Piece("prose", 0, 0, 4)], [Piece("prose", 1, 0, 1)], []], SOURCES, 4, "all")
    parts = [batch.rows(0, 2), batch.rows(2, 3)]
    assert [part.tokens_BS.shape[0] for part in parts] == [2, 1]
    assert sum(part.n_targets for part in parts) == batch.n_targets
    parts[0].tokens_BS[0, 0] = 99
    assert batch.tokens_BS[0, 0] == 99


def test_a_batch_moves_as_a_whole() -> None:
    batch = assemble([[Piece("prose", 0, 0, 4)]], SOURCES, 4, "all").to("meta")
    assert {getattr(batch, field.name).device.type for field in dataclasses.fields(batch)} == {"meta"}


@pytest.mark.parametrize("field", ["tokens_BS", "positions_BS", "documents_BS", "targets_BS"])
def test_tensors_that_do_not_belong_together_are_refused(field: str) -> None:
    good = torch.zeros(2, 3, dtype=torch.int64)
    names = [each.name for each in dataclasses.fields(Batch)]
    for bad, reason in ((good.int(), "int64"), (good[0], r"\[B, S\]"), (good[:, :2], "shape")):
        if field == "tokens_BS" and reason == "shape":
            continue  # the others are then the odd ones
        with pytest.raises(ValueError, match=rf"Batch\.{field}.*{reason}"):
            Batch(**{name: bad if name == field else good for name in names})


def test_memory_documents_check_their_answers() -> None:
    with pytest.raises(ValueError, match="are outside of their document of 3 tokens"):
        MemoryDocuments([[1, 2, 3]], [((1, 4),)])
    with pytest.raises(ValueError, match="one entry per document"):
        MemoryDocuments([[1, 2, 3], [1]], [((1, 2),)])


def test_fingerprints_of_memory_documents_tell_ids_and_answers_apart() -> None:
    ids_ = [[1, 2, 3], [4, 5]]
    prints = {
        MemoryDocuments(ids_).fingerprint,
        MemoryDocuments(ids_[::-1]).fingerprint,
        MemoryDocuments([[1, 2], [3, 4, 5]]).fingerprint,
        MemoryDocuments(ids_, [((0, 1),), ()]).fingerprint,
    }
    assert len(prints) == 4
    assert MemoryDocuments([(1, 2, 3), (4, 5)]).fingerprint == MemoryDocuments(ids_).fingerprint


def test_a_batch_is_packed_where_a_row_holds_two_pieces() -> None:
    alone, beside = Piece("prose", 0, 0, 3), Piece("prose", 1, 0, 1)
    assert not assemble([[alone], [beside]], SOURCES, 6, "all").is_packed  # padding is no piece
    assert assemble([[alone], [alone, beside]], SOURCES, 6, "all").is_packed
