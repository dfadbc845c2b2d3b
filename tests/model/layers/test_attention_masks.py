"""Masks and spans say what their definition says, for every window, past and packing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers.attention.masks import causal_mask, first_seen, span_mask
from tests.model.serving.speculation.plain_decoder import can_see

CPU = torch.device("cpu")

windows = st.one_of(st.none(), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), windows)
def test_queries_sit_at_the_end_of_the_keys(n_queries: int, past: int, window: int | None) -> None:
    mask = causal_mask(n_queries, past + n_queries, window=window, device=CPU)
    expected = [
        [can_see(past + query, key, window, None) for key in range(past + n_queries)]
        for query in range(n_queries)
    ]
    assert mask.tolist() == expected
    assert mask.any(-1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 3), min_size=7, max_size=7), min_size=1, max_size=3), windows)
def test_tokens_see_their_own_document_only(documents: list[list[int]], window: int | None) -> None:
    first_BS = first_seen(7, documents_BS=torch.tensor(documents), window=window, device=CPU)
    assert first_BS is not None and first_BS.dtype is torch.int32 and first_BS.shape == (len(documents), 7)
    mask = span_mask(first_BS)
    assert mask.shape == (len(documents), 1, 7, 7)
    for row, ids in enumerate(documents):
        expected = [[can_see(query, key, window, ids) for key in range(7)] for query in range(7)]
        assert mask[row, 0].tolist() == expected
    assert mask.diagonal(dim1=-2, dim2=-1).all()  # no softmax over nothing


@given(st.integers(1, 20), windows)
def test_sequences_without_documents_see_their_window(n_tokens: int, window: int | None) -> None:
    first_1S = first_seen(n_tokens, window=window, device=CPU)
    assert (first_1S is None) == (window is None or window >= n_tokens)
    if first_1S is not None:
        assert torch.equal(
            span_mask(first_1S)[0, 0], causal_mask(n_tokens, n_tokens, window=window, device=CPU)
        )
