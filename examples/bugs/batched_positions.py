"""Reproduction: in a batch, every sequence but the first is turned to wrong positions.

A step over several sequences must give each one the logits that it gets alone. It does not where their pasts have
different lengths. A reproduction is one file with two functions: `observe` runs the stack, `check` never sees it.
"""

from typing import Any

PASTS = ((3, 1, 4, 1, 5, 9, 2, 6), (2, 7), (1, 6, 1, 8, 0))
NEXT = (5, 8, 3)
TOLERANCE = 1e-4  # of the logits, which are about 1; a wrong position moves them by more than 0.01


def observe() -> dict[str, Any]:
    """Logits of the next token of three sequences: each alone, and all in one step."""
    import torch

    from model.presets import PRESETS
    from model.serving.engine.cache import SequenceCache
    from model.transformer import Transformer

    torch.manual_seed(7)
    config = PRESETS["tiny"]
    transformer = Transformer(config).eval()

    def pasts() -> list[SequenceCache]:
        stores = []
        for past in PASTS:
            store = SequenceCache(config, transformer.dtype, transformer.device)
            transformer.step([(store, past)])
            store.advance(len(past))
            stores.append(store)
        return stores

    alone = [transformer.step([(store, [token])])[0] for store, token in zip(pasts(), NEXT, strict=True)]
    together = transformer.step([(store, [token]) for store, token in zip(pasts(), NEXT, strict=True)])
    return {"alone": [row.tolist() for row in alone], "together": together.tolist()}


def check(seen: dict[str, Any]) -> None:
    """Raises AssertionError where a sequence's logits depend on who else is in the batch."""
    for number, (alone, together) in enumerate(zip(seen["alone"], seen["together"], strict=True)):
        apart = max(abs(one - other) for one, other in zip(alone, together, strict=True))
        assert apart < TOLERANCE, f"sequence {number} is off by {apart:.4f} beside others"
