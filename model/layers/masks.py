"""Which keys a query may look at: causal, within a sliding window, within its document, behind a cached past.

Masks are boolean, true where a query may look; None stands for plainly causal, which attention kernels know
without one. Knows nothing of heads, weights or caches.

Shape suffixes: B sequences, S positions, Q queries, K keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(n_queries: int, n_keys: int, *, window: int | None = None, device: torch.device) -> Tensor:
    """Mask [Q, K] of queries that sit at the last `n_queries` of `n_keys` positions.

    With `window` a query sees that many keys at most, its own included (Beltagy et al. 2020, arXiv:2004.05150;
    the causal form of Mistral, arXiv:2310.06825).
    """
    past = n_keys - n_queries
    mask_QK = torch.ones((n_queries, n_keys), dtype=torch.bool, device=device).tril(past)
    return mask_QK if window is None else mask_QK.triu(past - window + 1)


def sequence_mask(
    n_tokens: int, *, documents_BS: Tensor | None = None, window: int | None = None, device: torch.device
) -> Tensor | None:
    """Mask of whole sequences: [S, S], or [B, 1, S, S] where rows hold packed documents; None where plainly causal.

    `documents_BS` are integer ids; a token looks at earlier tokens of its own id only, wherever they lie in the row.
    Padding is a document of its own: every token sees at least itself, so no row of the softmax is empty.
    """
    window = None if window is None or window >= n_tokens else window
    if documents_BS is None:
        return None if window is None else causal_mask(n_tokens, n_tokens, window=window, device=device)
    is_same_B1SS = documents_BS[:, None, :, None] == documents_BS[:, None, None, :]
    return is_same_B1SS & causal_mask(n_tokens, n_tokens, window=window, device=device)
