"""Attention masks: causal, sliding window, within documents, and after a cached past.

In whole sequences each position sees a span that ends with itself, so one number describes it: the first position seen.
Masks are boolean, true where a query may attend. None means plainly causal, which attention kernels support without a
mask.

Shape suffixes: B sequences, S positions, Q queries, K keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(n_queries: int, n_keys: int, *, window: int | None = None, device: torch.device) -> Tensor:
    """Mask [Q, K] of queries at the last `n_queries` of `n_keys` positions.

    With `window` a query sees that many keys at most, its own included (Beltagy et al. 2020, arXiv:2004.05150;
    the causal form of Mistral, arXiv:2310.06825).
    """
    past = n_keys - n_queries
    mask_QK = torch.ones((n_queries, n_keys), dtype=torch.bool, device=device).tril(past)
    return mask_QK if window is None else mask_QK.triu(past - window + 1)


def first_seen(
    n_tokens: int, *, documents_BS: Tensor | None = None, window: int | None = None, device: torch.device
) -> Tensor | None:
    """The first position that each position of whole sequences sees, int32 [B, S], or [1, S] if rows are equal.

    None if plainly causal. `documents_BS` are integer ids of documents, one after the other: an id that occurs again
    later in its row is another document. Padding is a document too: every position sees at least itself, so no row of
    the softmax is empty.
    """
    window = None if window is None or window >= n_tokens else window
    if documents_BS is None and window is None:
        return None
    position_S = torch.arange(n_tokens, dtype=torch.int32, device=device)
    first_BS = torch.zeros_like(position_S)[None]
    if documents_BS is not None:
        begins_BS = F.pad(documents_BS[:, 1:] != documents_BS[:, :-1], (1, 0))
        first_BS = (begins_BS * position_S).cummax(1).values
    return first_BS if window is None else first_BS.maximum(position_S - window + 1)


def span_mask(first_BS: Tensor) -> Tensor:
    """Mask [B, 1, S, S] of the spans that begin at `first_BS`, for kernels without spans."""
    position_S = torch.arange(first_BS.shape[1], device=first_BS.device)
    is_behind_BSS = position_S >= first_BS[:, :, None]
    return (is_behind_BSS & (position_S <= position_S[:, None]))[:, None]


def document_lengths(documents_BS: Tensor, positions_BS: Tensor) -> Tensor:
    """Length of each token's document, its largest position plus one, [B, S].

    Documents are as for `first_seen`; `positions_BS` is [B, S] or [S].
    """
    first_BS = first_seen(documents_BS.shape[1], documents_BS=documents_BS, device=documents_BS.device)
    assert first_BS is not None
    first_BS = first_BS.long()
    ends_BS = positions_BS.expand_as(first_BS) + 1
    return torch.zeros_like(first_BS).scatter_reduce(1, first_BS, ends_BS, "amax").gather(1, first_BS)
